// The chosen ones of a vector's scores side by side.
#pragma once

#include <array>

#include "cpu/simd.hpp"

namespace bittersweet {
namespace {

#if BITTERSWEET_LANES >= 8 || defined(__SSSE3__) || defined(__aarch64__)
constexpr bool shuffles = true;
#else
constexpr bool shuffles = false;
#endif

#if BITTERSWEET_LANES == 8
// For every byte: the places of its bits, a byte each.
constexpr auto places_of_bits = [] {
  std::array<std::uint64_t, 256> all{};
  for (std::uint64_t byte = 0; byte < all.size(); ++byte)
    for (std::uint64_t bit = 0, found = 0; bit < 8; ++bit)
      if (byte >> bit & 1) all[byte] |= bit << 8 * found++;
  return all;
}();
#elif defined(__SSSE3__) || defined(__aarch64__)
// For every four bits: where in a vector the bytes of the chosen lanes lie.
struct alignas(16) BytesOfBits {
  std::uint8_t at[16][16];
};
constexpr BytesOfBits bytes_of_bits = [] {
  BytesOfBits all{};
  for (unsigned four = 0; four < 16; ++four)
    for (unsigned lane = 0, byte = 0; lane < 4; ++lane)
      for (unsigned i = 0; i < 4 && (four >> lane & 1); ++i)
        all.at[four][byte++] = static_cast<std::uint8_t>(4 * lane + i);
  return all;
}();
#endif

// Stores those whose bit is set in the lowest bits of `chosen`, and perhaps whatever in the places behind, up to
// `lanes` in all. Returns how many they are.
BITTERSWEET_INLINE std::int64_t store_chosen(float* to, Vec s, std::uint64_t chosen) {
  const std::uint64_t on = chosen & ((1u << lanes) - 1);
#if BITTERSWEET_LANES == 16
  store(to, 0, {_mm512_maskz_compress_ps(static_cast<Mask>(on), s.x)});
#elif BITTERSWEET_LANES == 8
  const __m128i places = _mm_cvtsi64_si128(static_cast<long long>(places_of_bits[on]));
  store(to, 0, {_mm256_permutevar8x32_ps(s.x, _mm256_cvtepu8_epi32(places))});
#elif defined(__SSSE3__)
  const __m128i places = _mm_load_si128(reinterpret_cast<const __m128i*>(bytes_of_bits.at[on]));
  store(to, 0, {reinterpret_cast<FloatVector>(_mm_shuffle_epi8(reinterpret_cast<__m128i>(s.x), places))});
#elif defined(__aarch64__)
  const uint8x16_t places = vld1q_u8(bytes_of_bits.at[on]);
  store(to, 0, {vreinterpretq_f32_u8(vqtbl1q_u8(vreinterpretq_u8_f32(s.x), places))});
#else
  for (std::uint64_t left = on; left != 0; left = bits::without_lowest(left)) *to++ = s.x[bits::lowest_or_width(left)];
#endif
  return bits::count(on);
}

// The same of 64 scores, and `lanes` places behind.
BITTERSWEET_INLINE void store_chosen(float* to, const Vec (&scores)[vectors_per_word], std::uint64_t chosen) {
  if (shuffles) {
    for (int v = 0; v < vectors_per_word; ++v) to += store_chosen(to, scores[v], bits::from(chosen, v * lanes));
    return;
  }
  float all[bits::per_word];
  store_word(all, scores);
  for (; chosen != 0; chosen = bits::without_lowest(chosen)) *to++ = all[bits::lowest_or_width(chosen)];
}

// One bit a lane.
BITTERSWEET_INLINE std::uint64_t bits_of(Mask mask) {
#if BITTERSWEET_LANES == 16
  return mask;
#elif BITTERSWEET_LANES == 8
  return static_cast<std::uint64_t>(_mm256_movemask_ps(reinterpret_cast<__m256>(mask)));
#elif defined(__SSE2__)
  return static_cast<std::uint64_t>(_mm_movemask_ps(reinterpret_cast<__m128>(mask)));
#else
  const IntVector weighted = mask & IntVector{1, 2, 4, 8};
  return static_cast<std::uint64_t>(weighted[0] | weighted[1] | weighted[2] | weighted[3]);
#endif
}

}  // namespace
}  // namespace bittersweet
