// Scores as signed integers of the same order, as radix_key.hpp's but for the sign that integer vectors compare by.
#pragma once

#include <bit>

#include "cpu/simd.hpp"

namespace bittersweet {
namespace {

using KeyVector = std::uint32_t __attribute__((vector_size(4 * BITTERSWEET_LANES)));

constexpr std::int32_t lowest_key = std::numeric_limits<std::int32_t>::min();
constexpr std::int32_t infinite_key = 0x7f800000;
constexpr std::int32_t key_of_nans = std::numeric_limits<std::int32_t>::max() - 1;  // adding 1 to a key is no overflow

// Numbers only. Adding 0 makes one zero of two.
BITTERSWEET_INLINE IntVector signed_key(Vec s) {
  const IntVector raw = as_bits(s + 0.0f);
  return raw ^ ((raw >> 31) & 0x7fffffff);
}

inline std::int32_t signed_key(float s) {
  const auto raw = std::bit_cast<std::int32_t>(s + 0.0f);
  return raw ^ ((raw >> 31) & 0x7fffffff);
}
inline float score_of_signed(std::int32_t key) { return std::bit_cast<float>(key ^ ((key >> 31) & 0x7fffffff)); }

// Are these 64 numbers none of which has a sign? Then their bits are their keys.
BITTERSWEET_INLINE bool are_keys(const Vec (&scores)[vectors_per_word]) {
#if BITTERSWEET_LANES == 16
  const auto raw = [&](int v) { return reinterpret_cast<__m512i>(as_bits(scores[v])); };
  const __m512i most = _mm512_max_epu32(_mm512_max_epu32(raw(0), raw(1)), _mm512_max_epu32(raw(2), raw(3)));
  return _mm512_cmpgt_epu32_mask(most, _mm512_set1_epi32(infinite_key)) == 0;
#else
  KeyVector most{};
  for (const Vec& one : scores) {
    const auto raw = reinterpret_cast<KeyVector>(one.x);
    most = raw > most ? raw : most;
  }
  return !any(reinterpret_cast<Mask>(most > KeyVector{} + infinite_key));
#endif
}

BITTERSWEET_INLINE Mask less(IntVector a, IntVector b) {
#if BITTERSWEET_LANES == 16
  return _mm512_cmplt_epi32_mask(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b));
#else
  return a < b;
#endif
}

BITTERSWEET_INLINE Mask equal(IntVector a, IntVector b) {
#if BITTERSWEET_LANES == 16
  return _mm512_cmpeq_epi32_mask(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b));
#else
  return a == b;
#endif
}

BITTERSWEET_INLINE IntVector one_more(IntVector a, Mask where) {
#if BITTERSWEET_LANES == 16
  return reinterpret_cast<IntVector>(
      _mm512_mask_add_epi32(reinterpret_cast<__m512i>(a), where, reinterpret_cast<__m512i>(a), _mm512_set1_epi32(1)));
#else
  return a - where;
#endif
}

BITTERSWEET_INLINE IntVector one_less(IntVector a, Mask where) {
#if BITTERSWEET_LANES == 16
  return reinterpret_cast<IntVector>(
      _mm512_mask_sub_epi32(reinterpret_cast<__m512i>(a), where, reinterpret_cast<__m512i>(a), _mm512_set1_epi32(1)));
#else
  return a + where;
#endif
}

BITTERSWEET_INLINE std::int64_t sum(IntVector a) {
#if BITTERSWEET_LANES == 16
  return _mm512_reduce_add_epi32(reinterpret_cast<__m512i>(a));
#else
  std::int64_t total = 0;
  for (int i = 0; i < lanes; ++i) total += a[i];
  return total;
#endif
}

}  // namespace
}  // namespace bittersweet
