// Neighbouring elements of one array as they are stored, read and written by one access and changed one by one: what
// is not being computed with stays packed. Dead ones, whose keep bits are 0, are dealt with by whole words.
#pragma once

#include "tile.cuh"

namespace bittersweet::cuda {

// Two floats as halves of a word, rounded to nearest.
template <DType Type>
BITTERSWEET_DEVICE u32 encode_pair(float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  u32 pair;
  if constexpr (Type == DType::bf16)
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  else
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
#else
  const auto encode = [](float x) -> u32 { return Type == DType::bf16 ? float_to_bf16(x) : float_to_f16(x); };
  return encode(low) | encode(high) << 16;
#endif
}

template <DType Type>
BITTERSWEET_DEVICE float decode_half(u32 bits) {
#if defined(__CUDA_ARCH__)
  if constexpr (Type == DType::f16) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(static_cast<u16>(bits)));
    return x;
  }
#endif
  return decode16<Type>(bits);
}

template <DType Type, int Width>
struct Neighbours {
  static constexpr bool halves = Type != DType::f32;
  static constexpr int words = halves ? Width / 2 : Width;
  static constexpr u32 sizes = halves ? 0x7fff7fffu : 0x7fffffffu;  // all bits but the signs
  static constexpr u32 ones = halves ? (Type == DType::bf16 ? 0x3f803f80u : 0x3c003c00u) : 0x3f800000u;
  static_assert(words == 2 || words == 4);
  u32 raw[words]{};
  float even = 0.0f;  // of a pair of halves, until the odd one comes

  BITTERSWEET_DEVICE void read(const void* data, std::int64_t at) {
    const char* const from = static_cast<const char*>(data) + at * (words * 4 / Width);
    if constexpr (words == 2) {
      const uint2 x = __ldcs(reinterpret_cast<const uint2*>(from));
      raw[0] = x.x, raw[1] = x.y;
    } else {
      const uint4 x = __ldcs(reinterpret_cast<const uint4*>(from));
      raw[0] = x.x, raw[1] = x.y, raw[2] = x.z, raw[3] = x.w;
    }
  }
  BITTERSWEET_DEVICE void write(void* data, std::int64_t at) const {
    char* const to = static_cast<char*>(data) + at * (words * 4 / Width);
    if constexpr (words == 2)
      __stcs(reinterpret_cast<uint2*>(to), uint2{raw[0], raw[1]});
    else
      __stcs(reinterpret_cast<uint4*>(to), uint4{raw[0], raw[1], raw[2], raw[3]});
  }

  BITTERSWEET_DEVICE float operator[](int i) const {
    if constexpr (halves)
      return decode_half<Type>(i % 2 ? raw[i / 2] >> 16 : raw[i / 2] & 0xffffu);
    else
      return std::bit_cast<float>(raw[i]);
  }
  // For i = 0, 1, ... in this order, each behind the last use of [i].
  BITTERSWEET_DEVICE void set(int i, float x) {
    if constexpr (!halves)
      raw[i] = std::bit_cast<u32>(x);
    else if (i % 2 == 0)
      even = x;
    else
      raw[i / 2] = encode_pair<Type>(even, x);
  }

  BITTERSWEET_DEVICE static u32 live_bits(u32 keep, int word) {  // all bits of the live elements
    if constexpr (!halves) return 0u - (keep >> word & 1u);
    return (keep >> (2 * word) & 1u) * 0x0000ffffu | (keep >> (2 * word + 1) & 1u) * 0xffff0000u;
  }
  BITTERSWEET_DEVICE bool has_dead_nonzero(u32 keep) const {
    u32 found = 0;
#pragma unroll
    for (int i = 0; i < words; ++i) found |= raw[i] & ~live_bits(keep, i);
    return (found & sizes) != 0;
  }
  BITTERSWEET_DEVICE void set_dead(u32 keep, u32 pattern) {  // 0 or `ones`
#pragma unroll
    for (int i = 0; i < words; ++i) raw[i] = (raw[i] & live_bits(keep, i)) | (pattern & ~live_bits(keep, i));
  }
};

template <DType Type>
struct Neighbours<Type, 1> {
  static constexpr u32 ones = 0x3f800000u;
  float value = 0.0f;
  BITTERSWEET_DEVICE void read(const void* data, std::int64_t at) { value = load_as_float(data, Type, at); }
  BITTERSWEET_DEVICE void write(void* data, std::int64_t at) const { store_from_float(data, Type, at, value); }
  BITTERSWEET_DEVICE float operator[](int) const { return value; }
  BITTERSWEET_DEVICE void set(int, float x) { value = x; }
  BITTERSWEET_DEVICE bool has_dead_nonzero(u32 keep) const { return keep == 0 && value != 0.0f; }
  BITTERSWEET_DEVICE void set_dead(u32 keep, u32 pattern) {
    if (keep == 0) value = std::bit_cast<float>(pattern);
  }
};

}  // namespace bittersweet::cuda
