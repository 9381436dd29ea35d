// bitter8_bias_corrected: bitter3 on the bias-corrected momentum; ranks like bitter3 when all steps are equal.
// Source: AdamWPrune, an earlier meaning of bitter8.
#pragma once

#include "bittersweet/score/scorer.hpp"

namespace bittersweet {

struct Bitter8BiasCorrected {
  static constexpr ScorerInfo info{"bitter8_bias_corrected", "|w| * sqrt(|m / (1 - beta1^t)| + eps)",
                                   reads::weight | reads::exp_avg | reads::step, 1e-8f};
  float eps = info.default_eps;

  template <class F>
  BITTERSWEET_FORMULA F operator()(const Elements<F>& x) const {
    return abs(x.w) * sqrt(abs(x.m / x.bias_correction1) + eps);
  }
};

static_assert(ScorerType<Bitter8BiasCorrected>);

}  // namespace bittersweet
