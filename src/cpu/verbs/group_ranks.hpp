// The lowest of every M inputs where M lies in one vector: each key meets those of its group by turning them around.
#pragma once

#include <bit>
#include <utility>

#include "cpu/verbs/scored.hpp"
#include "cpu/verbs/signed_key.hpp"

namespace bittersweet {
namespace {

struct KeyedWord {
  IntVector keys[vectors_per_word];
  std::uint64_t nan;  // that live
};

// Keys of 64 scores: dead ones lowest, NaN highest.
BITTERSWEET_INLINE KeyedWord keyed(const WordOfScores& scores, std::uint64_t alive) {
  const Vec lowest = as_floats(IntVector{} + lowest_key);
  KeyedWord word;
  word.nan = 0;
  for (int v = 0; v < vectors_per_word; ++v) word.keys[v] = signed_key(scores[v]);
  if (any_nan(scores)) [[unlikely]] {
    Mask number[vectors_per_word];
    for (int v = 0; v < vectors_per_word; ++v) {
      const Vec s = scores[v];
      number[v] = equal(s, s);
      word.keys[v] = s.x == s.x ? word.keys[v] : IntVector{} + key_of_nans;
    }
    word.nan = ~pack(number) & alive;
  }
  if (alive == ~std::uint64_t{0}) return word;
  for (int v = 0; v < vectors_per_word; ++v) {
    const LaneMask on = lanes_on(alive, v);
    word.keys[v] = as_bits(kept(as_floats(word.keys[v]), on)) | as_bits(dropped(lowest, on));
  }
  return word;
}

// f(word, keys of its 64 elements, its live NaN) for whole words of a row in a buffer. Returns how many NaN live.
template <class F>
BITTERSWEET_INLINE std::int64_t for_each_keyed_word(const float* row, std::int64_t count, const std::uint64_t* live,
                                                    cpu::ReadNext& next, F&& f) {
  std::int64_t nans = 0;
  for (std::int64_t word = 0; word < bits::words(count); ++word) {
    for (std::int64_t i = 0; i < bits::per_word; i += cpu::ReadNext::elements) ask(next);
    WordOfScores scores;
    for (int v = 0; v < vectors_per_word; ++v) scores[v] = load(row, word * bits::per_word + v * lanes);
    KeyedWord found = keyed(scores, live[word]);
    found.nan &= bits::valid(count, word);
    nans += bits::count(found.nan);
    f(word, found);
  }
  return nans;
}

// Lane i has what its group has `Turn` places on.
template <int Size, int Turn, int... Lane>
BITTERSWEET_INLINE IntVector turned(IntVector a, std::integer_sequence<int, Lane...>) {
  return __builtin_shufflevector(a, a, (Lane / Size * Size + (Lane + Turn) % Size)...);
}

// 1 where that place comes before lane i: an equal key there is the lower one.
template <int Size, int Turn, int... Lane>
BITTERSWEET_INLINE IntVector wraps(std::integer_sequence<int, Lane...>) {
  return IntVector{(Lane % Size + Turn >= Size ? 1 : 0)...};
}

// Bit i: the one `Turn` places on in its group is lower than element i.
template <int Size, int Turn>
BITTERSWEET_INLINE std::uint64_t lower_after(const IntVector (&keys)[vectors_per_word]) {
  constexpr auto all = std::make_integer_sequence<int, lanes>{};
  Mask lower[vectors_per_word];
  for (int v = 0; v < vectors_per_word; ++v)
    lower[v] = less(turned<Size, Turn>(keys[v], all), keys[v] + wraps<Size, Turn>(all));
  return pack(lower);
}

// The same for Size - Turn places on: of two, one is the lower.
template <int Size, int Turn>
BITTERSWEET_INLINE std::uint64_t lower_before(std::uint64_t after) {
  constexpr std::uint64_t first = ~std::uint64_t{0} / ((Size == 64 ? 0 : std::uint64_t{1} << Size) - 1) *
                                  ((std::uint64_t{1} << Turn) - 1);  // the first Turn bits of every group
  return ~(((after << Turn) & ~first) | ((after >> (Size - Turn)) & first));
}

// Counts of 64 elements, a bit of each in a word.
template <int Bits>
struct Counters {
  std::uint64_t bit[Bits]{};

  BITTERSWEET_INLINE void add(std::uint64_t one) {
    for (int b = 0; b < Bits; ++b) {
      const std::uint64_t carry = bit[b] & one;
      bit[b] ^= one;
      one = carry;
    }
  }
  BITTERSWEET_INLINE std::uint64_t below(std::int64_t limit) const {
    if (limit >> Bits != 0) return ~std::uint64_t{0};
    std::uint64_t less = 0, same = ~std::uint64_t{0};
    for (int b = Bits - 1; b >= 0; --b) {
      const std::uint64_t of_limit = limit >> b & 1 ? ~std::uint64_t{0} : 0;
      less |= same & ~bit[b] & of_limit;
      same &= ~(bit[b] ^ of_limit);
    }
    return less;
  }
};

template <int Size, int... Before>
BITTERSWEET_INLINE std::uint64_t with_rank_below(std::int64_t share, const IntVector (&keys)[vectors_per_word],
                                                 std::integer_sequence<int, Before...>) {
  Counters<std::bit_width(unsigned{Size - 1})> rank;
  const auto meet = [&]<int Turn>() {
    const std::uint64_t after = lower_after<Size, Turn>(keys);
    rank.add(after);
    if (2 * Turn != Size) rank.add(lower_before<Size, Turn>(after));
  };
  (meet.template operator()<Before + 1>(), ...);
  return rank.below(share);
}

// The keep bits of a word without its groups' lowest.
template <int Size>
BITTERSWEET_INLINE std::uint64_t without_lowest_of(const KeyedWord& word, std::int64_t share, std::uint64_t keep) {
  return keep & ~(with_rank_below<Size>(share, word.keys, std::make_integer_sequence<int, Size / 2>{}) & ~word.nan);
}

template <int Size>
std::int64_t drop_lowest(const float* row, std::int64_t count, std::int64_t share, std::uint64_t* keep,
                         cpu::ReadNext& next) {
  return for_each_keyed_word(row, count, keep, next, [&](std::int64_t word, const KeyedWord& found) {
    const std::uint64_t valid = bits::valid(count, word), kept_ones = without_lowest_of<Size>(found, share, keep[word]);
    keep[word] = (kept_ones & valid) | (keep[word] & ~valid);
  });
}

template <int A, int B, int C, int D, int... Lane>
BITTERSWEET_INLINE Vec in_fours(Vec a, std::integer_sequence<int, Lane...>) {
  constexpr int from[] = {A, B, C, D};
  return {__builtin_shufflevector(a.x, a.x, (Lane / 4 * 4 + from[Lane % 4])...)};
}

// Of four elements, each with one bit in each of three words for one of the others, set if that is lower: those with
// fewer than `share` lower ones.
BITTERSWEET_INLINE std::uint64_t fewer_lower(std::int64_t share, std::uint64_t a, std::uint64_t b, std::uint64_t c) {
  switch (share) {
    case 0: return 0;
    case 1: return ~(a | b | c);
    case 2: return ~((a & b) | (c & (a | b)));
    case 3: return ~(a & b & c);
    default: return ~std::uint64_t{0};
  }
}

// Which of every four neighbours have fewer than `share` below them; of equal ones the first is the lower. No NaN.
BITTERSWEET_INLINE std::uint64_t lowest_of_four(const WordOfScores& scores, std::int64_t share) {
  constexpr auto all = std::make_integer_sequence<int, lanes>{};
  constexpr std::uint64_t each = ~std::uint64_t{0} / 15;  // the first of every four bits
  Mask side[vectors_per_word], across[vectors_per_word];
  for (int v = 0; v < vectors_per_word; ++v) {
    const Vec s = scores[v];
    side[v] = less(in_fours<1, 2, 3, 3>(s, all), in_fours<0, 1, 2, 0>(s, all));
    across[v] = less(in_fours<2, 3, 2, 3>(s, all), s);
  }
  const std::uint64_t p = pack(side), q = pack(across);  // is 1 below 0, 2 below 1, 3 below 2, 3 below 0; 2, 0; 3, 1?
  // Each has one bit in each of these for one of the other three.
  const std::uint64_t a = (p & 7 * each) | (~(p << 1) & 8 * each);
  const std::uint64_t b = ((p >> 3) & each) | (~(p << 1) & 6 * each) | (~p & 8 * each);
  const std::uint64_t c = (q & 3 * each) | (~(q << 2) & 12 * each);
  return fewer_lower(share, a, b, c);
}

// Writes the bits of up to RowTile::most rows without the `share` lowest of every four neighbours. Returns the live
// NaN, which stay.
template <class S, std::size_t St>
std::int64_t drop_lowest_of_four(const Scorer& scorer, std::span<const cpu::RowTile> rows, std::int64_t count,
                                 std::int64_t share) {
  const Vec lowest = splat(-std::numeric_limits<float>::infinity());
  std::int64_t nans = 0;
  for_each_word_of_rows<S, StoredType<St>>(
      scorer, rows, count,
      [&](const cpu::RowTile& row, std::int64_t word, std::uint64_t live, const WordOfScores& scores) {
        WordOfScores s;
        Mask deep[vectors_per_word];
        bool plain = true;
        if (live == ~std::uint64_t{0}) {
          for (int v = 0; v < vectors_per_word; ++v) s[v] = scores[v];
        } else {  // the dead are lowest, unless a live score is as low
          for (int v = 0; v < vectors_per_word; ++v) {
            const LaneMask on = lanes_on(live, v);
            s[v] = as_floats(as_bits(kept(scores[v], on)) | as_bits(dropped(lowest, on)));
            deep[v] = equal(scores[v], lowest);
          }
          plain = (pack(deep) & live) == 0;
        }
        if (plain && !any_nan(s)) [[likely]] {
          row.keep[word] = live & ~lowest_of_four(s, share);
          return;
        }
        const KeyedWord found = keyed(scores, live);
        nans += bits::count(found.nan);
        row.keep[word] = without_lowest_of<4>(found, share, live);
      });
  return nans;
}

}  // namespace
}  // namespace bittersweet
