// Groups that lie one after another, turned so that each has a lane.
#pragma once

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

// Element j of group g, from[g * size + j], to to[64 * j + g], for 64 groups. A vector more than they are may be read.
inline void turn_groups(const float* from, std::int64_t size, float* to) {
  for (std::int64_t g = 0; g < 64; g += lanes)
    for (std::int64_t next = 0; next < size; next += lanes) {
      // The last square may overlap the one before, or the groups behind.
      const std::int64_t j = std::max<std::int64_t>(std::min(next, size - lanes), 0);
      IntVector rows[lanes];
      for (int i = 0; i < lanes; ++i) std::memcpy(&rows[i], from + (g + i) * size + j, sizeof rows[i]);
      turn_square<lanes / 2>(rows);
      const std::int64_t inputs = std::min<std::int64_t>(size, lanes);
      for (std::int64_t i = 0; i < inputs; ++i) std::memcpy(to + 64 * (j + i) + g, &rows[i], sizeof rows[i]);
    }
}

}  // namespace
}  // namespace bittersweet
