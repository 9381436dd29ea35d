// The lowest of 64 groups side by side, a group a lane: by where the upper halves of their keys are cut; the few that
// are left around there are listed.
#pragma once

#include "cpu/verbs/lane_cuts.hpp"
#include "cpu/verbs/lane_few.hpp"

namespace bittersweet {
namespace {

template <int... I>
BITTERSWEET_INLINE ShortVector even_ones(ShortVector a, ShortVector b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, (2 * I)...);
}

// Keys of 64 scores in halves. Returns the live NaN.
BITTERSWEET_INLINE std::int64_t split_word(const WordOfScores& scores, std::uint64_t live, std::int16_t* upper,
                                           std::uint16_t* lower) {
  constexpr auto all = std::make_integer_sequence<int, short_lanes>{};
  const KeyedWord word = keyed(scores, live);
  for (int v = 0; v < shorts_per_word; ++v) {
    const auto first = reinterpret_cast<ShortVector>(word.keys[2 * v]);
    const auto second = reinterpret_cast<ShortVector>(word.keys[2 * v + 1]);
    const ShortVector high = odd_ones(first, second, all), low = even_ones(first, second, all);
    std::memcpy(upper + v * short_lanes, &high, sizeof high);
    std::memcpy(lower + v * short_lanes, &low, sizeof low);
  }
  return bits::count(word.nan);
}

// Of `words` times 64 scores, each `step` times as far from the one before as there; so are their live bits.
inline std::int64_t split_keys(const float* scores, const std::uint64_t* live, std::int64_t words, std::int64_t step,
                               std::int16_t* upper, std::uint16_t* lower) {
  std::int64_t nans = 0;
  for (std::int64_t word = 0; word < words; ++word) {
    WordOfScores own;
    for (int v = 0; v < vectors_per_word; ++v) own[v] = load(scores, word * bits::per_word + v * lanes);
    const std::int64_t at = word * step;
    nans += split_word(own, live[at], upper + at * bits::per_word, lower + at * bits::per_word);
  }
  return nans;
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
  block.open = 0;
  std::uint64_t live = ~std::uint64_t{0};
  for (std::int64_t j = 0; j < size; ++j) live &= block.keep[j];
  const bool plain = live == ~std::uint64_t{0} && !block.nans;
  LaneCuts cuts[shorts_per_word][ints_per_short];
  ShortVector under[shorts_per_word], over[shorts_per_word];  // and one more
  Mask unsettled[vectors_per_word];
  std::int64_t many = 0;  // are left to be ranked
  for (int v = 0; v < shorts_per_word; ++v) {
    widest(cuts[v], block, plain, v, share, more);
    narrow(cuts[v], block.upper + v * short_lanes, size, guess, block.next);
    LaneInts first, last;
    for (int part = 0; part < ints_per_short; ++part) {
      const LaneCuts& own = cuts[v][part];
      const int at = v * ints_per_short + part;
      unsettled[at] = less(own.unsettled(), IntVector{});
      many += sum(own.left());
      store_ints(block.more_go.data(), at * lanes, own.share - own.up_to_under);
      first[part] = chosen(own.unsettled(), own.under, own.over) + 1;
      last[part] = own.over + 1;
    }
    under[v] = narrowed(first);
    over[v] = narrowed(last);
  }
  remember(cuts, guess);
  block.open = pack(unsettled);
  ShortVector ties[shorts_per_word]{};
  std::uint64_t tied = 0;
  if (many > size && size <= std::numeric_limits<std::int16_t>::max())
    tied = ties_of(block, under, over, ties) & block.open;
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
      block.listed[lane * size + block.listed_of[static_cast<std::size_t>(lane)]++] =
          static_cast<std::uint64_t>(block.upper[at] - half_of_dead) << 48 | std::uint64_t{block.lower[at]} << 32 |
          static_cast<std::uint64_t>(j);
    }
  }
}

}  // namespace
}  // namespace bittersweet
