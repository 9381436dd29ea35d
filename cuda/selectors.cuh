// A step by any selector: that of exact (step.cuh), or a search, whose answer all others end with alike.
#pragma once

#include "search_plan.hpp"
#include "select_histogram.cuh"
#include "select_sampling.cuh"
#include "select_streaming.cuh"
#include "step.cuh"

namespace bittersweet::cuda {

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
    answer.passes = s.passes;
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

// `plan`: of what the answer is looked for in and the masks are made of.
template <Answers A, class L>
void finish(L& launcher, const Scorer& scorer, const StepPlan& plan, const SearchContext& s) {
  launcher.template launch<PlaceAnswer<A>>(1, s);
  if constexpr (A == Answers::by_sample)
    launcher.template launch<SampleSpread>(
        grid_for<SampleSpread>(static_cast<u64>(s.lines + 255) / 256, launcher.processors()), s);
  if (s.counted) bracket(launcher, scorer, s.step, plan.work, 0);
  if (s.step.ordered && (s.counted || A != Answers::by_sample)) find_nan(launcher, scorer, s.step, plan.work.all);
  launcher.template launch<ConcludeAnswer<A>>(1, s);
  if (s.step.masks) write_mask(launcher, scorer, s.step, plan.work.all);
}

template <class L>
void enqueue_selected(L& launcher, const Scorer& scorer, const StepPlan& plan) {
  if (std::holds_alternative<Exact>(plan.selector)) return enqueue(launcher, scorer, plan);
  const SearchContext& s = plan.search;
  begin(launcher, plan);
  zero(launcher, s.search, sizeof(Search));
  second_moments(launcher, scorer, plan.context);
  if (std::holds_alternative<Histogram>(plan.selector)) {
    count_digits(launcher, scorer, s, plan.work.all, Answers::by_digits);
    finish<Answers::by_digits>(launcher, scorer, plan, s);
  } else if (std::holds_alternative<KthValue>(plan.selector)) {
    const StepPlan& stored = plan.stored.back();
    write_scores(launcher, scorer, std::span<const Row>(plan.written));
    upload(launcher, stored.context.rows, stored.rows.data(), stored.rows.size() * sizeof(Row));
    upload(launcher, stored.work.all.pieces, stored.pieces.data(), stored.pieces.size() * sizeof(Piece));
    count_digits(launcher, Identity{}, s, stored.work.all, Answers::by_digits);
    finish<Answers::by_digits>(launcher, Identity{}, stored, s);
  } else if (std::holds_alternative<Sampling>(plan.selector)) {
    upload(launcher, s.first_line, plan.first_line.data(), plan.first_line.size() * sizeof(u32));
    sample_scores(launcher, scorer, s);
    count_sampled_digits(launcher, s);
    count_digits(launcher, scorer, s, plan.work.all, Answers::by_sample);
    finish<Answers::by_sample>(launcher, scorer, plan, s);
  } else {
    stream(launcher, scorer, s, plan.work.all, plan.blocks);
    finish<Answers::by_search>(launcher, scorer, plan, s);
  }
  if (!s.step.masks) return;
  apply_mask(launcher, plan.zeros, &s.step.report->status);
  compare_masks(launcher, s.step, (plan.stored.empty() ? plan : plan.stored.back()).work.all);
}

}  // namespace bittersweet::cuda
