// The k lowest scores of a row that lies in the first caches. One pass counts those below a bracket around the place
// where rows were cut before, and lists what lies inside. Where the k-th is not there, the upper halves of the scores
// are searched for it as 16-bit keys, four counts in a pass. The few scores left are ranked exactly.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "cpu/kernels.hpp"
#include "cpu/verbs/ahead.hpp"
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
inline std::int64_t write_halves(const float* scores, std::int64_t count, std::int16_t* halves, cpu::Ahead& ahead) {
  std::int64_t nans = 0;
  ShortVector any_infinite{};
  for (std::int64_t begin = 0; begin < count; begin += most_vectors * short_lanes) {
    const std::int64_t end = std::min(count, begin + most_vectors * short_lanes);
    ShortVector numbers{};
    for (std::int64_t i = begin; i < end; i += short_lanes) {
      if (i % bits::per_word == 0) ask(ahead);
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

constexpr int counts_at_once = 4;

// found[n] = how many halves are at or below at[n].
BITTERSWEET_INLINE void count_halves(const std::int16_t* halves, std::int64_t count, const int (&at)[counts_at_once],
                                     std::int64_t (&found)[counts_at_once], cpu::Ahead& ahead) {
  ShortVector t[counts_at_once];
  for (int n = 0; n < counts_at_once; ++n) t[n] = ShortVector{} + static_cast<std::int16_t>(at[n]), found[n] = 0;
  for (std::int64_t begin = 0; begin < count; begin += most_vectors * short_lanes) {
    const std::int64_t end = std::min(count, begin + most_vectors * short_lanes);
    ShortVector sums[counts_at_once]{};
    for (std::int64_t i = begin; i < end; i += short_lanes) {
      if (i % bits::per_word == 0) ask(ahead);
      const ShortVector own = load_shorts(halves, i);
      for (int n = 0; n < counts_at_once; ++n) sums[n] -= own <= t[n];
    }
    for (int n = 0; n < counts_at_once; ++n) found[n] += sum(sums[n]);
  }
}

// The half of the k-th lowest score, and how many lie below it. There are k numbers at least. Counts are taken around
// a guess, then around the place where the k-th would lie if the scores inside were spread evenly, and in the middle,
// so that every pass halves the range.
struct FoundHalf {
  int half;
  std::int64_t below;
};
inline FoundHalf find_half(const std::int16_t* halves, std::int64_t count, std::int64_t numbers, std::int64_t k,
                           int guess, int spread, cpu::Ahead& ahead) {
  int under = -infinite - 1, over = infinite - 1;  // fewer than k at or below the first, k or more at the second
  std::int64_t up_to_under = 0, up_to_over = numbers;
  int at[counts_at_once];
  const auto place = [&](int n, int half) { at[n] = std::clamp(half, under + 1, std::max(under + 1, over - 1)); };
  for (int n = 0; n < counts_at_once; ++n) place(n, guess + (2 * n - 3) * spread);
  while (over - under > 1) {
    std::int64_t found[counts_at_once];
    count_halves(halves, count, at, found, ahead);
    for (int n = 0; n < counts_at_once; ++n) {
      if (found[n] < k && at[n] > under) under = at[n], up_to_under = found[n];
      if (found[n] >= k && at[n] < over) over = at[n], up_to_over = found[n];
    }
    const int width = over - under, near = std::max(1, width / 16);
    const double inside = static_cast<double>(up_to_over - up_to_under);
    const int even = under + static_cast<int>(width * (static_cast<double>(k - up_to_under) - 0.5) / inside);
    place(0, even - near), place(1, even), place(2, even + near), place(3, under + width / 2);
  }
  return {over, up_to_under};
}

// Places in a row, in order. As many as `room` and `slack` more may be written; `count` beyond `room`: not all are
// there.
struct Places {
  static constexpr std::int64_t slack = 4;  // what is listed without a branch may be nothing
  std::int32_t* at;
  std::int64_t room;
  std::int64_t count = 0;

  BITTERSWEET_INLINE void add(std::int64_t first, std::uint64_t word) {
    const std::int64_t found = bits::count(word);
    if (count + found <= room) [[likely]] {
      const auto place = [&](std::int64_t j) {
        at[count + j] = static_cast<std::int32_t>(first + bits::lowest_or_width(word));
        word = bits::without_lowest(word);
      };
      for (std::int64_t j = 0; j < slack; ++j) place(j);
      for (std::int64_t j = slack; j < found; ++j) place(j);
    }
    count += found;
  }
};

// Scores from `lowest` to `highest`, as keys; how many lie below, and where those are that lie inside.
struct KeyBracket {
  std::int32_t lowest, highest;
  Places inside;
  std::int64_t below = 0;

  bool holds(std::int64_t k) const { return k > below && k <= below + inside.count && inside.count <= inside.room; }
};

// Where the cut is looked for first: nearly all lie there, where the rows of a matrix are alike. Where they
// are not, so much would lie inside that a search takes less time.
inline std::optional<KeyBracket> near_last_cuts(const cpu::RowSearch& search, std::int64_t count) {
  constexpr double most = 24 << 16, end = infinite << 16;
  const double reach = 3 * search.deviation;
  if (search.first || reach > most) return std::nullopt;
  return KeyBracket{static_cast<std::int32_t>(std::max(search.center - reach, -end)),
                    static_cast<std::int32_t>(std::min(search.center + reach, end)),
                    {search.places, count / 8}};
}

inline void remember(cpu::RowSearch& search, std::int32_t key) {
  constexpr double unknown = 64 << 16;
  const double off = key - search.center;
  search.center += search.first ? off : off / 4;
  search.deviation =
      search.first ? unknown : search.deviation + (std::min(std::abs(off), unknown) - search.deviation) / 8;
  search.first = false;
}

// Returns how many live scores are NaN.
inline std::int64_t read_bracket(const float* scores, const std::uint64_t* keep, std::int64_t count,
                                 KeyBracket& bracket, cpu::Ahead& ahead) {
  const Vec low = splat(score_of_signed(bracket.lowest)), high = splat(score_of_signed(bracket.highest));
  std::int64_t nans = 0;
  for (std::int64_t i = 0; i < count; i += bits::per_word) {
    Mask lower[vectors_per_word], up_to[vectors_per_word], number[vectors_per_word];
    for (int v = 0; v < vectors_per_word; ++v) {
      const Vec s = load(scores, i + v * lanes);
      lower[v] = less(s, low);
      up_to[v] = less_equal(s, high);
      number[v] = equal(s, s);
    }
    ask(ahead, 2);
    const std::uint64_t below = pack(lower);
    nans += bits::count(~pack(number) & keep[i / bits::per_word]);
    bracket.below += bits::count(below);
    bracket.inside.add(i, pack(up_to) & ~below);
  }
  return nans;
}

// The scores whose half is that of the k-th.
inline void search_halves(std::int64_t count, std::int64_t numbers, std::int64_t k, cpu::RowSearch& search,
                          KeyBracket& bracket) {
  const int guess = static_cast<int>(search.center / 0x10000), spread = static_cast<int>(search.deviation / 0x10000);
  const FoundHalf found = find_half(search.halves, count, numbers, k, guess, std::max(2, spread), search.ahead);
  const int half = found.half;  // that of zero is between, and holds keys of both signs
  bracket = {(half > 0 ? half : half - 1) * 0x10000,
             (half < 0 ? half : half + 1) * 0x10000 - 1,
             {search.places, count},
             found.below};
  const ShortVector t = ShortVector{} + static_cast<std::int16_t>(half);
  for (std::int64_t i = 0; i < count; i += bits::per_word) {
    ShortMask same[shorts_per_word];
    for (int v = 0; v < shorts_per_word; ++v) same[v] = equal(load_shorts(search.halves, i + v * short_lanes), t);
    bracket.inside.add(i, pack(same));
  }
}

// Clears the keep bits of the scores below the threshold, and of the first `ties` that equal it. Those are among the
// `count` places of `keys`.
inline void cut_row(const float* scores, std::int64_t words, const cpu::Cut& cut, std::int32_t key,
                    cpu::RowSearch& search, std::int64_t count, std::uint64_t* keep) {
  const Vec t = splat(cut.threshold);
  for (std::int64_t word = 0; word < words; ++word) {
    Mask below[vectors_per_word];
    for (int v = 0; v < vectors_per_word; ++v) below[v] = less(load(scores, word * bits::per_word + v * lanes), t);
    ask(search.ahead);
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
// many live scores are NaN (dead ones have no keep bit, and are NaN or higher than all that go). What `search`
// remembers decides how long it takes, and nothing else.
inline cpu::RowOutcome drop_lowest_of_row(const float* scores, std::int64_t count, std::int64_t k,
                                          cpu::RowSearch& search, std::uint64_t* keep) {
  const std::int64_t words = count / bits::per_word;
  std::optional<KeyBracket> found = near_last_cuts(search, count);
  std::int64_t live_nans = 0;
  if (found) live_nans = read_bracket(scores, keep, count, *found, search.ahead);
  if (!found || !found->holds(k)) {
    const std::int64_t dead = count - popcount_words(keep, words);
    const std::int64_t nans = write_halves(scores, count, search.halves, search.ahead);
    if (nans < 0) {
      const cpu::Cut cut = cut_by_halving(scores, count, k);
      std::int64_t ties = cut.ties;
      return {cut, write_mask_tile(scores, keep, count, cut.threshold, ties, keep)};
    }
    live_nans = nans - dead;
    k = std::min(k, count - nans);
    if (k <= 0) return {{-std::numeric_limits<float>::infinity(), 0}, live_nans};
    search_halves(count, count - nans, k, search, found.emplace());
  }
  const std::int64_t listed = found->inside.count;
  for (std::int64_t i = 0; i < listed; ++i) search.keys[i] = signed_key(scores[search.places[i]]);
  const RankedKey kth = ranked_key(search.keys, listed, k - found->below, found->lowest, found->highest);
  const cpu::Cut cut{score_of_signed(kth.key), k - found->below - kth.below};
  cut_row(scores, words, cut, kth.key, search, listed, keep);
  remember(search, kth.key);
  return {cut, live_nans};
}

}  // namespace
}  // namespace bittersweet
