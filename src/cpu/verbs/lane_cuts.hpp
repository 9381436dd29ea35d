// Where groups that lie side by side, one a lane, are cut: the range of each one's keys is narrowed, in all lanes of a
// vector at once.
#pragma once

#include "cpu/kernels.hpp"
#include "cpu/verbs/row_rank.hpp"

namespace bittersweet {
namespace {

// A vector's lanes: fewer than `share` keys of each are at or below `under`, and so many or more at or below `over`.
struct LaneCuts {
  IntVector share, under, over, up_to_under, up_to_over;
};

BITTERSWEET_INLINE IntVector chosen(IntVector where, IntVector a, IntVector b) { return where ? a : b; }
BITTERSWEET_INLINE IntVector lower(IntVector a, IntVector b) { return a < b ? a : b; }
BITTERSWEET_INLINE IntVector higher(IntVector a, IntVector b) { return a > b ? a : b; }
BITTERSWEET_INLINE IntVector added(IntVector a, std::uint32_t b) {  // which may wrap around
  return reinterpret_cast<IntVector>(reinterpret_cast<KeyVector>(a) + b);
}
BITTERSWEET_INLINE bool any(IntVector a) { return sum(a) != 0; }

// The live numbers of a vector's lanes: their lowest and highest key, and how many keys are up to those of the dead,
// and up to the last of theirs.
struct LaneKeys {
  IntVector least = IntVector{} + key_of_nans, most = IntVector{} + lowest_key, dead{}, numbers{};
};

inline LaneKeys live_keys(const std::int32_t* keys, std::int64_t size) {
  LaneKeys found;
  const IntVector lowest = found.most, nan = found.least;
  for (std::int64_t j = 0; j < size; ++j) {
    const IntVector key = load_ints(keys, j * bits::per_word);
    found.least = lower(found.least, chosen(key == lowest, nan, key));
    found.most = higher(found.most, chosen(key == nan, lowest, key));
    found.dead -= key == lowest;
    found.numbers -= key != nan;
  }
  return found;
}

// The range that holds the cuts: from below the lowest live key to the highest number. Where no live number goes it is
// the dead ones' key, where all of them go the highest's.
BITTERSWEET_INLINE LaneCuts widest_range(const LaneKeys& keys, IntVector wanted) {
  const IntVector lowest = IntVector{} + lowest_key, none = wanted <= keys.dead, all = wanted >= keys.numbers;
  return {.share = chosen(none, keys.dead, chosen(all, keys.numbers, wanted)),
          .under = chosen(none, lowest, chosen(all, keys.most, added(keys.least, -1u))),
          .over = chosen(none, lowest, keys.most),
          .up_to_under = keys.dead,
          .up_to_over = chosen(none, keys.dead, keys.numbers)};
}

// Where to count next: at the only key that can be the cut, if what is inside says so, else by turns where the cut
// would be if that were spread evenly, and in the middle.
BITTERSWEET_INLINE IntVector next_place(const LaneCuts& cuts, bool spread) {
  const IntVector width =  // negative if it is wide
      reinterpret_cast<IntVector>(reinterpret_cast<KeyVector>(cuts.over) - reinterpret_cast<KeyVector>(cuts.under));
  const IntVector inside = cuts.up_to_over - cuts.up_to_under, wanted = cuts.share - cuts.up_to_under;
  IntVector place = (cuts.under & cuts.over) + ((cuts.under ^ cuts.over) >> 1);
  if (spread) {
    const IntVector near = (width > 1) & (width < (1 << 30)) & (inside > wanted);
    const FloatVector some = __builtin_convertvector(chosen(near, wanted, IntVector{}), FloatVector) - 0.5f;
    const FloatVector all = __builtin_convertvector(chosen(near, inside, IntVector{} + 1), FloatVector);
    const FloatVector room = __builtin_convertvector(chosen(near, width, IntVector{}), FloatVector);
    place = chosen(near, cuts.under + __builtin_convertvector(room * (some / all), IntVector), place);
  }
  return chosen(wanted == 1, added(cuts.under, 1), chosen(inside - wanted == 1, added(cuts.over, -1u), place));
}

// Within the range; `under` where no key lies between its ends.
BITTERSWEET_INLINE IntVector within(const LaneCuts& cuts, IntVector place) {
  const IntVector first = added(cuts.under, 1), last = added(cuts.over, -1u);
  return chosen((cuts.over == cuts.under) | (cuts.over == first), cuts.under, lower(higher(place, first), last));
}

// Counts the keys up to a place, and keeps the highest of those and the lowest of the others.
BITTERSWEET_INLINE void look(IntVector key, IntVector place, IntVector& found, IntVector& highest, IntVector& lowest) {
#if BITTERSWEET_LANES == 16
  const auto raw = [](IntVector a) { return reinterpret_cast<__m512i>(a); };
  const __mmask16 up_to = _mm512_cmple_epi32_mask(raw(key), raw(place));
  found = reinterpret_cast<IntVector>(_mm512_mask_add_epi32(raw(found), up_to, raw(found), _mm512_set1_epi32(1)));
  highest = reinterpret_cast<IntVector>(_mm512_mask_max_epi32(raw(highest), up_to, raw(highest), raw(key)));
  lowest = reinterpret_cast<IntVector>(
      _mm512_mask_min_epi32(raw(lowest), static_cast<__mmask16>(~up_to), raw(lowest), raw(key)));
#else
  const IntVector up_to = key <= place;
  found -= up_to;
  highest = higher(highest, chosen(up_to, key, highest));
  lowest = lower(lowest, chosen(up_to, lowest, key));
#endif
}

// Until every lane's cut lies between two neighbours, or on one value: first at both ends of the guess, then with ends
// that keep to keys that there are, which costs twice as much and needs half as many counts. The keys are the vector's.
inline void narrow(LaneCuts& cuts, const std::int32_t* keys, std::int64_t size, const cpu::LaneGuess& guess) {
  for (int turn = guess.reach < 0 ? 2 : 0;; ++turn) {
    const std::int32_t guessed = turn == 0 ? guess.center - guess.reach : guess.center + guess.reach;
    const IntVector place = within(cuts, turn < 2 ? IntVector{} + guessed : next_place(cuts, turn % 3 != 1));
    if (!any((cuts.up_to_over > cuts.share) & (place != cuts.under))) return;
    IntVector found{}, highest = place, lowest = added(place, 1);  // of the keys up to the place, and of those above it
    if (turn < 2) {
      for (std::int64_t j = 0; j < size; ++j) found -= load_ints(keys, j * bits::per_word) <= place;
    } else {
      highest = IntVector{} + lowest_key;
      lowest = IntVector{} + key_of_nans;
      for (std::int64_t j = 0; j < size; ++j) look(load_ints(keys, j * bits::per_word), place, found, highest, lowest);
    }
    const IntVector enough = found >= cuts.share;
    cuts.over = chosen(enough, highest, cuts.over);
    cuts.up_to_over = chosen(enough, found, cuts.up_to_over);
    cuts.under = chosen(enough, cuts.under, added(lowest, -1u));
    cuts.up_to_under = chosen(enough, cuts.up_to_under, found);
  }
}

// What the next lanes are told: around the mean of these cuts, twice as far as they lie from it on average.
inline void remember(const LaneCuts (&cuts)[vectors_per_word], cpu::LaneGuess& guess) {
  std::int64_t sum = 0, off = 0, count = 0;
  const auto each = [&](auto&& f) {
    for (const LaneCuts& of : cuts)
      for (int lane = 0; lane < lanes; ++lane)
        if (of.over[lane] != lowest_key) f(std::int64_t{of.over[lane]});
  };
  each([&](std::int64_t cut) { sum += cut, ++count; });
  if (count == 0) return;
  const std::int64_t mean = sum / count;
  each([&](std::int64_t cut) { off += std::abs(cut - mean); });
  constexpr std::int64_t most = std::int64_t{1} << 28;  // so that no end overflows
  guess = {static_cast<std::int32_t>(std::clamp<std::int64_t>(mean, lowest_key + most, key_of_nans - most)),
           static_cast<std::int32_t>(std::min(2 * off / count, most))};
}

}  // namespace
}  // namespace bittersweet
