// Vectors of floats for the instruction set that this unit is compiled for. Included by verbs_*.cpp only: everything
// is in an unnamed namespace, so that no unit can lend its instructions to another.
//
// Formulas are written for a value type F; Vec is one. Masks are plain unsigned words with one bit a lane.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

#include "bittersweet/mask/bit_layout.hpp"
#include "bittersweet/score/scorer.hpp"
#include "cpu/prefetch.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace bittersweet {
namespace {

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#define BITTERSWEET_LANES 16
#elif defined(__AVX2__) && defined(__F16C__)
#define BITTERSWEET_LANES 8
#else
#define BITTERSWEET_LANES 4
#endif

constexpr int lanes = BITTERSWEET_LANES;

using FloatVector = float __attribute__((vector_size(4 * BITTERSWEET_LANES)));
using IntVector = std::int32_t __attribute__((vector_size(4 * BITTERSWEET_LANES)));
using HalfVector = std::uint16_t __attribute__((vector_size(2 * BITTERSWEET_LANES)));

struct Vec {
  FloatVector x;
};

#define BITTERSWEET_INLINE inline __attribute__((always_inline))

// Before a loop of up to 32 turns over an array of vectors: one that stays a loop keeps the array in memory.
#if defined(__clang__)
#define BITTERSWEET_UNROLLED _Pragma("unroll")
#else
#define BITTERSWEET_UNROLLED _Pragma("GCC unroll 32")
#endif

BITTERSWEET_INLINE Vec splat(float value) { return {FloatVector{} + value}; }

BITTERSWEET_INLINE Vec operator+(Vec a, Vec b) { return {a.x + b.x}; }
BITTERSWEET_INLINE Vec operator-(Vec a, Vec b) { return {a.x - b.x}; }
BITTERSWEET_INLINE Vec operator*(Vec a, Vec b) { return {a.x * b.x}; }
BITTERSWEET_INLINE Vec operator/(Vec a, Vec b) { return {a.x / b.x}; }
BITTERSWEET_INLINE Vec operator+(Vec a, float b) { return a + splat(b); }
BITTERSWEET_INLINE Vec operator*(float a, Vec b) { return splat(a) * b; }
BITTERSWEET_INLINE Vec operator*(Vec a, float b) { return a * splat(b); }
BITTERSWEET_INLINE Vec operator/(Vec a, float b) { return a / splat(b); }
BITTERSWEET_INLINE Vec operator/(float a, Vec b) { return splat(a) / b; }

BITTERSWEET_INLINE Vec as_floats(IntVector bits) { return {reinterpret_cast<FloatVector>(bits)}; }
BITTERSWEET_INLINE IntVector as_bits(Vec a) { return reinterpret_cast<IntVector>(a.x); }

BITTERSWEET_INLINE Vec abs(Vec a) { return as_floats(as_bits(a) & 0x7fffffff); }
BITTERSWEET_INLINE Vec min(Vec a, Vec b) { return {a.x < b.x ? a.x : b.x}; }
BITTERSWEET_INLINE Vec sign(Vec a) {
  const FloatVector zero{}, one = zero + 1.0f;
  return {a.x > zero ? one : (a.x < zero ? -one : zero)};
}

BITTERSWEET_INLINE Vec sqrt(Vec a) {
#if BITTERSWEET_LANES == 16
  return {_mm512_sqrt_ps(a.x)};
#elif BITTERSWEET_LANES == 8
  return {_mm256_sqrt_ps(a.x)};
#elif defined(__SSE2__)
  return {_mm_sqrt_ps(a.x)};
#elif defined(__aarch64__)
  return {vsqrtq_f32(a.x)};
#else
  for (int i = 0; i < lanes; ++i) a.x[i] = bittersweet::sqrt(a.x[i]);
  return a;
#endif
}

BITTERSWEET_INLINE Vec rsqrt(Vec a) { return splat(1.0f) / sqrt(a); }

// a * b + c rounded once. Units without the instruction call the library's, which is right and slow: they run where
// nobody contracts either.
BITTERSWEET_INLINE Vec fma(Vec a, Vec b, Vec c) {
#if BITTERSWEET_LANES == 16
  return {_mm512_fmadd_ps(a.x, b.x, c.x)};
#elif BITTERSWEET_LANES == 8
  return {_mm256_fmadd_ps(a.x, b.x, c.x)};
#elif defined(__aarch64__)
  return {vfmaq_f32(c.x, a.x, b.x)};
#else
  for (int i = 0; i < lanes; ++i) a.x[i] = __builtin_fmaf(a.x[i], b.x[i], c.x[i]);
  return a;
#endif
}

BITTERSWEET_INLINE Vec like(Vec, float value) { return splat(value); }
BITTERSWEET_INLINE Vec larger(Vec a, Vec b) {  // NaN if one is
  return {((b.x != b.x) | (a.x < b.x)) ? b.x : a.x};
}

// Rounded to the nearest half. The instructions ignore flush-to-zero modes and agree with round_to_half.
BITTERSWEET_INLINE Vec half(Vec a) {
#if BITTERSWEET_LANES == 16
  return {_mm512_cvtph_ps(_mm512_cvtps_ph(a.x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))};
#elif BITTERSWEET_LANES == 8
  return {_mm256_cvtph_ps(_mm256_cvtps_ph(a.x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))};
#else
  for (int i = 0; i < lanes; ++i) a.x[i] = round_to_half(a.x[i]);
  return a;
#endif
}

// Comparisons give a Mask; the masks of 64 elements are packed into one word, lowest lane first.
#if BITTERSWEET_LANES == 16
using Mask = __mmask16;
BITTERSWEET_INLINE Mask less(Vec a, Vec b) { return _mm512_cmp_ps_mask(a.x, b.x, _CMP_LT_OQ); }
BITTERSWEET_INLINE Mask less_equal(Vec a, Vec b) { return _mm512_cmp_ps_mask(a.x, b.x, _CMP_LE_OQ); }
BITTERSWEET_INLINE Mask equal(Vec a, Vec b) { return _mm512_cmp_ps_mask(a.x, b.x, _CMP_EQ_OQ); }
BITTERSWEET_INLINE Mask both(Mask a, Mask b) { return static_cast<Mask>(a & b); }
BITTERSWEET_INLINE Mask unordered(Vec a, Vec b) { return _mm512_cmp_ps_mask(a.x, b.x, _CMP_UNORD_Q); }
#else
using Mask = IntVector;
BITTERSWEET_INLINE Mask less(Vec a, Vec b) { return a.x < b.x; }
BITTERSWEET_INLINE Mask less_equal(Vec a, Vec b) { return a.x <= b.x; }
BITTERSWEET_INLINE Mask equal(Vec a, Vec b) { return a.x == b.x; }
BITTERSWEET_INLINE Mask both(Mask a, Mask b) { return a & b; }
BITTERSWEET_INLINE Mask unordered(Vec a, Vec b) {  // is one of them NaN?
#if BITTERSWEET_LANES == 8
  return reinterpret_cast<Mask>(_mm256_cmp_ps(a.x, b.x, _CMP_UNORD_Q));
#elif defined(__SSE2__)
  return reinterpret_cast<Mask>(_mm_cmpunord_ps(a.x, b.x));
#else
  return (a.x != a.x) | (b.x != b.x);
#endif
}
#endif

constexpr int vectors_per_word = 64 / lanes;

BITTERSWEET_INLINE bool any(Mask a) {
#if BITTERSWEET_LANES == 16
  return a != 0;
#elif BITTERSWEET_LANES == 8
  return _mm256_movemask_ps(reinterpret_cast<__m256>(a)) != 0;
#elif defined(__SSE2__)
  return _mm_movemask_ps(reinterpret_cast<__m128>(a)) != 0;
#else
  return (a[0] | a[1] | a[2] | a[3]) != 0;
#endif
}

// Is one of 64 scores NaN?
BITTERSWEET_INLINE bool any_nan(const Vec (&a)[vectors_per_word]) {
  Mask found{};
  for (int k = 0; k < vectors_per_word; k += 2) found |= unordered(a[k], a[k + 1]);
  return any(found);
}

BITTERSWEET_INLINE std::uint64_t pack(const Mask (&mask)[vectors_per_word]) {
#if BITTERSWEET_LANES == 16
  const __mmask32 low = _mm512_kunpackw(mask[1], mask[0]), high = _mm512_kunpackw(mask[3], mask[2]);
  return _mm512_kunpackd(high, low);
#elif BITTERSWEET_LANES == 8
  const auto bytes = [&](int first) {  // 32 masks to 32 bytes; packing works on 128-bit halves, so words are put back
    const auto at = [&](int i) { return reinterpret_cast<__m256i>(mask[first + i]); };
    const __m256i low = _mm256_packs_epi32(at(0), at(1)), high = _mm256_packs_epi32(at(2), at(3));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    return static_cast<std::uint32_t>(
        _mm256_movemask_epi8(_mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order)));
  };
  return bytes(0) | static_cast<std::uint64_t>(bytes(4)) << 32;
#elif defined(__SSE2__)
  std::uint64_t word = 0;
  for (int i = 0; i < vectors_per_word; i += 4) {
    const auto at = [&](int j) { return reinterpret_cast<__m128i>(mask[i + j]); };
    const __m128i bytes = _mm_packs_epi16(_mm_packs_epi32(at(0), at(1)), _mm_packs_epi32(at(2), at(3)));
    word |= static_cast<std::uint64_t>(static_cast<std::uint32_t>(_mm_movemask_epi8(bytes))) << (4 * i);
  }
  return word;
#else
  std::uint64_t word = 0;
  for (int i = 0; i < vectors_per_word; ++i) {
    const IntVector weighted = mask[i] & IntVector{1, 2, 4, 8};
    const auto nibble = static_cast<std::uint32_t>(weighted[0] | weighted[1] | weighted[2] | weighted[3]);
    word |= static_cast<std::uint64_t>(nibble) << (4 * i);
  }
  return word;
#endif
}

// The same for 64 magnitudes of bf16 (0 to 0x7fff, so that signed and unsigned order agree) against one another.
constexpr int short_lanes = 2 * lanes;
constexpr int shorts_per_word = 64 / short_lanes;
using ShortVector = std::int16_t __attribute__((vector_size(2 * short_lanes)));

#if BITTERSWEET_LANES == 16
using ShortMask = __mmask32;
BITTERSWEET_INLINE __m512i as_512(ShortVector a) { return reinterpret_cast<__m512i>(a); }
BITTERSWEET_INLINE ShortMask less(ShortVector a, ShortVector b) {
  return _mm512_cmplt_epi16_mask(as_512(a), as_512(b));
}
BITTERSWEET_INLINE ShortMask equal(ShortVector a, ShortVector b) {
  return _mm512_cmpeq_epi16_mask(as_512(a), as_512(b));
}
BITTERSWEET_INLINE std::uint64_t pack(const ShortMask (&mask)[shorts_per_word]) {
  return _mm512_kunpackd(mask[1], mask[0]);
}
#else
using ShortMask = ShortVector;
BITTERSWEET_INLINE ShortMask less(ShortVector a, ShortVector b) { return a < b; }
BITTERSWEET_INLINE ShortMask equal(ShortVector a, ShortVector b) { return a == b; }
BITTERSWEET_INLINE std::uint64_t pack(const ShortMask (&mask)[shorts_per_word]) {
  std::uint64_t word = 0;
#if BITTERSWEET_LANES == 8
  for (int i = 0; i < shorts_per_word; i += 2) {  // packing works on 128-bit halves, so quarters are put back
    const __m256i bytes =
        _mm256_packs_epi16(reinterpret_cast<__m256i>(mask[i]), reinterpret_cast<__m256i>(mask[i + 1]));
    const auto bits = static_cast<std::uint32_t>(_mm256_movemask_epi8(_mm256_permute4x64_epi64(bytes, 0xd8)));
    word |= static_cast<std::uint64_t>(bits) << (short_lanes * i);
  }
#elif defined(__SSE2__)
  for (int i = 0; i < shorts_per_word; i += 2) {
    const __m128i bytes = _mm_packs_epi16(reinterpret_cast<__m128i>(mask[i]), reinterpret_cast<__m128i>(mask[i + 1]));
    word |= static_cast<std::uint64_t>(static_cast<std::uint32_t>(_mm_movemask_epi8(bytes))) << (short_lanes * i);
  }
#else
  for (int i = 0; i < shorts_per_word; ++i)
    for (int lane = 0; lane < short_lanes; ++lane)
      word |= static_cast<std::uint64_t>(mask[i][lane] & 1) << (short_lanes * i + lane);
#endif
  return word;
}
#endif

// Elements index .. index + lanes of an array of floats, or of bf16 bits.
BITTERSWEET_INLINE Vec load(const float* data, std::int64_t index) {
  Vec a;
  std::memcpy(&a.x, data + index, sizeof a.x);
  return a;
}

BITTERSWEET_INLINE Vec load(const std::uint16_t* data, std::int64_t index) {
#if BITTERSWEET_LANES == 16
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(data + index));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
#elif BITTERSWEET_LANES == 8
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(data + index));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16))};
#else
  HalfVector bits;
  std::memcpy(&bits, data + index, sizeof bits);
  return as_floats(__builtin_convertvector(bits, IntVector) << 16);
#endif
}

// Elements of an array of f16 bits, which share their C++ type with bf16's.
struct Half {
  std::uint16_t bits;
};

BITTERSWEET_INLINE Vec load(const Half* data, std::int64_t index) {
#if BITTERSWEET_LANES == 16
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(data + index)))};
#elif BITTERSWEET_LANES == 8
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(data + index)))};
#else
  Vec a;
  for (int i = 0; i < lanes; ++i) a.x[i] = f16_to_float(data[index + i].bits);
  return a;
#endif
}

BITTERSWEET_INLINE void store(float* data, std::int64_t index, Vec a) { std::memcpy(data + index, &a.x, sizeof a.x); }

// The bits of the nearest bf16 as integers, as float_to_bf16.
BITTERSWEET_INLINE IntVector to_bf16(Vec a) {
  using Words = std::uint32_t __attribute__((vector_size(4 * BITTERSWEET_LANES)));
  const Words bits = reinterpret_cast<Words>(a.x);
  const Words rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const IntVector number = a.x == a.x;
  return (reinterpret_cast<IntVector>(rounded) & number) | (0x7fc0 & ~number);
}

// The lower halves.
BITTERSWEET_INLINE void store_low(std::uint16_t* data, std::int64_t index, IntVector wide) {
#if BITTERSWEET_LANES == 16
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(data + index), _mm512_cvtepi32_epi16(reinterpret_cast<__m512i>(wide)));
#elif BITTERSWEET_LANES == 8
  const __m256i whole = reinterpret_cast<__m256i>(wide);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(data + index),
                   _mm_packus_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1)));
#else
  const HalfVector narrow = __builtin_convertvector(wide, HalfVector);
  std::memcpy(data + index, &narrow, sizeof narrow);
#endif
}

BITTERSWEET_INLINE void store(std::uint16_t* data, std::int64_t index, Vec a) { store_low(data, index, to_bf16(a)); }

// To f16: rounded to nearest, as float_to_f16.
BITTERSWEET_INLINE void store(Half* data, std::int64_t index, Vec a) {
  const FloatVector quiet = FloatVector{} + std::numeric_limits<float>::quiet_NaN();
  a.x = a.x == a.x ? a.x : quiet;
#if BITTERSWEET_LANES == 16
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(data + index),
                      _mm512_cvtps_ph(a.x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif BITTERSWEET_LANES == 8
  _mm_storeu_si128(reinterpret_cast<__m128i*>(data + index),
                   _mm256_cvtps_ph(a.x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
  for (int i = 0; i < lanes; ++i) data[index + i].bits = float_to_f16(a.x[i]);
#endif
}

// Which of lanes k * lanes ... of 64 elements have their bit set.
#if BITTERSWEET_LANES == 16
using LaneMask = __mmask16;
BITTERSWEET_INLINE LaneMask lanes_on(std::uint64_t word, int k) {
  return static_cast<LaneMask>(bits::from(word, k * lanes));
}
BITTERSWEET_INLINE Vec kept(Vec a, LaneMask on) { return {_mm512_maskz_mov_ps(on, a.x)}; }
BITTERSWEET_INLINE Vec dropped(Vec a, LaneMask on) { return kept(a, static_cast<LaneMask>(~on)); }
#else
using LaneMask = IntVector;
BITTERSWEET_INLINE LaneMask lanes_on(std::uint64_t word, int k) {  // one broadcast serves the vectors of 32 elements
  const int first = k * lanes;
  IntVector own = IntVector{} + static_cast<std::int32_t>(static_cast<std::uint32_t>(bits::from(word, first & 32)));
  IntVector lane;
  for (int i = 0; i < lanes; ++i) lane[i] = static_cast<std::int32_t>(std::uint32_t{1} << ((first & 31) + i));
  return (own & lane) == lane;
}
BITTERSWEET_INLINE Vec kept(Vec a, LaneMask on) { return as_floats(as_bits(a) & on); }
BITTERSWEET_INLINE Vec dropped(Vec a, LaneMask on) { return as_floats(as_bits(a) & ~on); }
#endif

// Those lanes of a; +0 elsewhere.
BITTERSWEET_INLINE Vec where(std::uint64_t word, int k, Vec a) { return kept(a, lanes_on(word, k)); }

// 64 elements. Their upper halves are 0 in what is stored by lower halves.
template <class T>
BITTERSWEET_INLINE void store_word(T* data, const Vec (&a)[vectors_per_word]) {
  for (int k = 0; k < vectors_per_word; ++k) store(data, k * lanes, a[k]);
}
BITTERSWEET_INLINE void store_word(std::uint16_t* data, const IntVector (&a)[vectors_per_word]) {
#if BITTERSWEET_LANES == 8
  for (int k = 0; k < vectors_per_word; k += 2) {  // two vectors at once
    const auto at = [&](int i) { return reinterpret_cast<__m256i>(a[k + i]); };
    const __m256i halves = _mm256_permute4x64_epi64(_mm256_packus_epi32(at(0), at(1)), 0xd8);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(data + k * lanes), halves);
  }
#else
  for (int k = 0; k < vectors_per_word; ++k) store_low(data, k * lanes, a[k]);
#endif
}
BITTERSWEET_INLINE void store_word(std::uint16_t* data, const Vec (&a)[vectors_per_word]) {
  IntVector bits[vectors_per_word];
  for (int k = 0; k < vectors_per_word; ++k) bits[k] = to_bf16(a[k]);
  store_word(data, bits);
}

// Asks for the 64 elements that come `ahead` later, as far as the second cache: a new page is not left to the hardware
// prefetcher, and the first cache can wait for fewer lines than are on their way from memory.
template <class T>
BITTERSWEET_INLINE void prefetch(const T* at, std::int64_t ahead = cpu::far_ahead) {
  for (std::size_t line = 0; line < sizeof(T); ++line)
    __builtin_prefetch(reinterpret_cast<const char*>(at + ahead) + 64 * line, 0, 2);
  __asm__ volatile("");  // without it GCC takes this for a function of no effect and drops its calls
}

// Is a product followed by a sum rounded twice here? A unit that contracts them would score other bits.
inline bool contracts() {
  volatile float almost_one = 1.0f + 0x1p-12f, subtrahend = 1.0f + 0x1p-11f;
  const Vec a = splat(almost_one), b = splat(subtrahend);
  return (a * a - b).x[0] != 0.0f;
}

}  // namespace
}  // namespace bittersweet
