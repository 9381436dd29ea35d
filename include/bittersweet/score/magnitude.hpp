// Magnitude: the classic criterion, also published as bitter1 and bitter2.
#pragma once

#include "bittersweet/score/scorer.hpp"

namespace bittersweet {

struct Magnitude {
  static constexpr ScorerInfo info{"magnitude", "|w|", reads::weight};
  static constexpr bool is_magnitude = true;
  template <class F>
  BITTERSWEET_FORMULA F operator()(const Elements<F>& x) const {
    return abs(x.w);
  }
};

static_assert(ScorerType<Magnitude>);

}  // namespace bittersweet
