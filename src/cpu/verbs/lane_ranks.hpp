// The lowest of 64 groups side by side, a group a lane: of few elements by their ranks, else the cut is found by
// narrowing the range of its keys, in all lanes at once.
#pragma once

#include "cpu/verbs/group_ranks.hpp"
#include "cpu/verbs/lane_cuts.hpp"

namespace bittersweet {
namespace {

// What the groups of a vector give: `share`, the first `more` of all one more.
BITTERSWEET_INLINE IntVector shares_of(int v, std::int64_t share, std::int64_t more) {
  IntVector wanted{};
  for (int lane = 0; lane < lanes; ++lane) wanted[lane] = static_cast<std::int32_t>(share + (v * lanes + lane < more));
  return wanted;
}

constexpr std::int64_t few = 12;

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
                                       cpu::LaneGuess& guess, std::uint64_t* keep) {
  auto* const keys = reinterpret_cast<std::int32_t*>(scores);  // only ever copied to vectors and back
  LaneKeys of[vectors_per_word];
  std::int64_t nans = 0;
  std::uint64_t dead = 0;
  for (std::int64_t j = 0; j < size; ++j) {
    WordOfScores own;
    for (int v = 0; v < vectors_per_word; ++v) own[v] = load(scores, j * bits::per_word + v * lanes);
    const KeyedWord word = keyed(own, keep[j]);
    nans += bits::count(word.nan);
    dead |= ~keep[j];
    for (int v = 0; v < vectors_per_word; ++v) {
      store_ints(keys, j * bits::per_word + v * lanes, word.keys[v]);
      of[v].least = lower(of[v].least, word.keys[v]);
      of[v].most = higher(of[v].most, word.keys[v]);
    }
  }
  if (size <= few) {
    drop_by_ranks(keys, size, share, more, keep);
    return nans;
  }
  LaneCuts cuts[vectors_per_word];
  IntVector left[vectors_per_word];
  for (int v = 0; v < vectors_per_word; ++v) {
    of[v].numbers += static_cast<std::int32_t>(size);
    if (nans != 0 || dead != 0) of[v] = live_keys(keys + v * lanes, size);
    cuts[v] = widest_range(of[v], shares_of(v, share, more));
    narrow(cuts[v], keys + v * lanes, size, guess);
    left[v] = cuts[v].share - cuts[v].up_to_under;
  }
  remember(cuts, guess);
  for (std::int64_t j = 0; j < size; ++j) {
    Mask gone[vectors_per_word];
    for (int v = 0; v < vectors_per_word; ++v) {
      const IntVector key = load_ints(keys, j * bits::per_word + v * lanes), below = key <= cuts[v].under;
      const IntVector next = (key <= cuts[v].over) & ~below & (left[v] > 0);
      left[v] += next;
      gone[v] = less(below | next, IntVector{});
    }
    keep[j] &= ~pack(gone);
  }
  return nans;
}

}  // namespace
}  // namespace bittersweet
