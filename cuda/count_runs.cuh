// count_runs: scores of one tensor that equal a value, by the runs of a whole tensor of which it is a box. Element by
// element, exact scores. Neighbours are in one run as a rule: a lane asks for the number of a run, which takes
// divisions, when it meets a tie behind the end of the last one.
#pragma once

#include "verbs.cuh"

namespace bittersweet::cuda {

template <class S>
struct CountRuns {
  static constexpr u32 threads = 256, blocks = 4;
  struct Args {
    S scorer;
    float value;
    u32 tiles;
    Row row;
    RunRange runs;
    std::int64_t* bins;
  };
  struct Shared {};

  // One lane's ties that have not been added yet.
  struct Pending {
    std::int64_t begin = 0, end = 0;  // of the run that was met last
    u64 bin = device::none;
    u32 count = 0;

    BITTERSWEET_DEVICE void add_at(std::int64_t index, const RunRange& runs, std::int64_t* bins) {
      if (index < begin || index >= end) {
        begin = index / runs.map.length * runs.map.length;
        end = begin + runs.map.length;
        const std::int64_t run = runs.map.run_of(index) - runs.first;
        const u64 here = run >= 0 && run < runs.runs ? static_cast<u64>(run / runs.width) : device::none;
        if (here != bin && bin != device::none && count > 0) add(bins + bin, static_cast<std::int64_t>(count));
        if (here != bin) count = 0;
        bin = here;
      }
      ++count;
    }
  };

  static BITTERSWEET_DEVICE void body(const Args& args, Shared&) {
    const Row& row = args.row;
    const u32 lane = lane_id();
    Pending ties;
    for (u64 tile = first_warp(); tile < args.tiles; tile += warps()) {
      const std::int64_t begin = static_cast<std::int64_t>(tile) * tile_size + lane;
      const u32 live = mask_word(row.live, row.numel, static_cast<std::int64_t>(tile) * tile_words + lane);
      constexpr u32 at_once = 4;
      for (u32 j = 0; j < tile_words; j += at_once) {
        u32 equal = 0;
#pragma unroll
        for (u32 i = 0; i < at_once; ++i) {
          const bool there = (__shfl_sync(everyone, live, j + i) >> lane & 1u) != 0;
          const float score = there ? score_any(args.scorer, row, begin + (j + i) * 32) : 0.0f;
          equal |= there && score == args.value ? 1u << i : 0u;
        }
        for (; equal != 0; equal &= equal - 1)
          ties.add_at(row.order.logical_of(begin + (j + static_cast<u32>(__ffs(equal)) - 1) * 32), args.runs,
                      args.bins);
      }
      add_to_bins(args.bins, ties.bin, ties.count);
      ties.count = 0;
    }
  }
};

template <class L>
void count_runs(L& launcher, const Scorer& scorer, const Row& row, float value, const RunRange& runs,
                std::span<std::int64_t> bins) {
  zero(launcher, bins.data(), bins.size_bytes());
  const u32 tiles = tiles_of(row.numel);
  if (tiles == 0) return;
  std::visit(
      [&](const auto& s) {
        using K = CountRuns<std::decay_t<decltype(s)>>;
        launcher.template launch<K>(grid_for<K>((tiles + 7) / 8, launcher.processors()),
                                    {s, value, tiles, row, runs, bins.data()});
      },
      scorer);
}

}  // namespace bittersweet::cuda
