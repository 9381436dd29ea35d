// The lowest of 64 groups side by side, a group a lane: by where the upper halves of their keys are cut; the few that
// are left around there are listed.
#pragma once

#include "cpu/verbs/lane_cuts.hpp"
#include "cpu/verbs/lane_few.hpp"
#include "cpu/verbs/lane_halves.hpp"
#include "cpu/verbs/lane_sort.hpp"

namespace bittersweet {
namespace {

// The widest ranges of a vector's lanes, the v-th: from the dead to the highest number.
inline void widest(LaneCuts (&cuts)[ints_per_short], cpu::LaneBlock& block, bool plain, int v, std::int64_t share,
                   std::int64_t more) {
  const IntVector dead = IntVector{} + half_of_dead, highest = IntVector{} + (half_of_nans - 1);
  const IntVector all = IntVector{} + static_cast<std::int32_t>(block.size);
  const LaneInts ends[2] = {{dead, dead}, {highest, highest}};
  LaneInts found[2] = {{}, {all, all}};
  if (!plain) count_halves(halves_of(block.upper, block.size, v), block.size, ends, found, block.next);
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
    narrow(cuts[v], halves_of(block.upper, block.size, v), block.size, guess, block.next);
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
    const std::int16_t* const upper = halves_of<const std::int16_t>(block.upper, block.size, v);
    const std::int16_t* const lower_ones = halves_of<const std::int16_t>(block.lower, block.size, v);
    for (std::int64_t j = 0; j < block.size; ++j) {
      const ShortVector inside = load_shorts(upper, j * short_lanes) == under[v];
      const ShortVector low = load_shorts(lower_ones, j * short_lanes);
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
// left in the lists of open lanes. Dead elements go first, and NaN never. False, and nothing is cleared, if so many are
// left that the lower halves of the keys are wanted.
inline bool drop_lowest_across(cpu::LaneBlock& block, std::int64_t share, std::int64_t more, cpu::LaneGuess& guess) {
  const std::int64_t size = block.size;
  const bool sorted = size <= sorted_lanes && !block.nans;
  const LaneEnds ends = sorted ? cut_by_sorting(block, share, more) : cut_by_counting(block, share, more, guess);
  const auto& [under, over, many] = ends;
  ShortVector ties[shorts_per_word]{};
  std::uint64_t tied = 0;
  if (many > size && size <= std::numeric_limits<std::int16_t>::max()) {
    if (!block.lower) return false;
    tied = ties_of(block, under, over, ties) & block.open;
  }
  block.open &= ~tied;
  block.listed_of.fill(0);
  for (std::int64_t j = 0; j < size; ++j) {
    ShortMask gone[shorts_per_word], low[shorts_per_word];
    ask(block.next);
    for (int v = 0; v < shorts_per_word; ++v) {
      const ShortVector half = load_shorts(halves_of(block.upper, size, v), j * short_lanes);
      gone[v] = less(half, under[v]);
      low[v] = less(half, over[v]);
    }
    const std::uint64_t below = pack(gone);
    block.keep[j] &= ~below;
    if (tied != 0) {
      for (int v = 0; v < shorts_per_word; ++v) {
        const ShortVector half = load_shorts(halves_of(block.upper, size, v), j * short_lanes);
        const ShortVector next = (half == under[v]) & (ties[v] > 0);
        ties[v] += next;
        gone[v] = less(next, ShortVector{});
      }
      block.keep[j] &= ~(pack(gone) & tied);
    }
    for (std::uint64_t left = pack(low) & ~below & block.open; left != 0; left = bits::without_lowest(left)) {
      const std::int64_t lane = bits::lowest_or_width(left);
      block.listed[lane * size + block.listed_of[static_cast<std::size_t>(lane)]++] = static_cast<std::uint64_t>(j);
    }
  }
  return true;
}

}  // namespace
}  // namespace bittersweet
