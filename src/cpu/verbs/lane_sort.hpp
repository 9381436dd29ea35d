// Where short groups that lie side by side, one a lane, are cut: two parts of each are sorted by Batcher's odd-even
// merges, and the k-th of two sorted lists is the least of the larger ones of their i-th and (k - i)-th.
#pragma once

#include <algorithm>

#include "cpu/verbs/lane_cuts.hpp"
#include "cpu/verbs/lane_few.hpp"

namespace bittersweet {
namespace {

// Longer groups are cut by counting sooner.
constexpr std::int64_t sorted_lanes = 128;

constexpr int octet = 8;
constexpr std::int16_t above_all = std::numeric_limits<std::int16_t>::max();

BITTERSWEET_INLINE void in_order(ShortVector& a, ShortVector& b) {
  const ShortVector low = lower(a, b);
  b = higher(a, b);
  a = low;
}

// Two sorted runs that follow one another.
template <int Run>
BITTERSWEET_INLINE void merge_runs(ShortVector* a) {
  BITTERSWEET_UNROLLED
  for (int i = 0; i < Run; ++i) in_order(a[i], a[Run + i]);
  BITTERSWEET_UNROLLED
  for (int step = Run / 2; step > 0; step /= 2) {
    BITTERSWEET_UNROLLED
    for (int first = step; first + step < 2 * Run; first += 2 * step) {
      BITTERSWEET_UNROLLED
      for (int i = first; i < first + step; ++i) in_order(a[i], a[i + step]);
    }
  }
}

// Eight halves a lane, of which `count` are there; the others are above all.
BITTERSWEET_INLINE void sort_eight(const std::int16_t* from, std::int64_t count, ShortVector* to) {
  ShortVector a[octet];
  BITTERSWEET_UNROLLED
  for (int i = 0; i < octet; ++i) a[i] = i < count ? load_shorts(from, i * short_lanes) : ShortVector{} + above_all;
  BITTERSWEET_UNROLLED
  for (int i = 0; i < octet; i += 2) merge_runs<1>(a + i);
  merge_runs<2>(a);
  merge_runs<2>(a + 4);
  merge_runs<4>(a);
  BITTERSWEET_UNROLLED
  for (int i = 0; i < octet; ++i) to[i] = a[i];
}

// Half of sorted_lanes at most, and what is above all up to the next power of two from 8 on.
__attribute__((noinline)) inline void sort_halves(const std::int16_t* from, std::int64_t count, ShortVector* to) {
  const std::int64_t whole = count / octet * octet;
  std::int64_t padded = octet;
  while (padded < count) padded *= 2;
  for (std::int64_t i = 0; i < whole; i += octet) sort_eight(from + i * short_lanes, octet, to + i);
  for (std::int64_t i = whole; i < padded; i += octet) sort_eight(from + i * short_lanes, count - i, to + i);
  for (std::int64_t i = 0; i + octet < padded; i += 2 * octet) merge_runs<octet>(to + i);
  for (std::int64_t i = 0; i + 2 * octet < padded; i += 4 * octet) merge_runs<2 * octet>(to + i);
  if (padded == 8 * octet) merge_runs<4 * octet>(to);
}

// The k-th lowest, 1-based, of two sorted lists; the half of the dead for k = 0.
BITTERSWEET_INLINE ShortVector kth_of(const ShortVector* a, std::int64_t in_a, const ShortVector* b, std::int64_t in_b,
                                      std::int64_t k) {
  if (k == 0) return ShortVector{} + static_cast<std::int16_t>(half_of_dead);
  ShortVector least = ShortVector{} + above_all;
  if (k <= in_a) least = a[k - 1];
  if (k <= in_b) least = lower(least, b[k - 1]);
  for (std::int64_t i = std::max<std::int64_t>(1, k - in_b); i <= std::min(k - 1, in_a); ++i)
    least = lower(least, higher(a[i - 1], b[k - i - 1]));
  return least;
}

// Where 64 groups of no more than sorted_lanes elements are cut, of which none is NaN.
inline LaneEnds cut_by_sorting(cpu::LaneBlock& block, std::int64_t share, std::int64_t more) {
  LaneEnds ends;
  ShortMask unsettled[shorts_per_word];
  constexpr int asks = std::max(1, 4 / shorts_per_word);  // four for 64 elements, of which some are left to others
  share = std::min(share, block.size);
  const std::int64_t size = block.size;
  std::int64_t first = octet;
  while (2 * first < size) first *= 2;
  for (int v = 0; v < shorts_per_word; ++v) {
    const std::int16_t* const halves = halves_of(block.upper, size, v);
    ShortVector sorted[sorted_lanes];
    sort_halves(halves, first, sorted);
    sort_halves(halves + first * short_lanes, size - first, sorted + first);
    const auto kth = [&](std::int64_t k) { return kth_of(sorted, first, sorted + first, size - first, k); };
    ShortVector wanted = ShortVector{} + static_cast<std::int16_t>(share), cut = kth(share);
    if (more > v * short_lanes) {
      LaneInts own;
      for (int part = 0; part < ints_per_short; ++part) own[part] = shares_of(v * ints_per_short + part, share, more);
      const ShortVector one_more = narrowed(own) - wanted;
      wanted += one_more;
      cut = one_more > 0 ? kth(std::min(share + 1, size)) : cut;
    }
    ShortVector below{}, above{};
    for (std::int64_t j = 0; j < size; ++j) {
      for (int k = 0; k < asks; ++k) ask(block.next);
      const ShortVector half = load_shorts(halves, j * short_lanes);
      count_above(cut, half, below);
      count_above(half, cut, above);
    }
    const ShortVector up_to = static_cast<std::int16_t>(size) - above;
    const ShortVector open = (cut != static_cast<std::int16_t>(half_of_dead)) & (up_to > wanted);
    unsettled[v] = less(open, ShortVector{});
    LaneInts left, go;
    widen(open & (up_to - below), left);
    widen(wanted - below, go);
    for (int part = 0; part < ints_per_short; ++part) {
      ends.many += sum(left[part]);
      store_ints(block.more_go.data(), v * short_lanes + part * lanes, go[part]);
    }
    ends.over[v] = cut + 1;
    ends.under[v] = ends.over[v] + open;
  }
  block.open = pack(unsettled);
  return ends;
}

}  // namespace
}  // namespace bittersweet
