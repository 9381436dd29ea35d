// The verb that rounds arrays to bf16 stochastically.
//
// Contract: element i of an array becomes float_to_bf16(stochastic_bf16(from[i], rounding_bits(key, i))), the same bits
// on every engine; nothing else is written, and `from` and `to` share no memory.
#pragma once

#include <concepts>
#include <cstdint>
#include <span>

#include "bittersweet/stochastic_rounding.hpp"

namespace bittersweet {

struct RoundedArray {
  const float* from = nullptr;
  std::uint16_t* to = nullptr;
  std::int64_t numel = 0;
  RoundingKey key{};
};

template <class E>
concept RoundingEngine = requires(E& engine, std::span<const RoundedArray> arrays) { engine.stochastic_round(arrays); };

}  // namespace bittersweet
