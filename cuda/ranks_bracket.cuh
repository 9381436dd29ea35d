// What a read against a bracket on the device gives a host: counts by chunk, and the candidates in order.
#pragma once

#include "bittersweet/engine/engine.hpp"
#include "chunks.cuh"

namespace bittersweet::cuda {

// What one read against a bracket found.
struct BracketRead {
  BracketReport report{};
  std::vector<ChunkTally> tallies;  // one per chunk, where masks were written
  std::vector<u64> candidates;
  std::uint32_t low_key = 0;
  bool zero_end = false;
};

// Without NaN. `zero_end`: ties at the low end are what lies below it, which is zero.
inline BracketCounts counts_of(const ChunkTally& tally, u32 high, bool zero_end, std::int64_t inside) {
  BracketCounts counts;
  const std::int64_t gone = std::int64_t{tally.live} - tally.kept, low = tally.low;
  counts.below = zero_end ? low : gone - low;
  counts.equal_low = zero_end ? gone - low : low;
  counts.inside = inside;
  counts.equal_high = high;
  counts.above = tally.kept - inside - counts.equal_high;
  return counts;
}

// The candidates of both reads by chunk, in order of index.
inline void place_candidates(const ScoreView& view, std::span<const Chunk> chunks, const BracketRead& lower,
                             const BracketRead& upper, BracketResult& result, Workspace& workspace) {
  std::vector<u64> first_tile, first_chunk;
  u64 tiles = 0;
  for (std::size_t t = 0, c = 0; t < view.tensors.size(); ++t) {
    first_tile.push_back(tiles);
    first_chunk.push_back(c);
    tiles += tiles_of(view.tensors[t].numel);
    while (c < chunks.size() && chunks[c].tensor == t) ++c;
  }
  std::size_t t = 0;
  const auto visit = [&](const BracketRead& read, const auto& f) {  // f(chunk, offset, key)
    for (const u64 candidate : read.candidates) {
      const u64 position = candidate & ((u64{1} << device::position_bits) - 1), tile = position / tile_size;
      if (tile < first_tile[t] || (t + 1 < first_tile.size() && tile >= first_tile[t + 1]))
        t = static_cast<std::size_t>(std::ranges::upper_bound(first_tile, tile) - first_tile.begin()) - 1;
      const u64 index = position - first_tile[t] * tile_size;
      f(first_chunk[t] + index / Chunk::size, index % Chunk::size,
        read.low_key + static_cast<std::uint32_t>(candidate >> device::position_bits));
    }
  };
  for (const BracketRead* read : {&lower, &upper})
    visit(*read, [&](u64 c, u64, std::uint32_t) { ++result.candidates[c].count; });
  std::vector<std::size_t> next;
  std::size_t all = 0;
  for (const Candidates& found : result.candidates) {
    next.push_back(all);
    all += found.count;
  }
  std::vector<u64> placed(all);
  for (const BracketRead* read : {&lower, &upper})
    visit(*read, [&](u64 c, u64 offset, std::uint32_t key) { placed[next[c]++] = offset << 32 | key; });
  auto* const scores = workspace.get<float>(Workspace::first_arena, all);
  auto* const offsets = workspace.get<std::uint16_t>(Workspace::first_arena + 1, all);
  std::size_t at = 0;
  for (Candidates& found : result.candidates) {
    std::sort(placed.begin() + static_cast<std::ptrdiff_t>(at),
              placed.begin() + static_cast<std::ptrdiff_t>(at + found.count));
    found.scores = scores + at;
    found.offsets = offsets + at;
    for (std::uint32_t i = 0; i < found.count; ++i, ++at) {
      scores[at] = score_of(static_cast<std::uint32_t>(placed[at]));
      offsets[at] = static_cast<std::uint16_t>(placed[at] >> 32);
    }
  }
  result.collected = {{scores, all}};
  result.bytes = static_cast<std::int64_t>(all * (sizeof(float) + sizeof(std::uint16_t)));
}

}  // namespace bittersweet::cuda
