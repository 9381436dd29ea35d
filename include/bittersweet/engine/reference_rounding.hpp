// The reference engine of stochastic rounding: the plainest loop that is right, and the oracle of the tests.
#pragma once

#include "bittersweet/engine/rounding.hpp"

namespace bittersweet {

class ReferenceRounder {
 public:
  void stochastic_round(std::span<const RoundedArray> arrays) {
    for (const RoundedArray& array : arrays)
      for (std::int64_t i = 0; i < array.numel; ++i)
        array.to[i] =
            float_to_bf16(stochastic_bf16(array.from[i], rounding_bits(array.key, static_cast<std::uint64_t>(i))));
  }
};

static_assert(RoundingEngine<ReferenceRounder>);

}  // namespace bittersweet
