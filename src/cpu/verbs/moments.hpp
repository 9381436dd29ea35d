// Sums of one whole block in the fixed lanes that Moments states.
#pragma once

#include <cmath>

#include "bittersweet/engine/summaries.hpp"
#include "cpu/kernels.hpp"
#include "cpu/verbs/bits.hpp"

namespace bittersweet {
namespace {

using MomentLanes = double __attribute__((vector_size(8 * BITTERSWEET_LANES)));

// `scores` holds one whole block of Moments::block elements or fewer.
inline void moments_block(const float* scores, const std::uint64_t* live, std::int64_t count, Moments& total) {
  constexpr int parts = Moments::lanes / lanes;  // vectors that hold the lanes
  MomentLanes sum[parts]{}, squares[parts]{};
  Moments block;
  for_each_word(live, count, [&](std::int64_t, std::uint64_t live_bits, std::int64_t index) {
    Mask is_finite[vectors_per_word], is_number[vectors_per_word];
    for (int k = 0; k < vectors_per_word; ++k) {
      const Vec s = load(scores, index + k * lanes);
      is_finite[k] = less(abs(s), splat(std::numeric_limits<float>::infinity()));
      is_number[k] = equal(s, s);
    }
    const std::uint64_t finite = pack(is_finite) & live_bits;
    block.total += bits::count(live_bits);
    block.nan += bits::count(~pack(is_number) & live_bits);
    block.finite += bits::count(finite);
    for (int k = 0; k < vectors_per_word; ++k) {
      const Vec s = where(finite, k, load(scores, index + k * lanes));
      const MomentLanes wide = __builtin_convertvector(s.x, MomentLanes);
      sum[k % parts] += wide;
      squares[k % parts] += wide * wide;
    }
  });
  std::array<double, Moments::lanes> all;
  std::memcpy(all.data(), sum, sizeof sum);
  block.sum = fold_lanes(all);
  std::memcpy(all.data(), squares, sizeof squares);
  block.sum_of_squares = fold_lanes(all);
  total += block;
}

}  // namespace
}  // namespace bittersweet
