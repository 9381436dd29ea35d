// bitter7: weight times the fourth root of the gradient's second moment; the fourth root as two square roots.
// Source: AdamWPrune.
#pragma once

#include "bittersweet/score/scorer.hpp"

namespace bittersweet {

struct Bitter7 {
  static constexpr ScorerInfo info{"bitter7", "|w| * (|v| + eps)^(1/4)", reads::weight | reads::exp_avg_sq, 1e-8f};
  float eps = info.default_eps;

  template <class F>
  BITTERSWEET_FORMULA F operator()(const Elements<F>& x) const {
    return abs(x.w) * sqrt(sqrt(abs(x.v) + eps));
  }

  // The fourth power of the score. In this order nothing underflows where the power itself is above 1e-34: its
  // relative error is below 4e-6 there (the tests sweep the whole exponent range).
  static constexpr int power = 4;
  template <class F>
  BITTERSWEET_FORMULA F powered(const Elements<F>& x) const {
    const F squared = x.w * x.w;
    return (squared * (abs(x.v) + eps)) * squared;
  }

  template <class F>
  BITTERSWEET_FORMULA F rough(const Elements<F>& x) const {
    return abs(x.w) * quick_rsqrt(quick_rsqrt(abs(x.v) + eps));
  }

  // Where this is zero, so is the score; the converse fails only by underflow.
  template <class F>
  BITTERSWEET_FORMULA F least_factor(const Elements<F>& x) const {
    return min(abs(x.w), abs(x.v) + eps);
  }
};

static_assert(ScorerType<Bitter7>);

}  // namespace bittersweet
