// A rank among a few scores that lie in the first cache, as signed keys.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

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

// Where the k-th lowest of some integers lies: fewer than k are at or below `under`, and k or more at or below `over`.
struct RankRange {
  std::int64_t under, over, up_to_under, up_to_over;
};

constexpr int counts_at_once = 4;
using Places = std::array<std::int64_t, counts_at_once>;

// Where to count next: where the k-th would lie if what is inside were spread evenly, a standard deviation to both
// sides of it, and in the middle, so that every pass halves the range.
inline Places places_in(const RankRange& range, std::int64_t k) {
  const auto width = static_cast<double>(range.over - range.under);
  const auto inside = static_cast<double>(range.up_to_over - range.up_to_under);
  const auto even =
      range.under + static_cast<std::int64_t>(width * (static_cast<double>(k - range.up_to_under) - 0.5) / inside);
  const auto near = std::max<std::int64_t>(1, static_cast<std::int64_t>(width / (2 * std::sqrt(inside))));
  return {even - near, even, even + near, range.under + (range.over - range.under) / 2};
}

// Narrows a range of more than one integer until done(range). count(at, found): found[n] = how many are at or below
// at[n].
template <class C, class D>
BITTERSWEET_INLINE void narrow(RankRange& range, std::int64_t k, Places at, C&& count, D&& done) {
  for (; !done(range); at = places_in(range, k)) {
    for (std::int64_t& place : at) place = std::clamp(place, range.under + 1, range.over - 1);
    Places found;
    count(at, found);
    for (int n = 0; n < counts_at_once; ++n) {
      if (found[n] < k && at[n] > range.under) range.under = at[n], range.up_to_under = found[n];
      if (found[n] >= k && at[n] < range.over) range.over = at[n], range.up_to_over = found[n];
    }
  }
}

constexpr std::int32_t no_key = std::numeric_limits<std::int32_t>::max();  // above every number's

// found[n] = how many keys are at or below at[n]. The keys up to a multiple of `lanes` are no_key.
BITTERSWEET_INLINE void count_keys(const std::int32_t* keys, std::int64_t count, const Places& at, Places& found) {
  IntVector t[counts_at_once], sums[counts_at_once]{};  // minus the counts
  for (int n = 0; n < counts_at_once; ++n) t[n] = IntVector{} + static_cast<std::int32_t>(at[n]);
  for (std::int64_t i = 0; i < count; i += lanes) {
    const IntVector own = load_ints(keys, i);
    for (int n = 0; n < counts_at_once; ++n) sums[n] += own <= t[n];
  }
  for (int n = 0; n < counts_at_once; ++n) found[n] = -sum(sums[n]);
}

struct RankedKey {
  std::int32_t key;
  std::int64_t below, equal;  // of the keys, so many are
};

// The lowest key above `under`, at or below which there are `below`.
inline RankedKey next_key(const std::int32_t* keys, std::int64_t count, std::int32_t under, std::int64_t below) {
  const IntVector t = IntVector{} + under, none = IntVector{} + no_key;
  IntVector least = none;
  for (std::int64_t i = 0; i < count; i += lanes) {
    const IntVector own = load_ints(keys, i), above = own > t ? own : none;
    least = above < least ? above : least;
  }
#if BITTERSWEET_LANES == 16
  const std::int32_t key = _mm512_reduce_min_epi32(reinterpret_cast<__m512i>(least));
#else
  std::int32_t key = no_key;
  for (int i = 0; i < lanes; ++i) key = std::min<std::int32_t>(key, least[i]);
#endif
  IntVector same{};
  for (std::int64_t i = 0; i < count; i += lanes) same += load_ints(keys, i) == key;
  return {key, below, -sum(same)};
}

// The rank-th lowest of `count` keys, 1-based, all of them within the bounds; pads them.
inline RankedKey ranked_key(std::int32_t* keys, std::int64_t count, std::int64_t rank, std::int32_t lowest,
                            std::int32_t highest) {
  for (std::int64_t i = count; i % lanes != 0; ++i) keys[i] = no_key;
  RankRange range{std::int64_t{lowest} - 1, highest, 0, count};
  narrow(
      range, rank, places_in(range, rank), [&](const Places& at, Places& found) { count_keys(keys, count, at, found); },
      [&](const RankRange& r) { return r.up_to_under + 1 >= rank || r.over - r.under <= 1; });
  return next_key(keys, count, static_cast<std::int32_t>(range.under), range.up_to_under);
}

}  // namespace
}  // namespace bittersweet
