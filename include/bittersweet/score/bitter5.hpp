// bitter5: movement away from zero. Adam moves along -m, so sign(w) * m > 0 is a weight that shrinks: it loses score.
// Source: AdamWPrune with its sign corrected (bitter5_published keeps the published one).
#pragma once

#include "bittersweet/score/scorer.hpp"

namespace bittersweet {

struct Bitter5 {
  static constexpr ScorerInfo info{"bitter5", "0.1 |w| - sign(w) * m / (sqrt(v) + eps)",
                                   reads::weight | reads::exp_avg | reads::exp_avg_sq, 1e-8f, false};
  float eps = info.default_eps;

  template <class F>
  BITTERSWEET_FORMULA F operator()(const Elements<F>& x) const {
    return 0.1f * abs(x.w) - sign(x.w) * x.m / (sqrt(x.v) + eps);
  }
};

static_assert(ScorerType<Bitter5>);

}  // namespace bittersweet
