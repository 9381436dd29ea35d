// The lowest of 64 groups side by side, a group a lane: by where the upper halves of their keys are cut; the few that
// are left around there are listed.
#pragma once

#include "cpu/verbs/lane_cuts.hpp"
#include "cpu/verbs/lane_few.hpp"
#include "cpu/verbs/lane_sort.hpp"
#include "cpu/verbs/turn.hpp"

namespace bittersweet {
namespace {

template <int... I>
BITTERSWEET_INLINE ShortVector even_ones(ShortVector a, ShortVector b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, (2 * I)...);
}

constexpr auto all_shorts = std::make_integer_sequence<int, short_lanes>{};

// The halves of 64 keys.
BITTERSWEET_INLINE void store_upper(std::int16_t* to, const IntVector (&keys)[vectors_per_word]) {
  for (int v = 0; v < shorts_per_word; ++v) {
    const ShortVector halves = odd_ones(reinterpret_cast<ShortVector>(keys[2 * v]),
                                        reinterpret_cast<ShortVector>(keys[2 * v + 1]), all_shorts);
    std::memcpy(to + v * short_lanes, &halves, sizeof halves);
  }
}
BITTERSWEET_INLINE void store_lower(std::int16_t* to, const IntVector (&keys)[vectors_per_word]) {
  for (int v = 0; v < shorts_per_word; ++v) {
    const ShortVector halves = even_ones(reinterpret_cast<ShortVector>(keys[2 * v]),
                                         reinterpret_cast<ShortVector>(keys[2 * v + 1]), all_shorts);
    std::memcpy(to + v * short_lanes, &halves, sizeof halves);
  }
}

BITTERSWEET_INLINE KeyedWord keyed(const float* scores, std::uint64_t live) {
  WordOfScores own;
  for (int v = 0; v < vectors_per_word; ++v) own[v] = load(scores, v * lanes);
  return keyed(own, live);
}

// Of `words` times 64 scores, each `step` times as far from the one before as there; so are their live bits. Returns
// the live NaN.
inline std::int64_t split_keys(const float* scores, const std::uint64_t* live, std::int64_t words, std::int64_t step,
                               std::int16_t* upper, std::int16_t* lower) {
  std::int64_t nans = 0;
  for (std::int64_t word = 0; word < words; ++word) {
    const std::int64_t at = word * step;
    const KeyedWord own = keyed(scores + word * bits::per_word, live[at]);
    store_upper(upper + at * bits::per_word, own.keys);
    store_lower(lower + at * bits::per_word, own.keys);
    nans += bits::count(own.nan);
  }
  return nans;
}

// The upper halves of 64 groups of `size` that lie one after another, like their live bits: as they lie, then turned.
// Returns the live NaN.
inline std::int64_t split_groups(const float* scores, const std::uint64_t* live, std::int64_t size,
                                 std::int16_t* as_they_lie, std::int16_t* upper) {
  std::int64_t nans = 0;
  for (std::int64_t word = 0; word < size; ++word) {
    const KeyedWord own = keyed(scores + word * bits::per_word, live[word]);
    store_upper(as_they_lie + word * bits::per_word, own.keys);
    nans += bits::count(own.nan);
  }
  turn_halves(as_they_lie, size, upper);
  return nans;
}

// The lower halves, which few blocks need.
inline void split_lower(const cpu::LaneBlock& block) {
  for (std::int64_t word = 0; word < block.size; ++word)
    store_lower(block.as_they_lie + word * bits::per_word,
                keyed(block.scores + word * bits::per_word, ~std::uint64_t{0}).keys);
  turn_halves(block.as_they_lie, block.size, block.lower);
}

// The widest ranges of a vector's lanes, the v-th: from the dead to the highest number.
inline void widest(LaneCuts (&cuts)[ints_per_short], cpu::LaneBlock& block, bool plain, int v, std::int64_t share,
                   std::int64_t more) {
  const IntVector dead = IntVector{} + half_of_dead, highest = IntVector{} + (half_of_nans - 1);
  const IntVector all = IntVector{} + static_cast<std::int32_t>(block.size);
  const LaneInts ends[2] = {{dead, dead}, {highest, highest}};
  LaneInts found[2] = {{}, {all, all}};
  if (!plain) count_halves(block.upper + v * short_lanes, block.size, ends, found, block.next);
  for (int part = 0; part < ints_per_short; ++part) {
    const IntVector wanted = shares_of(v * ints_per_short + part, share, more);
    const IntVector buried = found[0][part], numbers = found[1][part], none = wanted <= buried;
    cuts[part] = {.share = chosen(none, buried, lower(wanted, numbers)),
                  .under = dead,
                  .over = chosen(none, dead, highest),
                  .up_to_under = buried,
                  .up_to_over = chosen(none, buried, numbers)};
  }
}

// Where 64 groups are cut, by counting.
inline LaneEnds cut_by_counting(cpu::LaneBlock& block, std::int64_t share, std::int64_t more, cpu::LaneGuess& guess) {
  std::uint64_t live = ~std::uint64_t{0};
  for (std::int64_t j = 0; j < block.size; ++j) live &= block.keep[j];
  const bool plain = live == ~std::uint64_t{0} && !block.nans;
  LaneCuts cuts[shorts_per_word][ints_per_short];
  LaneEnds ends;
  Mask unsettled[vectors_per_word];
  for (int v = 0; v < shorts_per_word; ++v) {
    widest(cuts[v], block, plain, v, share, more);
    narrow(cuts[v], block.upper + v * short_lanes, block.size, guess, block.next);
    LaneInts first, last;
    for (int part = 0; part < ints_per_short; ++part) {
      const LaneCuts& own = cuts[v][part];
      const int at = v * ints_per_short + part;
      unsettled[at] = less(own.unsettled(), IntVector{});
      ends.many += sum(own.left());
      store_ints(block.more_go.data(), at * lanes, own.share - own.up_to_under);
      first[part] = chosen(own.unsettled(), own.under, own.over) + 1;
      last[part] = own.over + 1;
    }
    ends.under[v] = narrowed(first);
    ends.over[v] = narrowed(last);
  }
  remember(cuts, guess);
  block.open = pack(unsettled);
  return ends;
}

// Lanes among whose keys only one value is left: of those the first go, so many as `left` says; 0 in other lanes. Both
// ends are one more than those of the cuts. Returns the lanes as bits.
inline std::uint64_t ties_of(const cpu::LaneBlock& block, const ShortVector (&under)[shorts_per_word],
                             const ShortVector (&over)[shorts_per_word], ShortVector (&left)[shorts_per_word]) {
  ShortMask alike[shorts_per_word];
  for (int v = 0; v < shorts_per_word; ++v) {
    ShortVector least = ShortVector{} + std::numeric_limits<std::int16_t>::max(), most = ~least;
    for (std::int64_t j = 0; j < block.size; ++j) {
      const std::int64_t at = j * bits::per_word + v * short_lanes;
      const ShortVector inside = load_shorts(block.upper, at) == under[v], low = load_shorts(block.lower, at);
      least = inside & (low < least) ? low : least;
      most = inside & (low > most) ? low : most;
    }
    LaneInts go;
    for (int part = 0; part < ints_per_short; ++part)
      go[part] = load_ints(block.more_go.data(), v * short_lanes + part * lanes);
    const ShortVector one = (over[v] - 1 == under[v]) & (least == most);
    left[v] = one & narrowed(go);
    alike[v] = less(one, ShortVector{});
  }
  return pack(alike);
}

// Clears the bits of the `share` lowest of each of 64 groups, in the first `more` of one more, but for those that are
// left in the lists of open lanes. Dead elements go first, and NaN never.
inline void drop_lowest_across(cpu::LaneBlock& block, std::int64_t share, std::int64_t more, cpu::LaneGuess& guess) {
  const std::int64_t size = block.size;
  const bool sorted = size <= sorted_lanes && !block.nans;
  const LaneEnds ends = sorted ? cut_by_sorting(block, share, more) : cut_by_counting(block, share, more, guess);
  const auto& [under, over, many] = ends;
  ShortVector ties[shorts_per_word]{};
  std::uint64_t tied = 0;
  if (many > size && size <= std::numeric_limits<std::int16_t>::max()) {
    if (block.scores) split_lower(block);
    tied = ties_of(block, under, over, ties) & block.open;
  }
  block.open &= ~tied;
  block.listed_of.fill(0);
  for (std::int64_t j = 0; j < size; ++j) {
    ShortMask gone[shorts_per_word], low[shorts_per_word];
    ask(block.next);
    for (int v = 0; v < shorts_per_word; ++v) {
      const ShortVector half = load_shorts(block.upper, j * bits::per_word + v * short_lanes);
      gone[v] = less(half, under[v]);
      low[v] = less(half, over[v]);
    }
    const std::uint64_t below = pack(gone);
    block.keep[j] &= ~below;
    if (tied != 0) {
      for (int v = 0; v < shorts_per_word; ++v) {
        const ShortVector half = load_shorts(block.upper, j * bits::per_word + v * short_lanes);
        const ShortVector next = (half == under[v]) & (ties[v] > 0);
        ties[v] += next;
        gone[v] = less(next, ShortVector{});
      }
      block.keep[j] &= ~(pack(gone) & tied);
    }
    for (std::uint64_t left = pack(low) & ~below & block.open; left != 0; left = bits::without_lowest(left)) {
      const std::int64_t lane = bits::lowest_or_width(left), at = j * bits::per_word + lane;
      const auto low_half =
          static_cast<std::uint16_t>(block.scores ? signed_key(block.scores[lane * size + j]) : block.lower[at]);
      block.listed[lane * size + block.listed_of[static_cast<std::size_t>(lane)]++] =
          static_cast<std::uint64_t>(block.upper[at] - half_of_dead) << 48 | std::uint64_t{low_half} << 32 |
          static_cast<std::uint64_t>(j);
    }
  }
}

}  // namespace
}  // namespace bittersweet
