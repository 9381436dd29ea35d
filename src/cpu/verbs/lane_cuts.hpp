// Where groups that lie side by side, one a lane, are cut: the upper halves of their keys are counted up to two places
// in a pass, in all lanes of a vector at once.
#pragma once

#include <cmath>

#include "cpu/kernels.hpp"
#include "cpu/verbs/row_cut.hpp"
#include "cpu/verbs/score.hpp"

namespace bittersweet {
namespace {

constexpr std::int32_t half_of_dead = lowest_key >> 16, half_of_nans = key_of_nans >> 16;

BITTERSWEET_INLINE IntVector chosen(IntVector where, IntVector a, IntVector b) { return where ? a : b; }
BITTERSWEET_INLINE IntVector lower(IntVector a, IntVector b) { return a < b ? a : b; }
BITTERSWEET_INLINE IntVector higher(IntVector a, IntVector b) { return a > b ? a : b; }
BITTERSWEET_INLINE ShortVector lower(ShortVector a, ShortVector b) {
#if BITTERSWEET_LANES == 16
  return reinterpret_cast<ShortVector>(_mm512_min_epi16(as_512(a), as_512(b)));
#else
  return a < b ? a : b;
#endif
}
BITTERSWEET_INLINE ShortVector higher(ShortVector a, ShortVector b) {
#if BITTERSWEET_LANES == 16
  return reinterpret_cast<ShortVector>(_mm512_max_epi16(as_512(a), as_512(b)));
#else
  return a > b ? a : b;
#endif
}

// A ShortVector's lanes as integers: the first ones, and the rest.
constexpr int ints_per_short = 2;
using LaneInts = IntVector[ints_per_short];
using QuarterVector = std::int16_t __attribute__((vector_size(2 * BITTERSWEET_LANES)));

template <int... I>
BITTERSWEET_INLINE void widen(ShortVector a, LaneInts& to, std::integer_sequence<int, I...>) {
  to[0] = __builtin_convertvector(__builtin_shufflevector(a, a, I...), IntVector);
  to[1] = __builtin_convertvector(__builtin_shufflevector(a, a, (lanes + I)...), IntVector);
}
BITTERSWEET_INLINE void widen(ShortVector a, LaneInts& to) { widen(a, to, std::make_integer_sequence<int, lanes>{}); }
template <int... I>
BITTERSWEET_INLINE ShortVector narrowed(const LaneInts& a, std::integer_sequence<int, I...>) {
  const auto low = __builtin_convertvector(a[0], QuarterVector), high = __builtin_convertvector(a[1], QuarterVector);
  return __builtin_shufflevector(low, high, I...);
}
BITTERSWEET_INLINE ShortVector narrowed(const LaneInts& a) {
  return narrowed(a, std::make_integer_sequence<int, short_lanes>{});
}

// Counts the halves above a place: those up to it would take an instruction more.
BITTERSWEET_INLINE void count_above(ShortVector half, ShortVector place, ShortVector& above) {
#if BITTERSWEET_LANES == 16
  const __mmask32 found = _mm512_cmpgt_epi16_mask(as_512(half), as_512(place));
  above =
      reinterpret_cast<ShortVector>(_mm512_mask_add_epi16(as_512(above), found, as_512(above), _mm512_set1_epi16(1)));
#else
  above -= half > place;
#endif
}

// Where the halves of lanes v * short_lanes ... lie, an element behind the other.
template <class T>
BITTERSWEET_INLINE T* halves_of(T* all, std::int64_t size, int v) {
  return all + v * size * short_lanes;
}

// How many of the `size` halves of each lane are up to each of two places.
inline void count_halves(const std::int16_t* halves, std::int64_t size, const LaneInts (&places)[2],
                         LaneInts (&found)[2], cpu::ReadNext& next) {
  const ShortVector low = narrowed(places[0]), high = narrowed(places[1]);
  for (LaneInts& one : found)
    for (IntVector& part : one) part = IntVector{};
  constexpr std::int64_t most = std::numeric_limits<std::int16_t>::max();
  for (std::int64_t begin = 0; begin < size; begin += most) {
    const std::int64_t end = std::min(size, begin + most);
    ShortVector above_low{}, above_high{};
    for (std::int64_t j = begin; j < end;) {
      ask(next);
      for (const std::int64_t some = std::min(end, j + 4); j < some; ++j) {
        const ShortVector half = load_shorts(halves, j * short_lanes);
        count_above(half, low, above_low);
        count_above(half, high, above_high);
      }
    }
    LaneInts some;
    const auto add = [&](ShortVector above, LaneInts& to) {
      widen(above, some);
      for (int part = 0; part < ints_per_short; ++part) to[part] += static_cast<std::int32_t>(end - begin) - some[part];
    };
    add(above_low, found[0]);
    add(above_high, found[1]);
  }
}

// Halves below `under` go, and those from there to below `over` are left to be ranked: none where they are the same.
struct LaneEnds {
  ShortVector under[shorts_per_word], over[shorts_per_word];
  std::int64_t many = 0;  // are left
};

// Fewer than `share` halves of a lane are at or below `under`, and so many or more at or below `over`. Where no live
// number goes, both are those of the dead.
struct LaneCuts {
  IntVector share, under, over, up_to_under, up_to_over;

  BITTERSWEET_INLINE IntVector unsettled() const { return up_to_over > share; }  // some inside go, and some stay
  BITTERSWEET_INLINE IntVector open() const { return unsettled() & (over - under > 1); }
  BITTERSWEET_INLINE IntVector left() const { return (up_to_over - up_to_under) & unsettled(); }  // to be ranked

  BITTERSWEET_INLINE void learn(IntVector place, IntVector found) {
    const IntVector enough = found >= share, lowers = enough & (place < over), lifts = ~enough & (place > under);
    over = chosen(lowers, place, over);
    up_to_over = chosen(lowers, found, up_to_over);
    under = chosen(lifts, place, under);
    up_to_under = chosen(lifts, found, up_to_under);
  }

  // Where to count next: to both sides of where the cut would be if what is inside were spread evenly; or in thirds.
  BITTERSWEET_INLINE void next(bool spread, IntVector& low, IntVector& high) const {
    const IntVector width = over - under;
    if (spread) {
      const FloatVector room = __builtin_convertvector(width, FloatVector);
      const FloatVector inside =
          __builtin_convertvector(higher(up_to_over - up_to_under, IntVector{} + 1), FloatVector);
      const FloatVector even = room * (__builtin_convertvector(share - up_to_under, FloatVector) / inside);
      const FloatVector near = 0.5f * room / sqrt(Vec{inside}).x;
      low = under + __builtin_convertvector(even - near, IntVector);
      high = under + __builtin_convertvector(even + near, IntVector);
    } else {
      low = under + width / 3;
      high = over - width / 3;
    }
    low = higher(lower(low, over - 1), under + 1);
    high = higher(lower(high, over - 1), under + 1);
  }
};

// The ranges of a vector's lanes, from below the lowest number to the highest, narrowed until few are left inside of
// those that have a half between their ends.
inline void narrow(LaneCuts (&cuts)[ints_per_short], const std::int16_t* halves, std::int64_t size,
                   const cpu::LaneGuess& guess, cpu::ReadNext& next) {
  const std::int64_t few = (2 * size + 150) / 24;  // are ranked one by one in less than another count takes
  std::int64_t before = std::numeric_limits<std::int64_t>::max();
  for (bool guessed = guess.reach < 0;; guessed = true) {
    IntVector left{};
    for (const LaneCuts& part : cuts) left += part.left() & part.open();
    const std::int64_t many = sum(left);
    if (many <= few) return;
    LaneInts places[2], found[2];
    for (int part = 0; part < ints_per_short; ++part) {
      cuts[part].next(2 * many <= before, places[0][part], places[1][part]);
      if (guessed) continue;
      places[0][part] = IntVector{} + (guess.center - guess.reach);
      places[1][part] = IntVector{} + (guess.center + guess.reach);
    }
    if (guessed) before = many;
    count_halves(halves, size, places, found, next);
    for (int part = 0; part < ints_per_short; ++part)
      for (int one = 0; one < 2; ++one) cuts[part].learn(places[one][part], found[one][part]);
  }
}

// What the next lanes are told: around the mean of these cuts, three times as far as they lie from it on average.
inline void remember(const LaneCuts (&cuts)[shorts_per_word][ints_per_short], cpu::LaneGuess& guess) {
  std::int32_t sum = 0, off = 0, count = 0;
  const auto each = [&](auto&& f) {
    for (const auto& vector : cuts)
      for (const LaneCuts& of : vector)
        for (int lane = 0; lane < lanes; ++lane)
          if (of.over[lane] != half_of_dead) f(of.over[lane]);
  };
  each([&](std::int32_t cut) { sum += cut, ++count; });
  if (count == 0) return;
  const std::int32_t mean = sum / count;
  each([&](std::int32_t cut) { off += std::abs(cut - mean); });
  const std::int32_t reach = std::min(3 * off / count + 1, 1 << 12);
  guess = {std::clamp(mean, half_of_dead + reach, half_of_nans - reach), reach};
}

}  // namespace
}  // namespace bittersweet
