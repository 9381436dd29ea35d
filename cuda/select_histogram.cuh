// histogram, kthvalue and the last part of sampling: radix digits of 11, 11 and 10 bits, of scores computed anew in
// every pass or of stored keys. A pass derives the prefix that it looks at from the counts of the pass before it.
#pragma once

#include "scores.cuh"
#include "search.cuh"

namespace bittersweet::cuda {

struct DigitShared {
  FindShared find;
  u32 bin[2][device::bins];  // by turns of lanes: increments of one bin wait for each other
};

BITTERSWEET_DEVICE void clear_digit(DigitShared& shared) {
  for (u32 b = threadIdx.x; b < device::bins; b += blockDim.x) shared.bin[0][b] = shared.bin[1][b] = 0;
  __syncthreads();
}

BITTERSWEET_DEVICE void merge_digit(const DigitShared& shared, std::int64_t* bins) {
  __syncthreads();
  for (u32 b = threadIdx.x; b < device::bins; b += blockDim.x)
    if (const u32 count = shared.bin[0][b] + shared.bin[1][b]; count != 0) add(bins + b, std::int64_t{count});
}

// Are the digits those of a sample? They are of all scores where the sample drew no number at all.
BITTERSWEET_DEVICE bool of_sample(const SearchContext& s, Answers answers) {
  return answers == Answers::by_sample && s.search->drawn > 0;
}

// What is known before pass `level`, for a whole block; a rank of 0: there is nothing to find.
BITTERSWEET_DEVICE RadixState digits_before(const SearchContext& s, Answers answers, int level, FindShared& shared) {
  const Search& search = *s.search;
  RadixState state;
  if (level <= 1) {
    state.digit.digit_bits = device::digit_bits;
    state.rank = wanted_rank(s.step);
    if (state.rank > 0 && of_sample(s, answers))
      state.rank = sample_rank(wanted_share(s.step), static_cast<std::int64_t>(search.drawn));
    if (level == 1) {  // NaN are set aside
      const std::int64_t numbers = of_sample(s, answers)
                                       ? static_cast<std::int64_t>(search.drawn)
                                       : static_cast<std::int64_t>(s.step.state->live) - search.digit_bins[0][nan_bin];
      if (state.rank > numbers) state.rank = numbers;
    }
  } else {
    state = search.radix[level - 1];
  }
  if (level == 0 || state.rank <= 0) return state;
  const std::int64_t* const bins = search.digit_bins[level - 1];
  const auto count_at = [&](u64 b) { return level == 1 && b == nan_bin ? u64{0} : static_cast<u64>(bins[b]); };
  const u64 order = static_cast<u64>(state.rank);
  state = next_digit(state, find_bin(u64{1} << state.digit.digit_bits, count_at, [&](u64) { return order; }, shared));
  state.digit.digit_bits = state.digit.prefix_bits + device::digit_bits <= 32 ? device::digit_bits : 10;
  return state;
}

template <class S>
struct DigitPass {
  static constexpr u32 threads = 256, blocks = 4;
  struct Args {
    SearchContext search;
    Work work;
    S scorer;
    Answers answers;
    int level;
  };
  using Shared = DigitShared;

  static BITTERSWEET_DEVICE void body(const Args& args, Shared& shared) {
    Search& search = *args.search.search;
    if (of_sample(args.search, args.answers)) return;
    const RadixState state = digits_before(args.search, args.answers, args.level, shared.find);
    if (blockIdx.x == 0 && threadIdx.x == 0) search.radix[args.level] = state;
    if (state.rank <= 0) return;
    const Digit digit = state.digit;
    clear_digit(shared);
    u32* const bins = shared.bin[lane_id() % 2];
    u32 zeros = 0;
    for_each_tile(args.work, [&](const Row& row, u32, u32 tile) {
      for_each_score(args.scorer, row, tile, [&](std::int64_t index, bool there, float score) {
        const u32 key = key_of(score);
        if (args.level == 0) note_nan(search, there && key == key_of_nan, row.offset + index);
        if (!there || !digit.matches(key)) return;
        if (key == key_of_zero)
          ++zeros;
        else
          atomicAdd(bins + digit.bin(key), 1u);
      });
    });
    if (zeros > 0) atomicAdd(bins + digit.bin(key_of_zero), zeros);
    merge_digit(shared, search.digit_bins[args.level]);
  }
};

struct SampledDigit {  // the same of sampled keys, where some are numbers
  static constexpr u32 threads = 256, blocks = 4;
  struct Args {
    SearchContext search;
    int level;
  };
  using Shared = DigitShared;

  static BITTERSWEET_DEVICE void body(const Args& args, Shared& shared) {
    const SearchContext& s = args.search;
    if (!of_sample(s, Answers::by_sample)) return;
    const RadixState state = digits_before(s, Answers::by_sample, args.level, shared.find);
    if (blockIdx.x == 0 && threadIdx.x == 0) s.search->radix[args.level] = state;
    if (state.rank <= 0) return;
    clear_digit(shared);
    u32* const bins = shared.bin[lane_id() % 2];
    const auto samples = static_cast<u64>(sizes_of(s).samples);
    for (u64 i = first_thread(); i < samples; i += all_threads()) {
      const u32 key = s.step.sample[i];
      if (key != key_of_nan && state.digit.matches(key)) atomicAdd(bins + state.digit.bin(key), 1u);
    }
    merge_digit(shared, s.search->digit_bins[args.level]);
  }
};

template <class L>
void count_digits(L& launcher, const Scorer& scorer, const SearchContext& search, const Work& work, Answers answers) {
  std::visit(
      [&](const auto& s) {
        using K = DigitPass<std::decay_t<decltype(s)>>;
        for (int level = 0; level < radix_levels; ++level)
          launcher.template launch<K>(grid_for<K>((work.tiles + 7) / 8, launcher.processors()),
                                      {search, work, s, answers, level});
      },
      scorer);
}

template <class L>
void count_sampled_digits(L& launcher, const SearchContext& search) {
  const u64 blocks = (static_cast<u64>(search.sizes.samples) + 2047) / 2048;
  for (int level = 0; level < radix_levels; ++level)
    launcher.template launch<SampledDigit>(grid_for<SampledDigit>(blocks, launcher.processors()), {search, level});
}

}  // namespace bittersweet::cuda
