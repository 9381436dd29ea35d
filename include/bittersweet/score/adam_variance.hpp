// adam_variance: weight times a power of the gradient's second moment, by repeated square roots. q = 1/4 is bitter7,
// q = 1/2 ranks like w^2 v (jaxpruner's Adam-Fisher), q = 1/8 lies between bitter7 and magnitude.
#pragma once

#include "bittersweet/score/scorer.hpp"

namespace bittersweet {

struct AdamVariance {
  static constexpr ScorerInfo info{"adam_variance", "|w| * (|v| + eps)^q, q in {1/2, 1/4, 1/8}",
                                   reads::weight | reads::exp_avg_sq, 0.0f};
  float eps = info.default_eps;
  int roots = 2;  // q = 2^-roots: 1, 2 or 3

  template <class F>
  BITTERSWEET_FORMULA F operator()(const Elements<F>& x) const {
    F power = sqrt(abs(x.v) + eps);
    if (roots > 1) power = sqrt(power);
    if (roots > 2) power = sqrt(power);
    return abs(x.w) * power;
  }
};

static_assert(ScorerType<AdamVariance>);

}  // namespace bittersweet
