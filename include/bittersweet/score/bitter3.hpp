// bitter3: weight times the root of the momentum. bitter4 is the same score under per-layer budgets.
// Source: AdamWPrune.
#pragma once

#include "bittersweet/score/scorer.hpp"

namespace bittersweet {

struct Bitter3 {
  static constexpr ScorerInfo info{"bitter3", "|w| * sqrt(|m| + eps)", reads::weight | reads::exp_avg, 1e-8f};
  float eps = info.default_eps;

  template <class F>
  BITTERSWEET_FORMULA F operator()(const Elements<F>& x) const {
    return abs(x.w) * sqrt(abs(x.m) + eps);
  }

  // The square of the score: a product instead of a root.
  static constexpr int power = 2;
  template <class F>
  BITTERSWEET_FORMULA F powered(const Elements<F>& x) const {
    return (x.w * (abs(x.m) + eps)) * x.w;
  }

  template <class F>
  BITTERSWEET_FORMULA F rough(const Elements<F>& x) const {
    const F square = abs(x.m) + eps;
    return abs(x.w) * (square * quick_rsqrt(square));
  }

  // Where this is zero, so is the score; the converse fails only by underflow.
  template <class F>
  BITTERSWEET_FORMULA F least_factor(const Elements<F>& x) const {
    return min(abs(x.w), abs(x.m) + eps);
  }
};

static_assert(ScorerType<Bitter3>);

}  // namespace bittersweet
