// The lowest of every M inputs where M lies in one vector: each key meets those of its group by turning them around.
#pragma once

#include <bit>
#include <utility>

#include "cpu/verbs/ahead.hpp"
#include "cpu/verbs/bits.hpp"
#include "cpu/verbs/signed_key.hpp"

namespace bittersweet {
namespace {

// f(word, keys of its 64 elements as vectors, its live NaN) for whole words of a row, dead ones lowest, NaN highest.
// Returns how many NaN live.
template <class F>
BITTERSWEET_INLINE std::int64_t for_each_keyed_word(const float* row, std::int64_t count, const std::uint64_t* live,
                                                    cpu::Ahead& ahead, F&& f) {
  const Vec lowest = as_floats(IntVector{} + lowest_key);
  std::int64_t nans = 0;
  for (std::int64_t word = 0; word < bits::words(count); ++word) {
    const std::uint64_t alive = live[word];
    IntVector keys[vectors_per_word];
    Mask number[vectors_per_word];
    for (int v = 0; v < vectors_per_word; ++v) {
      const Vec s = load(row, word * bits::per_word + v * lanes);
      if (v % (lanes_of_a_line / lanes) == 0) ask(ahead);
      number[v] = equal(s, s);
      keys[v] = s.x == s.x ? signed_key(s) : IntVector{} + key_of_nans;
      if (alive == ~std::uint64_t{0}) continue;
      const LaneMask on = lanes_on(alive, v);
      keys[v] = as_bits(kept(as_floats(keys[v]), on)) | as_bits(dropped(lowest, on));
    }
    const std::uint64_t nan = ~pack(number) & alive & bits::valid(count, word);
    nans += bits::count(nan);
    f(word, keys, nan);
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

template <int Size>
std::int64_t drop_lowest(const float* row, std::int64_t count, std::int64_t share, std::uint64_t* keep,
                         cpu::Ahead& ahead) {
  return for_each_keyed_word(
      row, count, keep, ahead, [&](std::int64_t word, const IntVector(&keys)[vectors_per_word], std::uint64_t nan) {
        const std::uint64_t gone = with_rank_below<Size>(share, keys, std::make_integer_sequence<int, Size / 2>{});
        keep[word] &= ~(gone & ~nan & bits::valid(count, word));
      });
}

}  // namespace
}  // namespace bittersweet
