// Stochastic rounding of 64 elements at a time.
#pragma once

#include "cpu/verbs/rounding_bits.hpp"
#include "cpu/verbs/signed_key.hpp"

namespace bittersweet {
namespace {

// The sums that stochastic_bf16 cuts off, and whether it takes them: it leaves the largest alone.
struct DrawnSum {
  using Words = std::uint32_t __attribute__((vector_size(4 * BITTERSWEET_LANES)));
  Words sum;
  Mask taken;
};

BITTERSWEET_INLINE DrawnSum drawn_sum(Vec a, HalfVector random) {
#if BITTERSWEET_LANES == 16
  const auto wide = reinterpret_cast<DrawnSum::Words>(_mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(random)));
#elif BITTERSWEET_LANES == 8
  const auto wide = reinterpret_cast<DrawnSum::Words>(_mm256_cvtepu16_epi32(reinterpret_cast<__m128i>(random)));
#else
  const auto wide = __builtin_convertvector(random, DrawnSum::Words);
#endif
  const IntVector old = as_bits(a);
  return {reinterpret_cast<DrawnSum::Words>(old) + wide, less(old & 0x7fffffff, IntVector{} + 0x7f7f0000)};
}

// stochastic_bf16 of a vector.
BITTERSWEET_INLINE Vec stochastic(Vec a, HalfVector random) {
  const DrawnSum drawn = drawn_sum(a, random);
  const Vec rounded = as_floats(reinterpret_cast<IntVector>(drawn.sum & 0xffff0000u));
#if BITTERSWEET_LANES == 16
  return {_mm512_mask_mov_ps(a.x, drawn.taken, rounded.x)};
#else
  return {drawn.taken ? rounded.x : a.x};
#endif
}

// stochastic_bf16_bits of 64 elements.
BITTERSWEET_INLINE void store_stochastic_word(std::uint16_t* to, const Vec (&a)[vectors_per_word],
                                              const RandomWord& random) {
  IntVector upper_halves[vectors_per_word];
  Mask taken[vectors_per_word];
  for (int k = 0; k < vectors_per_word; ++k) {
    const DrawnSum drawn = drawn_sum(a[k], random.of[k]);
    upper_halves[k] = reinterpret_cast<IntVector>(drawn.sum >> 16);
    taken[k] = drawn.taken;
  }
  if (pack(taken) == ~std::uint64_t{0}) [[likely]]
    return store_word(to, upper_halves);
  for (int k = 0; k < vectors_per_word; ++k) store(to, k * lanes, stochastic(a[k], random.of[k]));
}

// `first`, a multiple of 64: where in its array the first element stands.
inline void stochastic_round_chunk(const float* from, std::uint16_t* to, std::int64_t count, const RoundingKey& key,
                                   std::int64_t first) {
  const RoundingBits bits_of(key);
  const std::int64_t whole = count / bits::per_word * bits::per_word;
  const auto round = [&](std::int64_t i, const RandomWord& random) {
    prefetch(from + i);
    Vec a[vectors_per_word];
    for (int k = 0; k < vectors_per_word; ++k) a[k] = load(from + i, k * lanes);
    store_stochastic_word(to + i, a, random);
  };
  std::int64_t done = 0;
  if constexpr (lanes == 16)  // registers for several
    for (constexpr std::int64_t w = bits::per_word; done + 4 * w <= whole; done += 4 * w) {
      RandomWord random[4];
      const std::int64_t at = first + done;
      RoundingBits::draw<4>({&bits_of, &bits_of, &bits_of, &bits_of}, {at, at + w, at + 2 * w, at + 3 * w}, random);
      for (int i = 0; i < 4; ++i) round(done + i * w, random[i]);
    }
  for (; done < whole; done += bits::per_word) round(done, bits_of.word(first + done));
  for (std::int64_t i = whole; i < count; ++i)
    to[i] = stochastic_bf16_bits(from[i], rounding_bits(key, static_cast<std::uint64_t>(first + i)));
}

}  // namespace
}  // namespace bittersweet
