// A block's part of the input as a table of 256 entries, and what codes find in it: 16 or 32 at a time. With AVX-512
// the table lies in registers, since gathers from memory take three times as long. Included by verbs_strips_*.cpp only.
#pragma once

#include "cpu/verbs/strip_lanes.hpp"

namespace bittersweet {
namespace {

#if BITTERSWEET_LANES == 16
BITTERSWEET_INLINE Lanes add_lanes(Lanes a, Lanes b) { return _mm512_add_ps(a, b); }

BITTERSWEET_INLINE Lanes as_lanes(const float* from) { return _mm512_loadu_ps(from); }
BITTERSWEET_INLINE Lanes as_lanes(__m256i words, Bf16) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(words), 16));
}
BITTERSWEET_INLINE Lanes as_lanes(__m256i words, F16) { return _mm512_cvtph_ps(words); }
template <class T>
BITTERSWEET_INLINE Lanes as_lanes(const T* from) {
  return as_lanes(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)), T{});
}

class FloatTable {
 public:
  static constexpr bool fits_twice = false;  // into the registers

  BITTERSWEET_INLINE explicit FloatTable(const float* from) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) at_[i] = _mm512_loadu_ps(from + 16 * i);
  }

  BITTERSWEET_INLINE Lanes find(const std::uint8_t* codes) const {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
    const __m512i places = _mm512_cvtepu8_epi32(bytes);
    const __mmask16 bit5 = _mm_movepi8_mask(_mm_slli_epi16(bytes, 2)),
                    bit6 = _mm_movepi8_mask(_mm_slli_epi16(bytes, 1)), bit7 = _mm_movepi8_mask(bytes);
    const auto of_32 = [&](int i) { return _mm512_permutex2var_ps(at_[2 * i], places, at_[2 * i + 1]); };
    const auto of_64 = [&](int i) { return _mm512_mask_blend_ps(bit5, of_32(2 * i), of_32(2 * i + 1)); };
    const auto of_128 = [&](int i) { return _mm512_mask_blend_ps(bit6, of_64(2 * i), of_64(2 * i + 1)); };
    return _mm512_mask_blend_ps(bit7, of_128(0), of_128(1));
  }

 private:
  __m512 at_[16];
};

// Of 16 bits each.
class WordTable {
 public:
  static constexpr bool fits_twice = true;

  BITTERSWEET_INLINE explicit WordTable(const void* from) {
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) at_[i] = _mm512_loadu_si512(static_cast<const __m512i*>(from) + i);
  }

  BITTERSWEET_INLINE __m512i find_32(const std::uint8_t* codes) const {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
    const __m512i places = _mm512_cvtepu8_epi16(bytes);
    const __mmask32 bit6 = _mm256_movepi8_mask(_mm256_slli_epi16(bytes, 1)), bit7 = _mm256_movepi8_mask(bytes);
    const auto of_64 = [&](int i) { return _mm512_permutex2var_epi16(at_[2 * i], places, at_[2 * i + 1]); };
    const auto of_128 = [&](int i) { return _mm512_mask_blend_epi16(bit6, of_64(2 * i), of_64(2 * i + 1)); };
    return _mm512_mask_blend_epi16(bit7, of_128(0), of_128(1));
  }

 private:
  __m512i at_[8];
};
#else
#if BITTERSWEET_LANES == 8
BITTERSWEET_INLINE Lanes add_lanes(const Lanes& a, const Lanes& b) {
  return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}

BITTERSWEET_INLINE __m256 eight_floats(const Bf16* from) {
  const __m128i words = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(words), 16));
}
BITTERSWEET_INLINE __m256 eight_floats(const F16* from) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}
BITTERSWEET_INLINE Lanes as_lanes(const float* from) { return load_lanes(from); }
template <class T>
BITTERSWEET_INLINE Lanes as_lanes(const T* from) {
  return {eight_floats(from), eight_floats(from + 8)};
}
#else
BITTERSWEET_INLINE void store_lanes(float* to, const Lanes& a) { std::memcpy(to, a.at, sizeof a.at); }
BITTERSWEET_INLINE Lanes add_lanes(Lanes a, const Lanes& b) {
  for (int i = 0; i < strips::lanes; ++i) a.at[i] += b.at[i];
  return a;
}

template <class T>
BITTERSWEET_INLINE Lanes as_lanes(const T* from) {
  Lanes made;
  for (int i = 0; i < strips::lanes; ++i) made.at[i] = as_float(from[i]);
  return made;
}
#endif

class FloatTable {
 public:
  static constexpr bool fits_twice = true;

  BITTERSWEET_INLINE explicit FloatTable(const float* from) : at_(from) {}

  BITTERSWEET_INLINE Lanes find(const std::uint8_t* codes) const {
    float found[strips::lanes];
#pragma GCC unroll 16
    for (int i = 0; i < strips::lanes; ++i) found[i] = at_[codes[i]];
    return load_lanes(found);
  }

 private:
  const float* at_;
};
#endif

// The sums of 32 rows, two vectors of them.
struct GroupSums {
  Lanes first = no_lanes(), second = no_lanes();
};

template <class T>
BITTERSWEET_INLINE void add_step(const std::uint8_t* codes, const T* values, const FloatTable& x, GroupSums& sums) {
  sums.first = add_product(as_lanes(values), x.find(codes), sums.first);
  sums.second = add_product(as_lanes(values + 16), x.find(codes + 16), sums.second);
}
template <class T>
BITTERSWEET_INLINE void store_sums(const GroupSums& sums, const FloatTable&, T, float* to) {
  store_lanes(to, sums.first);
  store_lanes(to + 16, sums.second);
}

#if BITTERSWEET_LANES == 16
// Even and odd rows: the halves of 32-bit words become floats where they lie.
BITTERSWEET_INLINE void add_step(const std::uint8_t* codes, const Bf16* values, const WordTable& x, GroupSums& sums) {
  const __m512i w = _mm512_loadu_si512(values), found = x.find_32(codes);
  const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  const auto even = [](__m512i a) { return _mm512_castsi512_ps(_mm512_slli_epi32(a, 16)); };
  const auto odd = [&](__m512i a) { return _mm512_castsi512_ps(_mm512_and_si512(a, upper)); };
  sums.first = add_product(even(w), even(found), sums.first);
  sums.second = add_product(odd(w), odd(found), sums.second);
}
BITTERSWEET_INLINE void store_sums(const GroupSums& sums, const WordTable&, Bf16, float* to) {
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  store_lanes(to, _mm512_permutex2var_ps(sums.first, low, sums.second));
  store_lanes(to + 16, _mm512_permutex2var_ps(sums.first, _mm512_add_epi32(low, _mm512_set1_epi32(8)), sums.second));
}

BITTERSWEET_INLINE void add_step(const std::uint8_t* codes, const F16* values, const WordTable& x, GroupSums& sums) {
  const __m512i found = x.find_32(codes);
  sums.first = add_product(as_lanes(values), as_lanes(_mm512_castsi512_si256(found), F16{}), sums.first);
  sums.second = add_product(as_lanes(values + 16), as_lanes(_mm512_extracti64x4_epi64(found, 1), F16{}), sums.second);
}
BITTERSWEET_INLINE void store_sums(const GroupSums& sums, const WordTable&, F16, float* to) {
  store_lanes(to, sums.first);
  store_lanes(to + 16, sums.second);
}
#endif

}  // namespace
}  // namespace bittersweet
