// Gradient: the size of the current gradient.
#pragma once

#include "bittersweet/score/scorer.hpp"

namespace bittersweet {

struct Gradient {
  static constexpr ScorerInfo info{"gradient", "|g|", reads::grad};
  static constexpr bool is_magnitude = true;
  template <class F>
  BITTERSWEET_FORMULA F operator()(const Elements<F>& x) const {
    return abs(x.g);
  }
};

static_assert(ScorerType<Gradient>);

}  // namespace bittersweet
