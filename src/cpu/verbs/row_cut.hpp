// The k lowest scores of a row that lies in the first caches: their upper halves are searched for the k-th as 16-bit
// keys, four counts in a pass. The few scores left are ranked exactly.
#pragma once

#include <algorithm>
#include <limits>
#include <utility>

#include "cpu/kernels.hpp"
#include "cpu/verbs/bits.hpp"
#include "cpu/verbs/row_halving.hpp"
#include "cpu/verbs/row_rank.hpp"
#include "cpu/verbs/signed_key.hpp"
#include "cpu/verbs/write_mask.hpp"

namespace bittersweet {
namespace {

// A half is the upper 16 bits of a score as a signed number of the same order: minus the magnitude's, if it is
// negative, so that both zeros and what is nearly zero share one. NaN are above all; `infinite` is infinity's, which
// some NaN would share.
constexpr std::int16_t infinite = 0x7f80;

template <int... I>
BITTERSWEET_INLINE ShortVector odd_ones(ShortVector a, ShortVector b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, (2 * I + 1)...);
}

BITTERSWEET_INLINE ShortVector load_shorts(const void* data, std::int64_t index) {
  ShortVector a;
  std::memcpy(&a, static_cast<const std::int16_t*>(data) + index, sizeof a);
  return a;
}

BITTERSWEET_INLINE std::int64_t sum(ShortVector a) {
  const IntVector pairs = reinterpret_cast<IntVector>(a);
  return sum((pairs >> 16) + ((pairs << 16) >> 16));
}

constexpr std::int64_t most_vectors = std::int64_t{1} << 14;  // that are counted in one: no lane overflows

// Writes them. Returns how many are NaN, or -1 if one is infinite.
inline std::int64_t write_halves(const float* scores, std::int64_t count, std::int16_t* halves) {
  std::int64_t nans = 0;
  ShortVector any_infinite{};
  for (std::int64_t begin = 0; begin < count; begin += most_vectors * short_lanes) {
    const std::int64_t end = std::min(count, begin + most_vectors * short_lanes);
    ShortVector numbers{};
    for (std::int64_t i = begin; i < end; i += short_lanes) {
      const ShortVector upper = odd_ones(load_shorts(scores, 2 * i), load_shorts(scores, 2 * i + short_lanes),
                                         std::make_integer_sequence<int, short_lanes>{});
      const ShortVector magnitude = upper & 0x7fff, number = magnitude < infinite;
      const ShortVector sign = (upper >> 15) & number;
      any_infinite |= magnitude == infinite;
      numbers -= number;
      const ShortVector half = (magnitude ^ sign) - sign;
      std::memcpy(halves + i, &half, sizeof half);
    }
    nans += end - begin - sum(numbers);
  }
  return sum(any_infinite) == 0 ? nans : -1;
}

// found[n] = how many halves are at or below at[n].
BITTERSWEET_INLINE void count_halves(const std::int16_t* halves, std::int64_t count, const Places& at, Places& found) {
  ShortVector t[counts_at_once];
  for (int n = 0; n < counts_at_once; ++n) t[n] = ShortVector{} + static_cast<std::int16_t>(at[n]), found[n] = 0;
  for (std::int64_t begin = 0; begin < count; begin += most_vectors * short_lanes) {
    const std::int64_t end = std::min(count, begin + most_vectors * short_lanes);
    ShortVector sums[counts_at_once]{};
    for (std::int64_t i = begin; i < end; i += short_lanes) {
      const ShortVector own = load_shorts(halves, i);
      for (int n = 0; n < counts_at_once; ++n) sums[n] -= own <= t[n];
    }
    for (int n = 0; n < counts_at_once; ++n) found[n] += sum(sums[n]);
  }
}

// The half of the k-th lowest score, and how many lie below it. There are k numbers at least. Counts begin around a
// guess.
struct FoundHalf {
  int half;
  std::int64_t below;
};
inline FoundHalf find_half(const std::int16_t* halves, std::int64_t count, std::int64_t numbers, std::int64_t k,
                           int guess, int spread) {
  RankRange range{-infinite - 1, infinite - 1, 0, numbers};
  narrow(
      range, k, {guess - 3 * spread, guess - spread, guess + spread, guess + 3 * spread},
      [&](const Places& at, Places& found) { count_halves(halves, count, at, found); },
      [](const RankRange& r) { return r.over - r.under <= 1; });
  return {static_cast<int>(range.over), range.up_to_under};
}

// Writes where in a row the bits of a word are set. As many as 64 places more than that may be written.
BITTERSWEET_INLINE void list(std::int32_t* places, std::int64_t& count, std::int64_t first, std::uint64_t word) {
  const std::int64_t found = bits::count(word);
  for (std::int64_t j = 0; j < found; ++j, word = bits::without_lowest(word))
    places[count + j] = static_cast<std::int32_t>(first + bits::lowest_or_width(word));
  count += found;
}

// Lists the places of the scores whose half is this one.
inline std::int64_t list_half(const std::int16_t* halves, std::int64_t count, int half, std::int32_t* places) {
  const ShortVector t = ShortVector{} + static_cast<std::int16_t>(half);
  std::int64_t listed = 0;
  for (std::int64_t i = 0; i < count; i += bits::per_word) {
    ShortMask same[shorts_per_word];
    for (int v = 0; v < shorts_per_word; ++v) same[v] = equal(load_shorts(halves, i + v * short_lanes), t);
    list(places, listed, i, pack(same));
  }
  return listed;
}

// Clears the keep bits of the scores below the threshold, and of the first `ties` that equal it. Those are among the
// `count` places of `keys`.
inline void cut_row(const float* scores, std::int64_t words, const cpu::Cut& cut, std::int32_t key,
                    cpu::RowSearch& search, std::int64_t count, std::uint64_t* keep) {
  const Vec t = splat(cut.threshold);
  for (std::int64_t word = 0; word < words; ++word) {
    Mask below[vectors_per_word];
    for (int v = 0; v < vectors_per_word; ++v) below[v] = less(load(scores, word * bits::per_word + v * lanes), t);
    keep[word] &= ~pack(below);
  }
  std::int64_t ties = cut.ties;
  for (std::int64_t i = 0; i < count && ties > 0; ++i) {
    if (search.keys[i] != key) continue;
    bits::clear(keep, search.places[i]);
    --ties;
  }
}

// Clears the keep bits of the k lowest of `count` scores, of fewer if fewer are numbers; of equal ones the first go.
// The buffer is padded with NaN to a multiple of 64, and `count` is that multiple. Also says where that cuts, and how
// many live scores are NaN (dead ones have no keep bit, and are NaN or higher than all that go). Where `search` guesses
// decides how long it takes, and nothing else.
inline cpu::RowOutcome drop_lowest_of_row(const float* scores, std::int64_t count, std::int64_t k,
                                          cpu::RowSearch& search, std::uint64_t* keep) {
  const std::int64_t words = count / bits::per_word;
  const std::int64_t dead = count - popcount_words(keep, words);
  const std::int64_t nans = write_halves(scores, count, search.halves);
  if (nans < 0) {
    const cpu::Cut cut = cut_by_halving(scores, count, k);
    std::int64_t ties = cut.ties;
    return {cut, write_mask_tile(scores, keep, count, cut.threshold, ties, keep)};
  }
  k = std::min(k, count - nans);
  if (k <= 0) return {{-std::numeric_limits<float>::infinity(), 0}, nans - dead};
  const FoundHalf found = find_half(search.halves, count, count - nans, k, search.guess, search.spread);
  const std::int64_t listed = list_half(search.halves, count, found.half, search.places);
  for (std::int64_t i = 0; i < listed; ++i) search.keys[i] = signed_key(scores[search.places[i]]);
  const int half = found.half;  // that of zero is between, and holds keys of both signs
  const RankedKey kth = ranked_key(search.keys, listed, k - found.below, (half > 0 ? half : half - 1) * 0x10000,
                                   (half < 0 ? half : half + 1) * 0x10000 - 1);
  const cpu::Cut cut{score_of_signed(kth.key), k - found.below - kth.below};
  cut_row(scores, words, cut, kth.key, search, listed, keep);
  return {cut, nans - dead};
}

}  // namespace
}  // namespace bittersweet
