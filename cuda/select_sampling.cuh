// sampling: the keys of the CPU's sample, by line or by element, and how its lines part.
#pragma once

#include "search.cuh"

namespace bittersweet::cuda {

BITTERSWEET_DEVICE bool competes(const Row& row, std::int64_t index) {
  return index < row.numel && (row.live == nullptr || (words32(row.live)[index / 32] >> (index % 32) & 1u) != 0);
}

template <class S>
struct SampleScores {
  static constexpr u32 threads = 256, blocks = 4;
  struct Args {
    SearchContext search;
    S scorer;
  };
  struct Shared {};

  // Where in memory sampled place `i` is: the CPU's line_at (summaries.hpp), or sample_position (select/sampling.hpp).
  static BITTERSWEET_DEVICE const Row& place(const SearchContext& s, const SampleSizes& sizes, std::int64_t i,
                                             std::int64_t& index) {
    const Context& c = s.step;
    if (s.by_line) {
      const std::int64_t line = i / LineSample::width;
      const auto random = philox(static_cast<std::uint64_t>(line) / 4, c.seed, Purpose::bracket_sample);
      const u32 number = line % 4 == 0 ? random[0] : line % 4 == 1 ? random[1] : line % 4 == 2 ? random[2] : random[3];
      const std::int64_t at = line_place(sizes.all_lines, sizes.lines, line, number);
      const u32 row = row_of(c.row_count, [&](u32 r) { return s.first_line[r] <= at; });
      index = (at - s.first_line[row]) * LineSample::width + i % LineSample::width;
      return c.rows[row];
    }
    const std::int64_t at = sample_position(i, sizes.total, sizes.samples, c.seed);
    const Row& row = c.rows[row_of(c.row_count, [&](u32 r) { return c.rows[r].offset <= at; })];
    index = row.order.memory_of(at - row.offset);
    return row;
  }

  static BITTERSWEET_DEVICE void body(const Args& args, Shared&) {
    const SearchContext& s = args.search;
    if (wanted_rank(s.step) <= 0) return;
    const SampleSizes sizes = sizes_of(s);
    u64 drawn = 0;
    for (auto i = static_cast<std::int64_t>(first_thread()); i < sizes.samples;
         i += static_cast<std::int64_t>(all_threads())) {
      std::int64_t index = 0;
      const Row& row = place(s, sizes, i, index);
      u32 key = key_of_nan;
      if (competes(row, index)) {
        key = key_of(score_any(args.scorer, row, index));
        note_nan(*s.search, key == key_of_nan, row.offset + row.order.logical_of(index));
        drawn += key != key_of_nan;
      }
      s.step.sample[i] = key;
    }
    add_warp(&s.search->drawn, drawn);
  }
};

struct SampleSpread {
  static constexpr u32 threads = 256, blocks = 4;
  using Args = SearchContext;
  struct Shared {};

  static BITTERSWEET_DEVICE std::int64_t excess(const Args& s, std::int64_t line, u32 upto, double share) {
    const u32 key = s.step.sample[line * LineSample::width + lane_id()];
    const int under = __popc(__ballot_sync(everyone, key <= upto));
    const int drawn = __popc(__ballot_sync(everyone, key != key_of_nan));
    return line_excess(under, drawn, share);
  }

  static BITTERSWEET_DEVICE void body(const Args& s, Shared&) {
    if (!s.by_line || s.search->drawn == 0) return;
    const u32 upto = s.search->radix[radix_levels].digit.prefix;
    const double share = wanted_share(s.step);
    constexpr std::int64_t at_once = 32;
    const std::int64_t lines = sizes_of(s).lines;
    u64 sum = 0;
    for (auto first = static_cast<std::int64_t>(first_warp()) * at_once; first < lines;
         first += static_cast<std::int64_t>(warps()) * at_once) {
      std::int64_t last = excess(s, first > 0 ? first - 1 : 0, upto, share);
      for (std::int64_t line = first; line < first + at_once && line < lines; ++line) {
        const std::int64_t here = excess(s, line, upto, share);
        sum += static_cast<u64>((here - last) * (here - last));
        last = here;
      }
    }
    if (lane_id() == 0 && sum > 0) add(&s.search->spread, sum);
  }
};

// Of the achieved sparsity.
BITTERSWEET_DEVICE double sample_error(const SearchContext& s) {
  const Search& search = *s.search;
  const auto drawn = static_cast<std::int64_t>(search.drawn);
  if (drawn == 0) return no_number;
  const SampleSizes sizes = sizes_of(s);
  return (s.by_line ? line_error(search.spread, sizes.lines, sizes.all_lines, drawn)
                    : element_error(wanted_share(s.step), drawn)) *
         static_cast<double>(s.step.state->live) / static_cast<double>(sizes.total);
}

template <class L>
void sample_scores(L& launcher, const Scorer& scorer, const SearchContext& search) {
  std::visit(
      [&](const auto& s) {
        using K = SampleScores<std::decay_t<decltype(s)>>;
        const u64 blocks = (static_cast<u64>(search.sizes.samples) + K::threads - 1) / K::threads;
        launcher.template launch<K>(grid_for<K>(blocks, launcher.processors()), {search, s});
      },
      scorer);
}

}  // namespace bittersweet::cuda
