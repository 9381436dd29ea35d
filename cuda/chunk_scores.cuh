// Work by chunks that reads scores (chunks.cuh):
//   CountChunks  counts against a bracket, NaN among them
//   WriteChunks  keep = live and not below the threshold, and not one of the first ties
#pragma once

#include "bracket_any.cuh"
#include "chunks.cuh"
#include "scores.cuh"

namespace bittersweet::cuda {

template <class S>
struct CountChunks {
  static constexpr u32 threads = 256, blocks = 3;
  struct Args {
    const Row* rows;
    const ChunkTask* tasks;
    u32 count;
    float low, high;
    BracketCounts* found;
    S scorer;
  };
  struct Shared {};

  static BITTERSWEET_DEVICE void body(const Args& args, Shared&) {
    for (u64 i = first_warp(); i < args.count; i += warps()) {
      const ChunkTask task = args.tasks[i];
      const Row& row = args.rows[task.row];
      u32 below = 0, low = 0, inside = 0, high = 0, nan = 0, all = 0;
      for (u32 tile = task.tile; tile < task.tile + tiles_of_chunk(row, task); ++tile)
        for_each_score(args.scorer, row, tile, [&](std::int64_t, bool there, float score) {
          const Verdict verdict = judge(score, args.low, args.high, there);
          below += verdict.below;
          low += verdict.low;
          inside += verdict.inside;
          high += verdict.high;
          nan += verdict.nan;
          all += there;
        });
      BracketCounts sums;
      sums.below = warp_sum32(below);
      sums.equal_low = warp_sum32(low);
      sums.inside = warp_sum32(inside);
      sums.equal_high = warp_sum32(high);
      sums.nan = warp_sum32(nan);
      sums.above = warp_sum32(all) - (sums.below + sums.equal_low + sums.inside + sums.equal_high + sums.nan);
      if (lane_id() == 0) args.found[i] = sums;
    }
  }
};

// A block takes a chunk: each of its warps a tile at a time, and ties go in order of memory.
template <class S>
struct WriteChunks {
  static constexpr u32 threads = 256, blocks = 3;
  static constexpr u32 at_once = threads / 32;
  struct Args {
    const Row* rows;
    const ChunkTask* tasks;
    u32 count;
    float threshold;
    std::uint64_t* nan;
    S scorer;
  };
  struct Shared {
    u32 ties[at_once];
  };

  static BITTERSWEET_DEVICE void body(const Args& args, Shared& shared) {
    const u32 lane = lane_id();
    u64 nan = 0;
    for (u32 i = blockIdx.x; i < args.count; i += gridDim.x) {
      const ChunkTask task = args.tasks[i];
      const Row& row = args.rows[task.row];
      const u32 tiles = tiles_of_chunk(row, task);
      u32 left = task.ties;  // for this warp's next tile and those beside it
      for (u32 first = 0; first < tiles; first += at_once) {
        const bool mine = first + warp_id() < tiles;
        const std::int64_t tile = task.tile + first + warp_id(), word = tile * tile_words + lane;
        const u32 live = mine ? mask_word(row.live, row.numel, word) : 0;
        u32 keep = 0, equal = 0;
        for (u32 j = 0; mine && j < tile_words; ++j) {
          const bool there = (__shfl_sync(everyone, live, j) >> lane & 1u) != 0;
          const float score = there ? score_any(args.scorer, row, tile * tile_size + j * 32 + lane) : 0.0f;
          const u32 kept = __ballot_sync(everyone, there && !(score < args.threshold));
          const u32 same = __ballot_sync(everyone, there && score == args.threshold);
          nan += there && score != score;
          if (lane == j) keep = kept, equal = same;
        }
        const u32 ties = static_cast<u32>(__popc(equal)), all = warp_sum32(ties);
        __syncthreads();  // the last look at `shared` is over
        if (lane == 0) shared.ties[warp_id()] = all;
        __syncthreads();
        u32 before = 0, together = 0;
        for (u32 w = 0; w < at_once; ++w) {
          if (w < warp_id()) before += shared.ties[w];
          together += shared.ties[w];
        }
        u32 upto = ties;  // of this lane's word and those before it
        for (u32 step = 1; step < 32; step *= 2) {
          const u32 other = __shfl_up_sync(everyone, upto, step);
          if (lane >= step) upto += other;
        }
        before += upto - ties;
        u32 go = before >= left ? 0 : left - before < ties ? left - before : ties;
        for (; go > 0; --go) {
          const u32 lowest = equal & (0u - equal);
          keep &= ~lowest;
          equal &= ~lowest;
        }
        if (mine) store_word(row.next, row.numel, word, keep);
        left -= left < together ? left : together;
      }
    }
    add_warp(args.nan, nan);
  }
};

template <class L>
void count_chunks(L& launcher, const Scorer& scorer, const Tasks& tasks, float low, float high, BracketCounts* found) {
  std::visit(
      [&](const auto& s) {
        using K = CountChunks<std::decay_t<decltype(s)>>;
        launcher.template launch<K>(grid_for<K>((tasks.count + 7) / 8, launcher.processors()),
                                    {tasks.rows, tasks.tasks, tasks.count, low, high, found, s});
      },
      scorer);
}

template <class L>
void write_chunks(L& launcher, const Scorer& scorer, const Tasks& tasks, float threshold, std::uint64_t* nan) {
  std::visit(
      [&](const auto& s) {
        using K = WriteChunks<std::decay_t<decltype(s)>>;
        launcher.template launch<K>(grid_for<K>(tasks.count, launcher.processors()),
                                    {tasks.rows, tasks.tasks, tasks.count, threshold, nan, s});
      },
      scorer);
}

}  // namespace bittersweet::cuda
