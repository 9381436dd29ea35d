// Stochastic rounding to bf16: to one of the two neighbours, the nearer one the likelier, so that the mean of what is
// stored is the value itself and sums lose no small update (Connolly, Higham and Mary, Stochastic Rounding and Its
// Probabilistic Backward Error Analysis). The random bits belong to an element and a step: they depend on neither
// threads nor order nor device, and a resumed run draws them again.
#pragma once

#include <bit>

#include "bittersweet/dtype.hpp"
#include "bittersweet/philox.hpp"

namespace bittersweet {

// Which bits an array draws. Arrays that are rounded with one seed at one step take streams of their own.
struct RoundingKey {
  std::uint64_t seed = 0;
  std::uint32_t step = 0;
  std::uint32_t stream = 0;

  static constexpr std::uint32_t streams = 1u << 24;
  static constexpr std::int64_t block = 8;  // elements that share a number of 128 bits

  constexpr std::uint32_t purpose() const noexcept {
    return static_cast<std::uint32_t>(Purpose::rounding) | stream << 8;
  }
};

// The 16 bits of an element: halves of the words of its block, in order.
BITTERSWEET_FORMULA std::uint32_t rounding_bits(const RoundingKey& key, std::uint64_t element) noexcept {
  const std::uint64_t block = element / RoundingKey::block;
  const auto words = philox_4x32(
      {static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32), key.purpose(), key.step}, key.seed);
  const std::uint32_t low = element & 2 ? words[1] : words[0], high = element & 2 ? words[3] : words[2];
  return ((element & 4 ? high : low) >> (16 * (element & 1))) & 0xffffu;
}

// One of the bf16 that x lies between, as a float; x itself if it is one, so 0 stays 0 and keeps its sign. NaN,
// infinities, and all from the largest finite bf16 on, which have no finite neighbour above, are returned as they are:
// storing them rounds to nearest.
BITTERSWEET_FORMULA float stochastic_bf16(float x, std::uint32_t random) noexcept {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  if ((bits & 0x7fffffffu) >= 0x7f7f0000u) return x;
  return std::bit_cast<float>((bits + random) & 0xffff0000u);
}

// The bits that storing it gives.
BITTERSWEET_FORMULA std::uint16_t stochastic_bf16_bits(float x, std::uint32_t random) noexcept {
  return float_to_bf16(stochastic_bf16(x, random));
}

// Writes it to an array of `type` and rounds once: f32 and f16 to nearest, bf16 stochastically.
BITTERSWEET_FORMULA void store_stochastic(void* data, DType type, std::int64_t index, float x,
                                          const RoundingKey& key) noexcept {
  const bool drawn = type == DType::bf16;
  store_from_float(data, type, index,
                   drawn ? stochastic_bf16(x, rounding_bits(key, static_cast<std::uint64_t>(index))) : x);
}

}  // namespace bittersweet
