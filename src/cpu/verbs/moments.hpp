// Sums of one whole block in the fixed lanes that Moments states.
#pragma once

#include <cmath>

#include "bittersweet/engine/summaries.hpp"
#include "cpu/verbs/scored.hpp"

namespace bittersweet {
namespace {

using MomentLanes = double __attribute__((vector_size(8 * BITTERSWEET_LANES)));

// Sums of a block so far.
struct BlockSums {
  static constexpr int parts = Moments::lanes / lanes;  // vectors that hold the lanes
  MomentLanes sum[parts]{}, squares[parts]{};

  BITTERSWEET_INLINE void add(Moments& block, std::uint64_t live, const WordOfScores& scores) {
    Mask is_finite[vectors_per_word];
    for (int k = 0; k < vectors_per_word; ++k)
      is_finite[k] = less(abs(scores[k]), splat(std::numeric_limits<float>::infinity()));
    const std::uint64_t finite = pack(is_finite) & live;
    block.total += bits::count(live);
    block.finite += bits::count(finite);
    if (finite == ~std::uint64_t{0}) {
      for (int k = 0; k < vectors_per_word; ++k) add(k, scores[k]);
      return;
    }
    Mask is_number[vectors_per_word];
    for (int k = 0; k < vectors_per_word; ++k) {
      is_number[k] = equal(scores[k], scores[k]);
      add(k, where(finite, k, scores[k]));
    }
    block.nan += bits::count(~pack(is_number) & live);
  }
  void put(Moments& block) const {
    std::array<double, Moments::lanes> all;
    std::memcpy(all.data(), sum, sizeof sum);
    block.sum += fold_lanes(all);
    std::memcpy(all.data(), squares, sizeof squares);
    block.sum_of_squares += fold_lanes(all);
  }

 private:
  BITTERSWEET_INLINE void add(int k, Vec s) {
    const MomentLanes wide = __builtin_convertvector(s.x, MomentLanes);
    sum[k % parts] += wide;
    squares[k % parts] += wide * wide;
  }
};

// Of the blocks of a tile, each of Moments::block elements but the last.
template <class S, std::size_t St>
void moments_of_blocks(const Scorer& scorer, const cpu::TileInput& in, const std::uint64_t* live, std::int64_t count,
                       Moments* blocks) {
  constexpr std::int64_t together = parts_of<S>();
  for (std::int64_t first = 0, size = 0, n = 0; first < count; first += n * size, blocks += n) {
    size = std::min(Moments::block, count - first);
    n = std::clamp<std::int64_t>((count - first) / size, 1, together);
    cpu::TileInput tile[together];
    const std::uint64_t* alive[together];
    BlockSums sums[together];
    for (std::int64_t b = 0; b < n; ++b) {
      const std::int64_t word = (first + b * size) / bits::per_word;
      tile[b] = from_word<S, StoredType<St>>(in, word);
      alive[b] = live ? live + word : nullptr;
    }
    const SideBySide all[] = {{tile, alive, n, size, cpu::asked_ahead()}};
    for_each_scored_word<S, StoredType<St>>(
        scorer, all, [&](std::size_t, std::int64_t b, std::int64_t, std::uint64_t on, const WordOfScores& scores) {
          sums[b].add(blocks[b], on, scores);
        });
    for (std::int64_t b = 0; b < n; ++b) sums[b].put(blocks[b]);
  }
}

}  // namespace
}  // namespace bittersweet
