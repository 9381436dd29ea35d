// A rank among a few scores that lie in the first cache, as signed keys.
#pragma once

#include <algorithm>
#include <limits>

#include "bittersweet/engine/summaries.hpp"
#include "cpu/verbs/signed_key.hpp"

namespace bittersweet {
namespace {

BITTERSWEET_INLINE IntVector load_ints(const std::int32_t* data, std::int64_t index) {
  IntVector a;
  std::memcpy(&a, data + index, sizeof a);
  return a;
}

BITTERSWEET_INLINE void store_ints(std::int32_t* data, std::int64_t index, IntVector a) {
  std::memcpy(data + index, &a, sizeof a);
}

constexpr std::int32_t no_key = std::numeric_limits<std::int32_t>::max();  // above every number's

// The keys up to a multiple of `lanes` are no_key.
inline std::int64_t count_up_to(const std::int32_t* keys, std::int64_t count, std::int32_t key) {
  const IntVector t = IntVector{} + key;
  IntVector found{};  // minus the count
  for (std::int64_t i = 0; i < count; i += lanes) found += load_ints(keys, i) <= t;
  return -sum(found);
}

inline std::int32_t lowest_above(const std::int32_t* keys, std::int64_t count, std::int32_t key) {
  const IntVector t = IntVector{} + key, none = IntVector{} + no_key;
  IntVector least = none;
  for (std::int64_t i = 0; i < count; i += lanes) {
    const IntVector own = load_ints(keys, i), above = own > t ? own : none;
    least = above < least ? above : least;
  }
#if BITTERSWEET_LANES == 16
  return _mm512_reduce_min_epi32(reinterpret_cast<__m512i>(least));
#else
  std::int32_t found = no_key;
  for (int i = 0; i < lanes; ++i) found = std::min<std::int32_t>(found, least[i]);
  return found;
#endif
}

struct RankedKey {
  std::int32_t key;
  std::int64_t below, equal;  // of the keys, so many are
};

// The rank-th lowest of `count` keys, 1-based, all of them within the bounds; pads them. Guesses lie where it would be
// if the rest were spread evenly, and in the middle after one that left more than half.
inline RankedKey ranked_key(std::int32_t* keys, std::int64_t count, std::int64_t rank, std::int32_t lowest,
                            std::int32_t highest) {
  for (std::int64_t i = count; i % lanes != 0; ++i) keys[i] = no_key;
  std::int64_t under = std::int64_t{lowest} - 1, over = highest, up_to_under = 0, up_to_over = count;
  bool middle = false;
  while (up_to_under + 1 < rank && over - under > 1) {
    const double share =
        (static_cast<double>(rank - up_to_under) - 0.5) / static_cast<double>(up_to_over - up_to_under);
    const std::int64_t width = over - under;
    const std::int64_t step = middle ? width / 2 : static_cast<std::int64_t>(static_cast<double>(width) * share);
    const std::int64_t at = std::clamp(under + step, under + 1, over - 1);
    const std::int64_t found = count_up_to(keys, count, static_cast<std::int32_t>(at));
    if (found < rank)
      under = at, up_to_under = found;
    else
      over = at, up_to_over = found;
    middle = !middle && over - under > width / 2;
  }
  const std::int32_t key = lowest_above(keys, count, static_cast<std::int32_t>(under));
  return {key, up_to_under, count_up_to(keys, count, key) - up_to_under};
}

// The rank-th lowest of `count` scores, numbers of which none lies outside the bracket. `keys`: room for as many, and
// 64 more.
inline float ranked_score(const float* scores, std::int64_t count, std::int64_t rank, const Bracket& bracket,
                          std::int32_t* keys) {
  for (std::int64_t i = 0; i < count; i += lanes) store_ints(keys, i, signed_key(load(scores, i)));
  return score_of_signed(ranked_key(keys, count, rank, signed_key(bracket.low), signed_key(bracket.high)).key);
}

}  // namespace
}  // namespace bittersweet
