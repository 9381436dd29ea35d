// bitter9_hybrid: bitter3 plus a tenth of the movement away from zero.
// Source: AdamWPrune with its sign corrected (bitter9_hybrid_published keeps the published one).
#pragma once

#include "bittersweet/score/scorer.hpp"

namespace bittersweet {

struct Bitter9Hybrid {
  static constexpr ScorerInfo info{"bitter9_hybrid", "|w| * sqrt(|m| + eps) - 0.1 * sign(w) * m / (sqrt(v) + eps)",
                                   reads::weight | reads::exp_avg | reads::exp_avg_sq, 1e-8f, false};
  float eps = info.default_eps;

  template <class F>
  BITTERSWEET_FORMULA F operator()(const Elements<F>& x) const {
    return abs(x.w) * sqrt(abs(x.m) + eps) - 0.1f * sign(x.w) * x.m / (sqrt(x.v) + eps);
  }
};

static_assert(ScorerType<Bitter9Hybrid>);

}  // namespace bittersweet
