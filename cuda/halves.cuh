// Pairs of 16-bit numbers in one register: compared both at once, on a device by one instruction.
#pragma once

#include "device.cuh"

namespace bittersweet::cuda {

BITTERSWEET_DEVICE u32 both_halves(u32 bits) { return bits | bits << 16; }

// All bits of a half set where the half of a is less than that of b; never with a NaN. Denormals count.
template <DType Type>
BITTERSWEET_DEVICE u32 less_halves(u32 a, u32 b) {
#if defined(__CUDA_ARCH__)
  u32 mask;
  if constexpr (Type == DType::f16) {
    asm("set.lt.u32.f16x2 %0, %1, %2;" : "=r"(mask) : "r"(a), "r"(b));
  } else {
#if __CUDA_ARCH__ >= 900
    asm("set.lt.u32.bf16x2 %0, %1, %2;" : "=r"(mask) : "r"(a), "r"(b));
#else  // the upper 16 bits of a float are a bf16
    mask = (__uint_as_float(a << 16) < __uint_as_float(b << 16) ? 0x0000ffffu : 0u) |
           (__uint_as_float(a & 0xffff0000u) < __uint_as_float(b & 0xffff0000u) ? 0xffff0000u : 0u);
#endif
  }
  return mask;
#else
  const auto value = [](u32 bits) {
    const auto half = static_cast<u16>(bits);
    return Type == DType::bf16 ? bf16_to_float(half) : f16_to_float(half);
  };
  return (value(a) < value(b) ? 0x0000ffffu : 0u) | (value(a >> 16) < value(b >> 16) ? 0xffff0000u : 0u);
#endif
}

// The bits of a float that is a half, not negative.
BITTERSWEET_DEVICE u32 bits_of_half(float x) {
  if (x >= 65536.0f) return 0x7c00u;
  return x < 0x1p-14f ? static_cast<u32>(x * 0x1p24f) : (std::bit_cast<u32>(x) - 0x38000000u) >> 13;
}

// The largest number of the type that is not above x; for x < 0 some negative number.
template <DType Type>
BITTERSWEET_DEVICE u32 half_at_or_below(float x) {
  if (x < 0.0f) return 0xbc00u;
  if constexpr (Type == DType::bf16) return std::bit_cast<u32>(abs(x)) >> 16;
  const u32 nearest = bits_of_half(round_to_half(abs(x)));
  return f16_to_float(static_cast<u16>(nearest)) > x ? nearest - 1 : nearest;
}

// The smallest number of the type, from 0, that is not below x.
template <DType Type>
BITTERSWEET_DEVICE u32 half_at_or_above(float x) {
  if (!(x > 0.0f)) return 0;
  if constexpr (Type == DType::bf16) return (std::bit_cast<u32>(x) + 0xffffu) >> 16;
  const u32 nearest = bits_of_half(round_to_half(x));
  return f16_to_float(static_cast<u16>(nearest)) < x ? nearest + 1 : nearest;
}

}  // namespace bittersweet::cuda
