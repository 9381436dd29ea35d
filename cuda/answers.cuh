// The selectors beside exact: which kernels look for the answer, and how all of them end alike.
#pragma once

#include "select_histogram.cuh"
#include "select_sampling.cuh"
#include "select_streaming.cuh"

namespace bittersweet::cuda {

// Of all elements, as reads of the inputs.
BITTERSWEET_DEVICE float sampled_share(const SearchContext& s) {
  const SampleSizes sizes = sizes_of(s);
  return static_cast<float>(static_cast<double>(sizes.samples) / static_cast<double>(sizes.total));
}

template <Answers A>
BITTERSWEET_DEVICE Answer answer_of(const SearchContext& s) {
  const Search& search = *s.search;
  Answer answer;
  const std::int64_t rank = wanted_rank(s.step);
  if (rank <= 0) return answer;
  answer.nan = search.nan;
  if constexpr (A == Answers::by_search) {
    const StreamingState& state = search.stream[KeySearch::most_reads - 1];
    return {state.rank, state.value, state.below, state.equal, static_cast<float>(state.reads), answer.nan};
  } else {
    const RadixState& state = search.radix[radix_levels];
    answer.passes = A == Answers::by_sample ? sampled_share(s) : s.passes;
    if (A == Answers::by_sample && search.drawn == 0) {
      answer.passes += radix_levels;
      answer.nan = static_cast<u64>(search.digit_bins[0][nan_bin]);  // all, and none of them twice
    }
    const std::int64_t numbers = static_cast<std::int64_t>(s.step.state->live - answer.nan);
    answer.rank = of_sample(s, A) || rank < numbers ? rank : numbers;
    if (answer.rank <= 0) return answer;
    answer.value = score_of(state.digit.prefix);
    if (of_sample(s, A)) return answer;
    answer.below = state.below;
    answer.equal = state.equal;
    return answer;
  }
}

template <Answers A>
struct PlaceAnswer {
  static constexpr u32 threads = 256, blocks = 1;
  using Args = SearchContext;
  struct Shared {
    FindShared find;
  };

  static BITTERSWEET_DEVICE void body(const Args& s, Shared& shared) {
    Search& search = *s.search;
    if constexpr (A == Answers::by_search) {
      if (threadIdx.x == 0) search.stream[KeySearch::most_reads - 1] = stream_before(s, KeySearch::most_reads);
    } else {
      const RadixState state = digits_before(s, A, radix_levels, shared.find);
      if (threadIdx.x == 0) search.radix[radix_levels] = state;
    }
    if (threadIdx.x == 0) place_answer(s, answer_of<A>(s));
  }
};

template <Answers A>
struct ConcludeAnswer {
  static constexpr u32 threads = 32, blocks = 1;
  using Args = SearchContext;
  struct Shared {};

  static BITTERSWEET_DEVICE void body(const Args& s, Shared&) {
    if (threadIdx.x != 0) return;
    conclude_answer(s, answer_of<A>(s), A == Answers::by_sample ? sample_error(s) : no_number);
  }
};

// `work`: of what the answer is looked for in and the masks are made of.
template <Answers A, class L>
void finish(L& launcher, const Scorer& scorer, const SearchContext& s, const Plan& work) {
  launcher.template launch<PlaceAnswer<A>>(1, s);
  if constexpr (A == Answers::by_sample)
    launcher.template launch<SampleSpread>(
        grid_for<SampleSpread>(static_cast<u64>(s.sizes.lines + 255) / 256, launcher.processors()), s);
  if (s.counted) bracket(launcher, scorer, s.step, work, 0);
  const bool sampled = A == Answers::by_sample && !s.counted;
  if (s.step.ordered) find_nan(launcher, scorer, s.step, work.all, sampled ? &s.search->drawn : nullptr);
  launcher.template launch<ConcludeAnswer<A>>(1, s);
  if (s.step.masks) write_mask(launcher, scorer, s.step, work.all);
}

// From scores to masks and a report. `blocks`: of Moments.
template <class L>
void answer(L& launcher, const Scorer& scorer, const SearchContext& s, Answers answers, const Plan& work,
            const Work& blocks) {
  zero(launcher, s.search, sizeof(Search));
  switch (answers) {
    case Answers::by_digits:
      count_digits(launcher, scorer, s, work.all, answers);
      return finish<Answers::by_digits>(launcher, scorer, s, work);
    case Answers::by_sample:
      sample_scores(launcher, scorer, s);
      count_sampled_digits(launcher, s);
      count_digits(launcher, scorer, s, work.all, answers);
      return finish<Answers::by_sample>(launcher, scorer, s, work);
    case Answers::by_search:
      stream(launcher, scorer, s, work.all, blocks);
      return finish<Answers::by_search>(launcher, scorer, s, work);
  }
}

}  // namespace bittersweet::cuda
