// How the optimizer's step rounds what it stores.
#pragma once

#include "bittersweet/engine/optim.hpp"
#include "cpu/verbs/rounding.hpp"

namespace bittersweet {
namespace {

// To nearest, by the stores.
class ToNearest {
 public:
  explicit ToNearest(const RoundingKey*) {}
  struct Word {
    void vector(int, const Vec&, const Vec&, const Vec&) const {}
  };
  Word word(std::int64_t) const { return {}; }
  float one(float x, AdamArray, std::int64_t) const { return x; }
};

// Before the stores, to values that these keep.
template <bool States>
class Drawn {
 public:
  explicit Drawn(const RoundingKey* tensor)
      : tensor_(*tensor),
        w_(adam_key(*tensor, AdamArray::weight)),
        m_(adam_key(*tensor, AdamArray::exp_avg)),
        v_(adam_key(*tensor, AdamArray::exp_avg_sq)) {}

  struct Word {
    alignas(64) std::uint16_t w[bits::per_word], m[bits::per_word], v[bits::per_word];

    BITTERSWEET_INLINE void vector(int k, Vec& weight, Vec& first, Vec& second) const {
      weight = stochastic(weight, w + k * lanes);
      if constexpr (States) first = stochastic(first, m + k * lanes);
      if constexpr (States) second = stochastic(second, v + k * lanes);
    }
  };
  BITTERSWEET_INLINE Word word(std::int64_t index) const {
    Word drawn;
    w_.word(index, drawn.w);
    if constexpr (States) m_.word(index, drawn.m);
    if constexpr (States) v_.word(index, drawn.v);
    return drawn;
  }
  float one(float x, AdamArray array, std::int64_t index) const {
    if (!States && array != AdamArray::weight) return x;
    return stochastic_bf16(x, rounding_bits(adam_key(tensor_, array), static_cast<std::uint64_t>(index)));
  }

 private:
  const RoundingKey tensor_;
  const RoundingBits w_, m_, v_;
};

}  // namespace
}  // namespace bittersweet
