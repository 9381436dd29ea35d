// Random bits for 64 elements at a time. Eight numbers of 128 bits serve them; a lane of 64 bits holds one of a
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

// The random bits of 64 elements, by vectors of floats.
struct RandomWord {
  static constexpr int together = 4;  // that one block of numbers fills
  HalfVector of[vectors_per_word];

  // Pairs (a, b) lane by lane.
  BITTERSWEET_INLINE void put_pairs(int first, WideVector a, WideVector b) {
#if BITTERSWEET_LANES == 16
    const WideVector low = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
    const WideVector high = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#elif BITTERSWEET_LANES == 8
    const WideVector low = __builtin_shufflevector(a, b, 0, 4, 1, 5), high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
#else
    const WideVector low = __builtin_shufflevector(a, b, 0, 2), high = __builtin_shufflevector(a, b, 1, 3);
#endif
    put(first, low);
    put(first + 2, high);
  }

 private:
  BITTERSWEET_INLINE void put(int at, WideVector two) {
#if BITTERSWEET_LANES == 16
    const auto whole = reinterpret_cast<__m512i>(two);
    of[at] = reinterpret_cast<HalfVector>(_mm512_castsi512_si256(whole));
    of[at + 1] = reinterpret_cast<HalfVector>(_mm512_extracti64x4_epi64(whole, 1));
#elif BITTERSWEET_LANES == 8
    const auto whole = reinterpret_cast<__m256i>(two);
    of[at] = reinterpret_cast<HalfVector>(_mm256_castsi256_si128(whole));
    of[at + 1] = reinterpret_cast<HalfVector>(_mm256_extracti128_si256(whole, 1));
#else
    std::memcpy(&of[at], &two, sizeof two);
#endif
  }
};

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
  BITTERSWEET_INLINE RandomWord word(std::int64_t first) const {
    RandomWord drawn[1];
    draw<1>({this}, {first}, drawn);
    return drawn[0];
  }

  // Several at once: the rounds of one follow from each other.
  template <int N>
  static BITTERSWEET_INLINE void draw(const RoundingBits* const (&of)[N], const std::int64_t (&first)[N],
                                      RandomWord (&drawn)[N]) {
    WideVector lane;
    for (int i = 0; i < wide_lanes; ++i) lane[i] = static_cast<std::uint64_t>(i);
    const WideVector m0 = splat_wide(0xD2511F53u), m1 = splat_wide(0xCD9E8D57u);
    constexpr std::uint64_t low = 0xffffffffu;
#pragma GCC unroll 4
    for (int part = 0; part < vectors_per_word; part += RandomWord::together) {
      WideVector c0[N], c1[N], c2[N], c3[N];
#pragma GCC unroll 4
      for (int i = 0; i < N; ++i) {
        const auto block =
            static_cast<std::uint64_t>(first[i] / RoundingKey::block + part / RandomWord::together * wide_lanes);
        c0[i] = lane + (block & low);
        c1[i] = splat_wide(block >> 32);
        c2[i] = of[i]->purpose_;
        c3[i] = of[i]->step_;
      }
#pragma GCC unroll 10
      for (int round = 0; round < rounds; ++round)  // what is above 32 bits of a lane is never read
#pragma GCC unroll 4
        for (int i = 0; i < N; ++i) {
          const WideVector p0 = multiply_low(c0[i], m0), p1 = multiply_low(c2[i], m1);
          c0[i] = upper(p1) ^ (c1[i] ^ of[i]->key0_[round]);
          c1[i] = p1;
          c2[i] = upper(p0) ^ (c3[i] ^ of[i]->key1_[round]);
          c3[i] = p0;
        }
#pragma GCC unroll 4
      for (int i = 0; i < N; ++i) drawn[i].put_pairs(part, (c0[i] & low) | c1[i] << 32, (c2[i] & low) | c3[i] << 32);
    }
  }

 private:
  static constexpr int rounds = 10;
  static WideVector splat_wide(std::uint64_t value) { return WideVector{} + value; }

  WideVector purpose_, step_, key0_[rounds], key1_[rounds];
};

}  // namespace
}  // namespace bittersweet
