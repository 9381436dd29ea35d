// Work by chunks of 65,536 elements (summaries.hpp), as a host asks for it that decides what each of them needs: counts
// against a bracket, and mask words with a budget of ties for each.
//   ChunkBits   counts that a bracket pass has left in mask words and in ties by tile
//   FillChunks  what is live, or nothing
//   KeepBits    single words
// What needs scores is in chunk_scores.cuh.
#pragma once

#include "verbs.cuh"

namespace bittersweet::cuda {

inline constexpr u32 chunk_tiles = static_cast<u32>(Chunk::size / tile_size);

struct ChunkTask {
  u32 row, tile;  // its tensor, and its first tile there
  u32 ties;       // write_chunks: how many go; FillChunks: 1 to keep what is live
};

// By a warp: ties as Context::tile_ties has them.
struct ChunkTally {
  u32 live, kept, low, high;
};

BITTERSWEET_DEVICE u32 tiles_of_chunk(const Row& row, const ChunkTask& task) {
  const u64 left = (static_cast<u64>(row.numel) + tile_size - 1) / tile_size - task.tile;
  return left < chunk_tiles ? static_cast<u32>(left) : chunk_tiles;
}

struct ChunkBits {
  static constexpr u32 threads = 256, blocks = 4;
  struct Args {
    const Row* rows;
    const u32* tile_ties;
    const ChunkTask* tasks;
    u32 count;
    ChunkTally* found;
  };
  struct Shared {};

  static BITTERSWEET_DEVICE void body(const Args& args, Shared&) {
    for (u64 i = first_warp(); i < args.count; i += warps()) {
      const ChunkTask task = args.tasks[i];
      const Row& row = args.rows[task.row];
      const u32 tiles = tiles_of_chunk(row, task);
      u32 live = 0, kept = 0, low = 0, high = 0;
      for (u32 tile = task.tile; tile < task.tile + tiles; ++tile) {
        const std::int64_t word = std::int64_t{tile} * tile_words + lane_id();
        live += __popc(mask_word(row.live, row.numel, word));
        kept += __popc(mask_word(row.next, row.numel, word));
      }
      for (u32 tile = lane_id(); tile < tiles; tile += 32) {
        const u32 ties = args.tile_ties[row.tile + task.tile + tile];
        low += ties & 0xffffu;
        high += ties >> 16;
      }
      const ChunkTally sums{warp_sum32(live), warp_sum32(kept), warp_sum32(low), warp_sum32(high)};
      if (lane_id() == 0) args.found[i] = sums;
    }
  }
};

struct FillChunks {
  static constexpr u32 threads = 256, blocks = 4;
  struct Args {
    const Row* rows;
    const ChunkTask* tasks;
    u32 count;
  };
  struct Shared {};

  static BITTERSWEET_DEVICE void body(const Args& args, Shared&) {
    for (u64 i = first_warp(); i < args.count; i += warps()) {
      const ChunkTask task = args.tasks[i];
      const Row& row = args.rows[task.row];
      for (u32 tile = task.tile; tile < task.tile + tiles_of_chunk(row, task); ++tile) {
        const std::int64_t word = std::int64_t{tile} * tile_words + lane_id();
        store_word(row.next, row.numel, word, task.ties != 0 ? mask_word(row.live, row.numel, word) : 0);
      }
    }
  }
};

struct KeptWord {
  std::uint64_t* word;  // each only once in a launch
  std::uint64_t keep;
};

struct KeepBits {
  static constexpr u32 threads = 256, blocks = 4;
  struct Args {
    const KeptWord* words;
    u64 count;
  };
  struct Shared {};

  static BITTERSWEET_DEVICE void body(const Args& args, Shared&) {
    for (u64 i = first_thread(); i < args.count; i += all_threads()) *args.words[i].word &= args.words[i].keep;
  }
};

struct Tasks {
  const Row* rows;
  const ChunkTask* tasks;
  u32 count;
};

// chunk_scores.cuh
template <class L>
void count_chunks(L& launcher, const Scorer& scorer, const Tasks& tasks, float low, float high, BracketCounts* found);
template <class L>
void write_chunks(L& launcher, const Scorer& scorer, const Tasks& tasks, float threshold, std::uint64_t* nan);

}  // namespace bittersweet::cuda
