// Groups that lie one after another, turned so that each has a lane.
#pragma once

#include <algorithm>
#include <cstring>
#include <utility>

#include "cpu/simd.hpp"

namespace bittersweet {
namespace {

// Lanes of a and b of which those with bit Step of their number change places: of a where it is set, of b where not.
template <int Step, int... Lane>
BITTERSWEET_INLINE void swap_lanes(IntVector& a, IntVector& b, std::integer_sequence<int, Lane...>) {
  const IntVector low = __builtin_shufflevector(a, b, (Lane & Step ? lanes + Lane - Step : Lane)...);
  b = __builtin_shufflevector(a, b, (Lane & Step ? lanes + Lane : Lane + Step)...);
  a = low;
}

template <int Step>
BITTERSWEET_INLINE void turn_square(IntVector (&rows)[lanes]) {
  for (int i = 0; i < lanes; ++i)
    if (!(i & Step)) swap_lanes<Step>(rows[i], rows[i + Step], std::make_integer_sequence<int, lanes>{});
  if constexpr (Step > 1) turn_square<Step / 2>(rows);
}

// Squares of groups of `size` that lie one after another, from the g-th group's j-th element on: f(g, j). The last
// square may overlap the one before, or reach into the groups behind.
template <int Side, class F>
BITTERSWEET_INLINE void for_each_square(std::int64_t size, F&& f) {
  for (std::int64_t g = 0; g < 64; g += Side)
    for (std::int64_t next = 0; next < size; next += Side) f(g, std::max<std::int64_t>(std::min(next, size - Side), 0));
}

// Element j of group g, from[g * size + j], to to[64 * j + g], for 64 groups. A vector more than they are may be read.
inline void turn_groups(const float* from, std::int64_t size, float* to) {
  for_each_square<lanes>(size, [&](std::int64_t g, std::int64_t j) {
    IntVector rows[lanes];
    BITTERSWEET_UNROLLED
    for (int i = 0; i < lanes; ++i) rows[i] = as_bits(load(from, (g + i) * size + j));
    turn_square<lanes / 2>(rows);
    const std::int64_t inputs = std::min<std::int64_t>(size, lanes);
    if (inputs < lanes) {
      for (std::int64_t i = 0; i < inputs; ++i) store(to, 64 * (j + i) + g, as_floats(rows[i]));
      return;
    }
    BITTERSWEET_UNROLLED
    for (int i = 0; i < lanes; ++i) store(to, 64 * (j + i) + g, as_floats(rows[i]));
  });
}

using OctetVector = std::int16_t __attribute__((vector_size(16)));

// Three times the first four are shuffled into the last four.
BITTERSWEET_INLINE void turn_octets(OctetVector (&rows)[8]) {
  for (int stage = 0; stage < 3; ++stage) {
    OctetVector next[8];
    BITTERSWEET_UNROLLED
    for (int i = 0; i < 4; ++i) {
      const OctetVector a = rows[i], b = rows[i + 4];
      next[2 * i] = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
      next[2 * i + 1] = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
    }
    BITTERSWEET_UNROLLED
    for (int i = 0; i < 8; ++i) rows[i] = next[i];
  }
}

// The same of 16-bit elements, of groups of 8 or more, to vectors of lanes each of which lies in a row of its own.
inline void turn_halves(const std::int16_t* from, std::int64_t size, std::int16_t* to) {
  for_each_square<8>(size, [&](std::int64_t g, std::int64_t j) {
    OctetVector rows[8];
    BITTERSWEET_UNROLLED
    for (int i = 0; i < 8; ++i) std::memcpy(&rows[i], from + (g + i) * size + j, sizeof rows[i]);
    turn_octets(rows);
    std::int16_t* const own = to + g / short_lanes * size * short_lanes + g % short_lanes;
    BITTERSWEET_UNROLLED
    for (int i = 0; i < 8; ++i) std::memcpy(own + (j + i) * short_lanes, &rows[i], sizeof rows[i]);
  });
}

}  // namespace
}  // namespace bittersweet
