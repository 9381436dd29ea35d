// bitter5_published: bitter5 with the published sign, which rewards weights that move toward zero. For comparison
// with published runs only. Source: AdamWPrune.
#pragma once

#include "bittersweet/score/scorer.hpp"

namespace bittersweet {

struct Bitter5Published {
  static constexpr ScorerInfo info{"bitter5_published", "sign(w) * m / (sqrt(v) + eps) + 0.1 |w|",
                                   reads::weight | reads::exp_avg | reads::exp_avg_sq, 1e-8f, false};
  float eps = info.default_eps;

  template <class F>
  BITTERSWEET_FORMULA F operator()(const Elements<F>& x) const {
    return sign(x.w) * x.m / (sqrt(x.v) + eps) + 0.1f * abs(x.w);
  }
};

static_assert(ScorerType<Bitter5Published>);

}  // namespace bittersweet
