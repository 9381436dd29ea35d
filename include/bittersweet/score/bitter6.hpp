// bitter6: bitter3 times the signal-to-noise ratio of the gradient; bitter10z up to the place of eps.
// Source: AdamWPrune.
#pragma once

#include "bittersweet/score/scorer.hpp"

namespace bittersweet {

struct Bitter6 {
  static constexpr ScorerInfo info{"bitter6", "|w| * sqrt(|m| + eps) * sqrt(m*m / (v + eps))",
                                   reads::weight | reads::exp_avg | reads::exp_avg_sq, 1e-8f};
  float eps = info.default_eps;

  template <class F>
  BITTERSWEET_FORMULA F operator()(const Elements<F>& x) const {
    return abs(x.w) * sqrt(abs(x.m) + eps) * sqrt(x.m * x.m / (x.v + eps));
  }
};

static_assert(ScorerType<Bitter6>);

}  // namespace bittersweet
