// The k lowest scores of any row, a bit of the key at a time.
#pragma once

#include <algorithm>
#include <limits>

#include "bittersweet/radix_key.hpp"
#include "cpu/kernels.hpp"
#include "cpu/verbs/signed_key.hpp"

namespace bittersweet {
namespace {

// f(vector of scores, accumulator 0..3) for all of them; `count` is a multiple of 64.
template <class F>
BITTERSWEET_INLINE void for_each_vector(const float* scores, std::int64_t count, F&& f) {
  for (std::int64_t i = 0; i < count; i += 4 * lanes)
    for (int j = 0; j < 4; ++j) f(load(scores, i + j * lanes), j);
}

inline std::int64_t count_at_or_below(const float* scores, std::int64_t count, float threshold) {
  const FloatVector t = splat(threshold).x;
  IntVector found[4]{};  // minus the count: a true comparison is -1
  for_each_vector(scores, count, [&](Vec s, int j) { found[j] += s.x <= t; });
  return -sum(found[0] + found[1] + found[2] + found[3]);
}

// Where to cut so that the k lowest of `count` scores go, fewer if fewer are numbers. The buffer is padded with NaN to
// a multiple of 64, and `count` is that multiple. About 16 counts, 32 at most.
inline cpu::Cut cut_by_halving(const float* scores, std::int64_t count, std::int64_t k) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  FloatVector least[4], most[4];
  IntVector found[4]{};
  for (int j = 0; j < 4; ++j) least[j] = splat(infinity).x, most[j] = splat(-infinity).x;
  for_each_vector(scores, count, [&](Vec s, int j) {
    least[j] = s.x < least[j] ? s.x : least[j];
    most[j] = s.x > most[j] ? s.x : most[j];
    found[j] += s.x == s.x;
  });
  k = std::min(k, -sum(found[0] + found[1] + found[2] + found[3]));
  if (k <= 0) return {-infinity, 0};
  float low = infinity, high = -infinity;
  for (int j = 0; j < 4; ++j)
    for (int i = 0; i < lanes; ++i) low = std::min(low, least[j][i]), high = std::max(high, most[j][i]);

  std::uint32_t under = key_of(low) - 1, over = key_of(high);  // fewer than k at or below the first, k at the second
  std::int64_t count_under = 0;
  while (over - under > 1) {
    const std::uint32_t middle = under + (over - under) / 2;
    const std::int64_t at_or_below = count_at_or_below(scores, count, score_of(middle));
    if (at_or_below == k) return {score_of(middle), k};
    if (at_or_below > k) {
      over = middle;
    } else {
      under = middle;
      count_under = at_or_below;
    }
  }
  return {score_of(over), k - count_under};
}

}  // namespace
}  // namespace bittersweet
