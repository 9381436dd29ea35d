// The lowest of every four inputs of a row whose kernels have several places, so that a group's elements lie some way
// apart: each key meets those one, two and three inputs behind it, and takes what those before it have found.
#pragma once

#include "cpu/verbs/group_ranks.hpp"
#include "cpu/verbs/row_rank.hpp"

namespace bittersweet {
namespace {

constexpr std::int64_t most_places = 64;  // of an input

// Bits of a row of groups: those of the first `inputs` of every four. Two periods of them and a word.
struct OfEveryFour {
  std::uint64_t set[bits::words(2 * 4 * most_places) + 2]{};

  OfEveryFour(std::int64_t inner, std::int64_t inputs) {
    bits::Appender next(set, 0);
    const auto add = [&](std::uint64_t word, std::int64_t count) {
      for (; count > 0; count -= bits::per_word)
        next.add(word & bits::valid(count, 0), std::min(count, bits::per_word));
    };
    for (std::int64_t at = 0; at < 4 * inner + bits::per_word; at += 4 * inner) {
      add(~std::uint64_t{0}, inputs * inner);
      add(0, (4 - inputs) * inner);
    }
    next.end();
  }
};

// 64 bits from `first` on, which may lie before them all.
BITTERSWEET_INLINE std::uint64_t read_from(const std::uint64_t* words, std::int64_t first) {
  if (first >= 0) return bits::read(words, first, bits::per_word);
  return first > -bits::per_word ? words[0] << -first : 0;
}

// Clears the keep bits of the lowest; `dropped` comes with the live NaN.
inline void drop_lowest_of_spread_four(const std::int32_t* keys, const cpu::RowGroups& groups, std::int64_t share,
                                       const cpu::GroupScratch& scratch, std::uint64_t* keep) {
  const std::int64_t count = groups.count(), inner = groups.inner, words = bits::words(count);
  std::uint64_t* met[4];  // met[k]: is the key k inputs on lower?
  for (std::int64_t k = 1; k < 4; ++k) {
    met[k] = scratch.gone + (k - 1) * (words + 1);
    for (std::int64_t word = 0; word < words; ++word) {
      Mask lower[vectors_per_word];
      for (int v = 0; v < vectors_per_word; ++v) {
        const std::int64_t at = word * bits::per_word + v * lanes;
        lower[v] = less(load_ints(keys, at + k * inner), load_ints(keys, at));
      }
      met[k][word] = pack(lower);
    }
  }
  const OfEveryFour first(inner, 1), first_two(inner, 2), first_three(inner, 3);
  for (std::int64_t word = 0; word < words; ++word) {
    const std::int64_t at = word * bits::per_word, in_period = at % (4 * inner);
    const auto of = [&](int k, const OfEveryFour& before) {  // is the one k inputs on lower, or the one 4 - k before?
      const std::uint64_t own = bits::read(before.set, in_period, bits::per_word);
      return (met[k][word] & own) | ~(read_from(met[4 - k], at - (4 - k) * inner) | own);
    };
    const std::uint64_t lowest = fewer_lower(share, of(1, first_three), of(2, first_two), of(3, first));
    keep[word] &= ~(lowest & ~scratch.dropped[word] & bits::valid(count, word));
  }
}

}  // namespace
}  // namespace bittersweet
