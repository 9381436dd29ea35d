// The lowest of 64 groups side by side, a group a lane: of few elements by their ranks, else the cut is found by
// narrowing the range of its keys, in all lanes at once.
#pragma once

#include "cpu/verbs/group_ranks.hpp"
#include "cpu/verbs/row_rank.hpp"

namespace bittersweet {
namespace {

// Fewer than `share` keys of a lane are at or below `under`, and so many or more at or below `over`.
struct LaneCuts {
  IntVector share[vectors_per_word], under[vectors_per_word], over[vectors_per_word];
  IntVector up_to_under[vectors_per_word], up_to_over[vectors_per_word];
};

BITTERSWEET_INLINE IntVector chosen(IntVector where, IntVector a, IntVector b) { return where ? a : b; }
BITTERSWEET_INLINE bool any(IntVector a) { return sum(a) != 0; }

// What the groups of a vector give: `share`, the first `more` of all one more.
BITTERSWEET_INLINE IntVector shares_of(int v, std::int64_t share, std::int64_t more) {
  IntVector wanted{};
  for (int lane = 0; lane < lanes; ++lane) wanted[lane] = static_cast<std::int32_t>(share + (v * lanes + lane < more));
  return wanted;
}

// The range that holds the cuts: from below the lowest live key to the highest number. Where no live number goes it is
// the dead ones' key, where all of them go the highest's.
inline LaneCuts widest_cuts(const std::int32_t* keys, std::int64_t size, std::int64_t share, std::int64_t more) {
  LaneCuts cuts;
  for (int v = 0; v < vectors_per_word; ++v) {
    const IntVector lowest = IntVector{} + lowest_key, nan = IntVector{} + key_of_nans;
    IntVector least = nan, most = lowest, dead{}, numbers{};
    for (std::int64_t j = 0; j < size; ++j) {
      const IntVector key = load_ints(keys, j * bits::per_word + v * lanes);
      const IntVector low = chosen(key == lowest, nan, key), high = chosen(key == nan, lowest, key);
      least = chosen(low < least, low, least);
      most = chosen(high > most, high, most);
      dead -= key == lowest;
      numbers -= key != nan;
    }
    const IntVector wanted = shares_of(v, share, more), none = wanted <= dead, all = wanted >= numbers;
    cuts.share[v] = chosen(none, dead, chosen(all, numbers, wanted));
    cuts.under[v] = chosen(none, lowest, chosen(all, most, least - 1));
    cuts.over[v] = chosen(none, lowest, most);
    cuts.up_to_under[v] = dead;
    cuts.up_to_over[v] = chosen(none, dead, numbers);
  }
  return cuts;
}

// Where to count next: by turns where the cut would be if what is inside were spread evenly, and in the middle.
BITTERSWEET_INLINE IntVector next_place(const LaneCuts& cuts, int v, bool spread) {
  const IntVector under = cuts.under[v], over = cuts.over[v], middle = (under & over) + ((under ^ over) >> 1);
  if (!spread) return middle;
  const IntVector width =  // negative if it is wide
      reinterpret_cast<IntVector>(reinterpret_cast<KeyVector>(over) - reinterpret_cast<KeyVector>(under));
  const IntVector near = (width > 1) & (width < (1 << 30)) & (cuts.up_to_over[v] > cuts.share[v]);
  const IntVector narrow = chosen(near, width, IntVector{} + 2), most = narrow - 1;
  const IntVector inside = chosen(near, cuts.up_to_over[v] - cuts.up_to_under[v], IntVector{} + 1);
  const IntVector wanted = chosen(near, cuts.share[v] - cuts.up_to_under[v], IntVector{});
  const FloatVector share = __builtin_convertvector(wanted, FloatVector) / __builtin_convertvector(inside, FloatVector);
  const IntVector even = __builtin_convertvector(__builtin_convertvector(narrow, FloatVector) * share, IntVector);
  const IntVector step = chosen(even < 1, IntVector{} + 1, chosen(even > most, most, even));
  return chosen(near, under + step, middle);
}

// Until every lane's cut lies between two neighbours, or on one value.
inline void narrow(LaneCuts& cuts, const std::int32_t* keys, std::int64_t size) {
  for (bool spread = true;; spread = !spread) {
    IntVector place[vectors_per_word], open{}, found[vectors_per_word]{};
    for (int v = 0; v < vectors_per_word; ++v) {
      place[v] = next_place(cuts, v, spread);
      open |= (cuts.up_to_over[v] > cuts.share[v]) & (place[v] != cuts.under[v]);
    }
    if (!any(open)) return;
    for (std::int64_t j = 0; j < size; ++j)
      for (int v = 0; v < vectors_per_word; ++v)
        found[v] -= load_ints(keys, j * bits::per_word + v * lanes) <= place[v];
    for (int v = 0; v < vectors_per_word; ++v) {
      const IntVector enough = found[v] >= cuts.share[v];
      cuts.over[v] = chosen(enough, place[v], cuts.over[v]);
      cuts.up_to_over[v] = chosen(enough, found[v], cuts.up_to_over[v]);
      cuts.under[v] = chosen(enough, cuts.under[v], place[v]);
      cuts.up_to_under[v] = chosen(enough, cuts.up_to_under[v], found[v]);
    }
  }
}

constexpr std::int64_t few = 8;

// Groups of no more than `few`.
inline void drop_by_ranks(const std::int32_t* keys, std::int64_t size, std::int64_t share, std::int64_t more,
                          std::uint64_t* keep) {
  Mask gone[few][vectors_per_word];
  for (int v = 0; v < vectors_per_word; ++v) {
    IntVector key[few], rank[few]{};
    for (std::int64_t j = 0; j < size; ++j) {
      key[j] = load_ints(keys, j * bits::per_word + v * lanes);
      for (std::int64_t i = 0; i < j; ++i) {
        const IntVector lower = key[i] <= key[j];  // of equal ones the first
        rank[j] -= lower;
        rank[i] += lower + 1;
      }
    }
    const IntVector wanted = shares_of(v, share, more);
    for (std::int64_t j = 0; j < size; ++j)
      gone[j][v] = less((rank[j] < wanted) & (key[j] != key_of_nans), IntVector{});
  }
  for (std::int64_t j = 0; j < size; ++j) keep[j] &= ~pack(gone[j]);
}

// Clears the bits of the `share` lowest of each of 64 groups of `size`, in the first `more` of one more; of equal ones
// the first go. Element j of group g is scores[64 * j + g], and lives if bit g of keep[j] is set. Returns the live NaN,
// which stay. The scores are overwritten.
inline std::int64_t drop_lowest_across(float* scores, std::int64_t size, std::int64_t share, std::int64_t more,
                                       std::uint64_t* keep) {
  auto* const keys = reinterpret_cast<std::int32_t*>(scores);  // only ever copied to vectors and back
  std::int64_t nans = 0;
  for (std::int64_t j = 0; j < size; ++j) {
    WordOfScores own;
    for (int v = 0; v < vectors_per_word; ++v) own[v] = load(scores, j * bits::per_word + v * lanes);
    const KeyedWord word = keyed(own, keep[j]);
    nans += bits::count(word.nan);
    for (int v = 0; v < vectors_per_word; ++v) store_ints(keys, j * bits::per_word + v * lanes, word.keys[v]);
  }
  if (size <= few) {
    drop_by_ranks(keys, size, share, more, keep);
    return nans;
  }
  LaneCuts cuts = widest_cuts(keys, size, share, more);
  narrow(cuts, keys, size);
  IntVector left[vectors_per_word];
  for (int v = 0; v < vectors_per_word; ++v) left[v] = cuts.share[v] - cuts.up_to_under[v];
  for (std::int64_t j = 0; j < size; ++j) {
    Mask gone[vectors_per_word];
    for (int v = 0; v < vectors_per_word; ++v) {
      const IntVector key = load_ints(keys, j * bits::per_word + v * lanes), below = key <= cuts.under[v];
      const IntVector next = (key <= cuts.over[v]) & ~below & (left[v] > 0);
      left[v] += next;
      gone[v] = less(below | next, IntVector{});
    }
    keep[j] &= ~pack(gone);
  }
  return nans;
}

}  // namespace
}  // namespace bittersweet
