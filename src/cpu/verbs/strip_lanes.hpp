// The 16 partial sums of a row, and 32 elements of it from their mask and packed values. Included by
// verbs_strips_*.cpp only.
#pragma once

#include <array>
#include <cmath>

#include "bittersweet/sparse/packed_matrix.hpp"
#include "cpu/simd.hpp"
#include "cpu/verbs/strip_shuffles.hpp"

namespace bittersweet {
namespace {

// Elements as their C++ types say what they are: float, bf16 bits, f16 bits.
using Bf16 = std::uint16_t;
using F16 = Half;

template <class T>
inline constexpr DType dtype_of = sizeof(T) == 4            ? DType::f32
                                  : std::is_same_v<T, Bf16> ? DType::bf16
                                                            : DType::f16;

#if BITTERSWEET_LANES == 16
using Lanes = __m512;

BITTERSWEET_INLINE Lanes no_lanes() { return _mm512_setzero_ps(); }
BITTERSWEET_INLINE Lanes load_lanes(const float* from) { return _mm512_loadu_ps(from); }
BITTERSWEET_INLINE void store_lanes(float* to, Lanes a) { _mm512_storeu_ps(to, a); }
BITTERSWEET_INLINE Lanes add_product(Lanes w, Lanes x, Lanes sum) { return _mm512_fmadd_ps(w, x, sum); }
BITTERSWEET_INLINE float fold(Lanes a) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

// A load that stays one: expanding from memory takes twice as long as from a register.
BITTERSWEET_INLINE __m512i load_apart(const void* from) {
  __m512i loaded = _mm512_loadu_si512(from);
  asm("" : "+v"(loaded));
  return loaded;
}

// Whether expanding and shuffling are to take turns: on AMD's Zen 4 an expansion occupies the vector units for four
// cycles and more, and the two together take half the time of either.
#if defined(BITTERSWEET_EXPANDS_SLOWLY)
inline constexpr bool takes_turns = true;
#else
inline constexpr bool takes_turns = false;
#endif

BITTERSWEET_INLINE Lanes spread_16_floats(std::uint32_t mask, const float*& from) {
  const __m256 low = spread_floats(static_cast<std::uint8_t>(mask), from);
  return _mm512_insertf32x8(_mm512_castps256_ps512(low), spread_floats(static_cast<std::uint8_t>(mask >> 8), from), 1);
}

BITTERSWEET_INLINE Lanes expand_16_floats(std::uint32_t mask, const float*& from) {
  const auto half = static_cast<__mmask16>(mask);
  const Lanes all = _mm512_maskz_expand_ps(half, _mm512_castsi512_ps(load_apart(from)));
  from += strips::live(half);
  return all;
}

BITTERSWEET_INLINE void decode(std::uint32_t mask, const float*& from, Lanes& first, Lanes& second, int) {
  first = expand_16_floats(mask, from);
  second = takes_turns ? spread_16_floats(mask >> 16, from) : expand_16_floats(mask >> 16, from);
}

// 32 elements of 16 bits.
template <class T>
BITTERSWEET_INLINE __m512i spread_32(std::uint32_t mask, const T*& from) {
  const __m256i low = spread_16(mask, from);
  return _mm512_inserti64x4(_mm512_castsi256_si512(low), spread_16(mask >> 16, from), 1);
}

#if defined(__AVX512VBMI2__)
template <class T>
BITTERSWEET_INLINE __m512i expand_32(std::uint32_t mask, const T*& from) {
  const __m512i all = _mm512_maskz_expand_epi16(mask, load_apart(from));
  from += strips::live(mask);
  return all;
}

template <class T>
BITTERSWEET_INLINE __m512i words_of(std::uint32_t mask, const T*& from, int row) {
  return takes_turns && row % 2 == 0 ? spread_32(mask, from) : expand_32(mask, from);
}
#else
template <class T>
BITTERSWEET_INLINE __m512i words_of(std::uint32_t mask, const T*& from, int) {
  return spread_32(mask, from);
}
#endif

BITTERSWEET_INLINE void decode(std::uint32_t mask, const Bf16*& from, Lanes& first, Lanes& second, int row) {
  const __m512i all = words_of(mask, from, row);
  first = _mm512_castsi512_ps(_mm512_slli_epi32(all, 16));
  second = _mm512_castsi512_ps(_mm512_and_si512(all, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}

BITTERSWEET_INLINE void decode(std::uint32_t mask, const F16*& from, Lanes& first, Lanes& second, int) {
#if defined(__AVX512VBMI2__) && !defined(BITTERSWEET_EXPANDS_SLOWLY)
  const __m512i all = expand_32(mask, from);
  first = _mm512_cvtph_ps(_mm512_castsi512_si256(all));
  second = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(all, 1));
#else
  first = _mm512_cvtph_ps(spread_16(mask, from));
  second = _mm512_cvtph_ps(spread_16(mask >> 16, from));
#endif
}
#elif BITTERSWEET_LANES == 8
struct Lanes {
  __m256 low, high;
};

BITTERSWEET_INLINE Lanes no_lanes() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
BITTERSWEET_INLINE Lanes load_lanes(const float* from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
BITTERSWEET_INLINE void store_lanes(float* to, Lanes a) {
  _mm256_storeu_ps(to, a.low);
  _mm256_storeu_ps(to + 8, a.high);
}
BITTERSWEET_INLINE Lanes add_product(Lanes w, Lanes x, Lanes sum) {
  return {_mm256_fmadd_ps(w.low, x.low, sum.low), _mm256_fmadd_ps(w.high, x.high, sum.high)};
}
BITTERSWEET_INLINE float fold(Lanes a) {
  const __m256 eight = _mm256_add_ps(a.low, a.high);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

BITTERSWEET_INLINE void decode(std::uint32_t mask, const float*& from, Lanes& first, Lanes& second, int) {
  for (Lanes* const lanes_of : {&first, &second}) {
    lanes_of->low = spread_floats(static_cast<std::uint8_t>(mask), from);
    lanes_of->high = spread_floats(static_cast<std::uint8_t>(mask >> 8), from);
    mask >>= 16;
  }
}

BITTERSWEET_INLINE void decode(std::uint32_t mask, const Bf16*& from, Lanes& first, Lanes& second, int) {
  const __m256i low = spread_16(mask, from), high = spread_16(mask >> 16, from);
  const __m256i upper = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  first = {_mm256_castsi256_ps(_mm256_slli_epi32(low, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(high, 16))};
  second = {_mm256_castsi256_ps(_mm256_and_si256(low, upper)), _mm256_castsi256_ps(_mm256_and_si256(high, upper))};
}

BITTERSWEET_INLINE void decode(std::uint32_t mask, const F16*& from, Lanes& first, Lanes& second, int) {
  for (Lanes* const lanes_of : {&first, &second}) {
    const __m256i words = spread_16(mask, from);
    *lanes_of = {_mm256_cvtph_ps(_mm256_castsi256_si128(words)), _mm256_cvtph_ps(_mm256_extracti128_si256(words, 1))};
    mask >>= 16;
  }
}
#else
struct Lanes {
  float at[strips::lanes];
};

BITTERSWEET_INLINE Lanes no_lanes() { return {}; }
BITTERSWEET_INLINE Lanes load_lanes(const float* from) {
  Lanes loaded;
  std::memcpy(loaded.at, from, sizeof loaded.at);
  return loaded;
}
BITTERSWEET_INLINE Lanes add_product(const Lanes& w, const Lanes& x, Lanes sum) {
  for (int j = 0; j < strips::lanes; ++j) sum.at[j] = __builtin_fmaf(w.at[j], x.at[j], sum.at[j]);
  return sum;
}
BITTERSWEET_INLINE float fold(Lanes a) {
  for (int n = strips::lanes / 2; n > 0; n /= 2)
    for (int j = 0; j < n; ++j) a.at[j] += a.at[j + n];
  return a.at[0];
}

BITTERSWEET_INLINE float as_float(float x) { return x; }
BITTERSWEET_INLINE float as_float(Bf16 x) { return bf16_to_float(x); }
BITTERSWEET_INLINE float as_float(F16 x) { return f16_to_float(x.bits); }

template <class T>
BITTERSWEET_INLINE void decode(std::uint32_t mask, const T*& from, Lanes& first, Lanes& second, int) {
  first = second = {};
  for (int c = 0; c < strips::width; ++c) {
    if (!strips::has(mask, c)) continue;
    const bool later = dtype_of<T> == DType::bf16 ? c % 2 != 0 : c >= strips::lanes;
    (later ? second : first).at[strips::lane_of(dtype_of<T>, c)] = as_float(*from++);
  }
}
#endif

}  // namespace
}  // namespace bittersweet
