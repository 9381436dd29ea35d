// Sums of one whole block in the fixed lanes that Moments states.
#pragma once

#include <cmath>

#include "bittersweet/engine/summaries.hpp"
#include "cpu/kernels.hpp"
#include "cpu/verbs/ahead.hpp"
#include "cpu/verbs/bits.hpp"

namespace bittersweet {
namespace {

using MomentLanes = double __attribute__((vector_size(8 * BITTERSWEET_LANES)));

// `scores` holds one whole block of Moments::block elements or fewer.
inline void moments_block(const float* scores, const std::uint64_t* live, std::int64_t count, Moments& total,
                          cpu::Ahead& ahead) {
  constexpr int parts = Moments::lanes / lanes;  // vectors that hold the lanes
  MomentLanes sum[parts]{}, squares[parts]{};
  Moments block;
  const auto add = [&](int k, Vec s) {
    const MomentLanes wide = __builtin_convertvector(s.x, MomentLanes);
    sum[k % parts] += wide;
    squares[k % parts] += wide * wide;
  };
  for_each_word(live, count, [&](std::int64_t, std::uint64_t live_bits, std::int64_t index) {
    const auto at = [&](int k) { return load(scores, index + k * lanes); };
    Mask is_finite[vectors_per_word];
    for (int k = 0; k < vectors_per_word; ++k) {
      is_finite[k] = less(abs(at(k)), splat(std::numeric_limits<float>::infinity()));
      if (k % (lanes_of_a_line / lanes) == 0) ask(ahead);
    }
    const std::uint64_t finite = pack(is_finite) & live_bits;
    block.total += bits::count(live_bits);
    block.finite += bits::count(finite);
    if (finite == ~std::uint64_t{0}) {
      for (int k = 0; k < vectors_per_word; ++k) add(k, at(k));
      return;
    }
    Mask is_number[vectors_per_word];
    for (int k = 0; k < vectors_per_word; ++k) {
      is_number[k] = equal(at(k), at(k));
      add(k, where(finite, k, at(k)));
    }
    block.nan += bits::count(~pack(is_number) & live_bits);
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
