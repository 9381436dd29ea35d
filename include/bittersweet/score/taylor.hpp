// Taylor: the first-order change of the loss when the weight is removed. Source: Molchanov et al., Pruning
// Convolutional Neural Networks for Resource Efficient Inference.
#pragma once

#include "bittersweet/score/scorer.hpp"

namespace bittersweet {

struct Taylor {
  static constexpr ScorerInfo info{"taylor", "|w * g|", reads::weight | reads::grad};
  template <class F>
  BITTERSWEET_FORMULA F operator()(const Elements<F>& x) const {
    return abs(x.w * x.g);
  }
};

static_assert(ScorerType<Taylor>);

}  // namespace bittersweet
