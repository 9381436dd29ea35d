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
    template <AdamArray A, class T>
    BITTERSWEET_INLINE void store(T* to, const Vec (&a)[vectors_per_word]) const {
      store_word(to, a);
    }
  };
  Word word(std::int64_t) const { return {}; }
  float one(float x, AdamArray, std::int64_t) const { return x; }
};

// Stochastically: vectors before they are stored, to values that this keeps, or 64 elements as they are.
template <bool States>
class Drawn {
 public:
  explicit Drawn(const RoundingKey* tensor)
      : tensor_(*tensor),
        w_(adam_key(*tensor, AdamArray::weight)),
        m_(adam_key(*tensor, AdamArray::exp_avg)),
        v_(adam_key(*tensor, AdamArray::exp_avg_sq)) {}

  struct Word {
    RandomWord w, m, v;

    BITTERSWEET_INLINE void vector(int k, Vec& weight, Vec& first, Vec& second) const {
      weight = stochastic(weight, w.of[k]);
      if constexpr (States) first = stochastic(first, m.of[k]);
      if constexpr (States) second = stochastic(second, v.of[k]);
    }
    template <AdamArray A, class T>
    BITTERSWEET_INLINE void store(T* to, const Vec (&a)[vectors_per_word]) const {
      if constexpr (A == AdamArray::weight)
        store_stochastic_word(to, a, w);
      else if constexpr (States)
        store_stochastic_word(to, a, A == AdamArray::exp_avg ? m : v);
      else
        store_word(to, a);
    }
  };
  BITTERSWEET_INLINE Word word(std::int64_t index) const {
    if constexpr (!States) return {w_.word(index), {}, {}};
    if constexpr (lanes < 16) return {w_.word(index), m_.word(index), v_.word(index)};  // too few registers for three
    RandomWord drawn[3];
    RoundingBits::draw<3>({&w_, &m_, &v_}, {index, index, index}, drawn);
    return {drawn[0], drawn[1], drawn[2]};
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
