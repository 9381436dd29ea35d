// The random bits of neighbouring elements, whose Philox block they share: those of rounding_bits().
#pragma once

#include "bittersweet/stochastic_rounding.hpp"
#include "device.cuh"

namespace bittersweet::cuda {

// Of elements at, at + 1, ... at + Width, a multiple of Width.
template <int Width>
struct Draws {
  static_assert(Width == 4 || Width == RoundingKey::block);
  u32 words[Width / 2];

  BITTERSWEET_DEVICE Draws(const RoundingKey& key, std::int64_t at) {
    const u64 block = static_cast<u64>(at) / RoundingKey::block;
    const auto all =
        philox_4x32({static_cast<u32>(block), static_cast<u32>(block >> 32), key.purpose(), key.step}, key.seed);
    const bool upper = Width == 4 && (at & 4) != 0;
    words[0] = upper ? all[2] : all[0];
    words[1] = upper ? all[3] : all[1];
    if constexpr (Width == 8) words[2] = all[2], words[3] = all[3];
  }
  BITTERSWEET_DEVICE u32 operator[](int i) const { return words[i / 2] >> (16 * (i % 2)) & 0xffffu; }
};

template <>
struct Draws<1> {
  u32 word;
  BITTERSWEET_DEVICE Draws(const RoundingKey& key, std::int64_t at) : word(rounding_bits(key, static_cast<u64>(at))) {}
  BITTERSWEET_DEVICE u32 operator[](int) const { return word; }
};

}  // namespace bittersweet::cuda
