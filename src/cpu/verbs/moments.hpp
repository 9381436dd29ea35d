// Sums of one whole block in the fixed lanes that Moments states.
#pragma once

#include <cmath>

#include "bittersweet/engine/summaries.hpp"
#include "cpu/kernels.hpp"
#include "cpu/verbs/bits.hpp"

namespace bittersweet {
namespace {

// `scores` holds one whole block of Moments::block elements or fewer.
inline void moments_block(const float* scores, const std::uint64_t* live, std::int64_t count, Moments& total) {
  std::array<double, Moments::lanes> sum{}, squares{};
  Moments block;
  for_each_word(live, count, [&](std::int64_t, std::uint64_t live_bits, std::int64_t index) {
    Mask is_finite[vectors_per_word];
    for (int k = 0; k < vectors_per_word; ++k)
      is_finite[k] = less(abs(load(scores, index + k * lanes)), splat(std::numeric_limits<float>::infinity()));
    const std::uint64_t finite = pack(is_finite) & live_bits;
    block.total += bits::count(live_bits);
    block.nan += bits::count(compare(scores + index, 0.0f).nan & live_bits);
    block.finite += bits::count(finite);
    for (std::int64_t base = 0; base < bits::per_word; base += Moments::lanes)
      for (std::int64_t lane = 0; lane < Moments::lanes; ++lane) {
        const bool use = bits::get(&finite, base + lane);
        const double s = use ? static_cast<double>(scores[index + base + lane]) : 0.0;
        sum[static_cast<std::size_t>(lane)] += s;
        squares[static_cast<std::size_t>(lane)] += s * s;
      }
  });
  block.sum = fold_lanes(sum);
  block.sum_of_squares = fold_lanes(squares);
  total += block;
}

}  // namespace
}  // namespace bittersweet
