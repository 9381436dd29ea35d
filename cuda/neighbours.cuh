// Neighbouring elements of one array as they are stored, read and written by one access and changed one by one: what
// is not being computed with stays packed.
#pragma once

#include "tile.cuh"

namespace bittersweet::cuda {

template <DType Type, int Width>
struct Neighbours {
  static constexpr int words = Width * (Type == DType::f32 ? 4 : 2) / 4;
  static_assert(words == 2 || words == 4);
  u32 raw[words]{};

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
    if constexpr (Type == DType::f32)
      return std::bit_cast<float>(raw[i]);
    else
      return decode16<Type>(i % 2 ? raw[i / 2] >> 16 : raw[i / 2] & 0xffffu);
  }
  BITTERSWEET_DEVICE void set(int i, float x) {
    if constexpr (Type == DType::f32) {
      raw[i] = std::bit_cast<u32>(x);
    } else {
      const u32 bits = Type == DType::bf16 ? float_to_bf16(x) : float_to_f16(x);
      raw[i / 2] = i % 2 ? (raw[i / 2] & 0x0000ffffu) | bits << 16 : (raw[i / 2] & 0xffff0000u) | bits;
    }
  }
};

template <DType Type>
struct Neighbours<Type, 1> {
  float value = 0.0f;
  BITTERSWEET_DEVICE void read(const void* data, std::int64_t at) { value = load_as_float(data, Type, at); }
  BITTERSWEET_DEVICE void write(void* data, std::int64_t at) const { store_from_float(data, Type, at, value); }
  BITTERSWEET_DEVICE float operator[](int) const { return value; }
  BITTERSWEET_DEVICE void set(int, float x) { value = x; }
};

}  // namespace bittersweet::cuda
