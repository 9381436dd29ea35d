// Element types: f32, and f16 and bf16 as storage. Arithmetic is always f32.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "bittersweet/config.hpp"

namespace bittersweet {

enum class DType : std::uint8_t { none = 0, f32 = 1, f16 = 2, bf16 = 3 };

constexpr std::size_t size_of(DType type) noexcept { return type == DType::f32 ? 4 : type == DType::none ? 0 : 2; }

constexpr const char* name_of(DType type) noexcept {
  switch (type) {
    case DType::f32: return "float32";
    case DType::f16: return "float16";
    case DType::bf16: return "bfloat16";
    case DType::none: break;
  }
  return "none";
}

// Exact for every bit pattern; a signalling NaN stays a NaN.
BITTERSWEET_FORMULA float bf16_to_float(std::uint16_t bits) noexcept {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

// Exact for every bit pattern, in integers only, so that a flush-to-zero mode cannot lose half denormals.
BITTERSWEET_FORMULA float f16_to_float(std::uint16_t bits) noexcept {
#if defined(__CUDA_ARCH__)
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
#else
  const std::uint32_t sign = (bits & 0x8000u) << 16;
  const std::uint32_t magnitude = bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
  if (magnitude >= 0x0400u) return std::bit_cast<float>(sign | ((magnitude + 0x1c000u) << 13));
  if (magnitude == 0) return std::bit_cast<float>(sign);
  const int shift = std::countl_zero(magnitude) - 21;  // brings the leading one to bit 10
  const std::uint32_t exponent = 113u - static_cast<std::uint32_t>(shift);
  return std::bit_cast<float>(sign | (exponent << 23) | (((magnitude << shift) & 0x3ffu) << 13));
#endif
}

// The nearest half, ties to even, as a float: the rounding of one f16 operation. Values from 65520 become infinity.
BITTERSWEET_FORMULA float round_to_half(float x) noexcept {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t sign = bits & 0x80000000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return x;
  if (magnitude >= 0x477ff000u) return std::bit_cast<float>(sign | 0x7f800000u);
  if (magnitude < 0x38800000u) {  // half denormals are multiples of 2^-24: the spacing of floats in [0.5, 1)
    const float rounded = (std::bit_cast<float>(magnitude) + 0.5f) - 0.5f;
    return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(rounded));
  }
  return std::bit_cast<float>(sign | ((magnitude + 0x0fffu + ((magnitude >> 13) & 1u)) & 0xffffe000u));
}

// The bits of the nearest bf16, ties to even; NaN becomes 0x7fc0.
BITTERSWEET_FORMULA std::uint16_t float_to_bf16(float x) noexcept {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  if (x != x) return 0x7fc0u;
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// The bits of the nearest half, ties to even; NaN becomes 0x7e00.
BITTERSWEET_FORMULA std::uint16_t float_to_f16(float x) noexcept {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(round_to_half(x));
  const std::uint32_t sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7e00u;
  if (magnitude == 0x7f800000u) return static_cast<std::uint16_t>(sign | 0x7c00u);
  if (magnitude >= 0x38800000u) return static_cast<std::uint16_t>(sign | ((magnitude - 0x38000000u) >> 13));
  const float multiple = std::bit_cast<float>(magnitude) * 0x1p24f;  // of the smallest half
  return static_cast<std::uint16_t>(sign | static_cast<std::uint32_t>(multiple));
}

// The element `index` of an array of `type`, as f32.
BITTERSWEET_FORMULA float load_as_float(const void* data, DType type, std::int64_t index) noexcept {
  if (type == DType::f32) return static_cast<const float*>(data)[index];
  const std::uint16_t bits = static_cast<const std::uint16_t*>(data)[index];
  return type == DType::bf16 ? bf16_to_float(bits) : f16_to_float(bits);
}

// Writes it, rounded to nearest.
BITTERSWEET_FORMULA void store_from_float(void* data, DType type, std::int64_t index, float value) noexcept {
  if (type == DType::f32)
    static_cast<float*>(data)[index] = value;
  else
    static_cast<std::uint16_t*>(data)[index] = type == DType::bf16 ? float_to_bf16(value) : float_to_f16(value);
}

}  // namespace bittersweet
