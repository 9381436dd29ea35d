// Scores as integers of the same order: -inf < ... < -0 = +0 < ... < +inf < NaN. Stated here, once:
// the two zeros share a key, and every NaN has the largest key.
#pragma once

#include <bit>
#include <cstdint>

#include "bittersweet/config.hpp"

namespace bittersweet {

inline constexpr std::uint32_t key_of_nan = 0xffffffffu;
inline constexpr std::uint32_t key_of_zero = 0x80000000u;
inline constexpr std::uint32_t key_of_infinity = 0xff800000u;
inline constexpr std::uint32_t key_of_minus_infinity = 0x007fffffu;

BITTERSWEET_FORMULA std::uint32_t key_of(float score) noexcept {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(score);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return key_of_nan;
  if (magnitude == 0) return key_of_zero;
  return (bits >> 31) ? ~bits : bits | 0x80000000u;
}

// The inverse; key_of_nan gives a NaN.
BITTERSWEET_FORMULA float score_of(std::uint32_t key) noexcept {
  return std::bit_cast<float>((key >> 31) ? key & 0x7fffffffu : ~key);
}

}  // namespace bittersweet
