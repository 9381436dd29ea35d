// Stochastic rounding of 64 elements at a time. Eight numbers of 128 bits serve them; a lane of 64 bits holds one of a
// number's four words while it is made, as the products want it.
#pragma once

#include "bittersweet/stochastic_rounding.hpp"
#include "cpu/simd.hpp"

namespace bittersweet {
namespace {

constexpr int wide_lanes = lanes / 2;
using WideVector = std::uint64_t __attribute__((vector_size(8 * wide_lanes)));

// Products of the lower halves.
BITTERSWEET_INLINE WideVector multiply_low(WideVector a, WideVector b) {
#if BITTERSWEET_LANES == 16
  return reinterpret_cast<WideVector>(_mm512_mul_epu32(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
#elif BITTERSWEET_LANES == 8
  return reinterpret_cast<WideVector>(_mm256_mul_epu32(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#elif defined(__SSE2__)
  return reinterpret_cast<WideVector>(_mm_mul_epu32(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
#else
  return (a & 0xffffffffu) * (b & 0xffffffffu);
#endif
}

// The upper halves, down where the lower ones were; what is left above them does not count. On AVX-512 a shuffle, since
// shifts wait for the unit that multiplies.
BITTERSWEET_INLINE WideVector upper(WideVector a) {
#if BITTERSWEET_LANES == 16
  return reinterpret_cast<WideVector>(_mm512_shuffle_epi32(reinterpret_cast<__m512i>(a), _MM_PERM_DDBB));
#else
  return a >> 32;
#endif
}

// Pairs (a, b) lane by lane, in memory.
BITTERSWEET_INLINE void store_pairs(std::uint64_t* to, WideVector a, WideVector b) {
  WideVector low, high;
#if BITTERSWEET_LANES == 16
  low = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
  high = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#elif BITTERSWEET_LANES == 8
  low = __builtin_shufflevector(a, b, 0, 4, 1, 5);
  high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
#else
  low = __builtin_shufflevector(a, b, 0, 2);
  high = __builtin_shufflevector(a, b, 1, 3);
#endif
  std::memcpy(to, &low, sizeof low);
  std::memcpy(to + wide_lanes, &high, sizeof high);
}

// The random bits of an array, 64 elements at a time.
class RoundingBits {
 public:
  explicit RoundingBits(const RoundingKey& key) : purpose_(splat_wide(key.purpose())), step_(splat_wide(key.step)) {
    auto k0 = static_cast<std::uint32_t>(key.seed), k1 = static_cast<std::uint32_t>(key.seed >> 32);
    for (int round = 0; round < rounds; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
      key0_[round] = splat_wide(k0);
      key1_[round] = splat_wide(k1);
    }
  }

  // Those of elements first .. first + 64, a multiple of 64.
  BITTERSWEET_INLINE void word(std::int64_t first, std::uint16_t (&out)[bits::per_word]) const {
    const auto block = static_cast<std::uint64_t>(first / RoundingKey::block);
    WideVector lane;
    for (int i = 0; i < wide_lanes; ++i) lane[i] = static_cast<std::uint64_t>(i);
    const WideVector m0 = splat_wide(0xD2511F53u), m1 = splat_wide(0xCD9E8D57u);
    constexpr std::uint64_t low = 0xffffffffu;
#pragma GCC unroll 4
    for (int begin = 0; begin < bits::per_word / RoundingKey::block; begin += wide_lanes) {
      WideVector c0 = lane + ((block + static_cast<std::uint64_t>(begin)) & low), c1 = splat_wide(block >> 32);
      WideVector c2 = purpose_, c3 = step_;
#pragma GCC unroll 10
      for (int round = 0; round < rounds; ++round) {  // what is above 32 bits of a lane is never read
        const WideVector p0 = multiply_low(c0, m0), p1 = multiply_low(c2, m1);
        c0 = upper(p1) ^ (c1 ^ key0_[round]);
        c1 = p1;
        c2 = upper(p0) ^ (c3 ^ key1_[round]);
        c3 = p0;
      }
      std::uint64_t pairs[2 * wide_lanes];
      store_pairs(pairs, (c0 & low) | c1 << 32, (c2 & low) | c3 << 32);
      std::memcpy(out + begin * RoundingKey::block, pairs, sizeof pairs);
    }
  }

 private:
  static constexpr int rounds = 10;
  static WideVector splat_wide(std::uint64_t value) { return WideVector{} + value; }

  WideVector purpose_, step_, key0_[rounds], key1_[rounds];
};

// stochastic_bf16 of a vector.
BITTERSWEET_INLINE Vec stochastic(Vec a, const std::uint16_t* random) {
  HalfVector drawn;
  std::memcpy(&drawn, random, sizeof drawn);
#if BITTERSWEET_LANES == 16
  const auto wide = reinterpret_cast<IntVector>(_mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(drawn)));
#elif BITTERSWEET_LANES == 8
  const auto wide = reinterpret_cast<IntVector>(_mm256_cvtepu16_epi32(reinterpret_cast<__m128i>(drawn)));
#else
  const auto wide = __builtin_convertvector(drawn, IntVector);
#endif
  const IntVector old = as_bits(a), magnitude = old & 0x7fffffff;
  using Words = std::uint32_t __attribute__((vector_size(4 * BITTERSWEET_LANES)));
  const Words sum = (reinterpret_cast<Words>(old) + reinterpret_cast<Words>(wide)) & 0xffff0000u;
  return as_floats(magnitude < 0x7f7f0000 ? reinterpret_cast<IntVector>(sum) : old);
}

BITTERSWEET_INLINE void stochastic_word(Vec (&a)[vectors_per_word], const std::uint16_t (&random)[bits::per_word]) {
  for (int k = 0; k < vectors_per_word; ++k) a[k] = stochastic(a[k], random + k * lanes);
}

// `first`, a multiple of 64: where in its array the first element stands.
inline void stochastic_round_chunk(const float* from, std::uint16_t* to, std::int64_t count, const RoundingKey& key,
                                   std::int64_t first) {
  const RoundingBits bits_of(key);
  alignas(64) std::uint16_t random[bits::per_word];
  const std::int64_t whole = count / bits::per_word * bits::per_word;
  for (std::int64_t i = 0; i < whole; i += bits::per_word) {
    prefetch(from + i);
    bits_of.word(first + i, random);
    Vec a[vectors_per_word];
    for (int k = 0; k < vectors_per_word; ++k) a[k] = load(from + i, k * lanes);
    stochastic_word(a, random);
    store_word(to + i, a);
  }
  for (std::int64_t i = whole; i < count; ++i)
    to[i] = float_to_bf16(stochastic_bf16(from[i], rounding_bits(key, static_cast<std::uint64_t>(first + i))));
}

}  // namespace
}  // namespace bittersweet
