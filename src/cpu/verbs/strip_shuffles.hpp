// Packed elements to their places by shuffles out of tables: where no instruction expands, or where it is slow.
#pragma once

#include <cstdint>

#include "bittersweet/sparse/strip_layout.hpp"
#include "cpu/simd.hpp"

namespace bittersweet {
namespace {

#if BITTERSWEET_LANES > 4
struct ShuffleTables {
  alignas(64) std::uint8_t words[256][16];  // 8 words in a row to the set bits of a byte; 0x80 is a zero
  alignas(64) std::uint8_t lanes[256][8];   // 8 floats likewise
};

constexpr ShuffleTables make_shuffle_tables() {
  ShuffleTables made{};
  for (unsigned byte = 0; byte < 256; ++byte) {
    std::uint8_t next = 0;
    for (unsigned i = 0; i < 8; ++i) {
      const bool on = (byte >> i & 1u) != 0;
      made.words[byte][2 * i] = on ? static_cast<std::uint8_t>(2 * next) : 0x80;
      made.words[byte][2 * i + 1] = on ? static_cast<std::uint8_t>(2 * next + 1) : 0x80;
      made.lanes[byte][i] = on ? next : 0x80;
      next = static_cast<std::uint8_t>(next + on);
    }
  }
  return made;
}

constexpr ShuffleTables shuffle_tables = make_shuffle_tables();

// 8 elements of 16 bits from the packed ones at `from`.
BITTERSWEET_INLINE __m128i spread_words(std::uint8_t mask, const void* from) {
  const __m128i packed = _mm_loadu_si128(static_cast<const __m128i*>(from));
  return _mm_shuffle_epi8(packed, _mm_load_si128(reinterpret_cast<const __m128i*>(shuffle_tables.words[mask])));
}

// 16 elements of 16 bits; `from` moves behind them.
template <class T>
BITTERSWEET_INLINE __m256i spread_16(std::uint32_t mask, const T*& from) {
  const auto low = static_cast<std::uint8_t>(mask), high = static_cast<std::uint8_t>(mask >> 8);
  const __m128i first = spread_words(low, from);
  from += strips::live(low);
  const __m128i second = spread_words(high, from);
  from += strips::live(high);
  return _mm256_set_m128i(second, first);
}

// 8 floats.
BITTERSWEET_INLINE __m256 spread_floats(std::uint8_t mask, const float*& from) {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(shuffle_tables.lanes[mask]));
  const __m256i places = _mm256_cvtepi8_epi32(bytes);
  const __m256 moved = _mm256_permutevar8x32_ps(_mm256_loadu_ps(from), places);
  from += strips::live(mask);
  return _mm256_blendv_ps(moved, _mm256_setzero_ps(), _mm256_castsi256_ps(places));
}
#endif

}  // namespace
}  // namespace bittersweet
