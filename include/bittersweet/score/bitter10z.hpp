// bitter10z: bitter3 times the size of Adam's update; bitter6 up to eps. Source: AdamWPrune.
#pragma once

#include "bittersweet/score/scorer.hpp"

namespace bittersweet {

struct Bitter10z {
  static constexpr ScorerInfo info{"bitter10z", "|w| * sqrt(|m| + eps) * |m| / (sqrt(v) + eps)",
                                   reads::weight | reads::exp_avg | reads::exp_avg_sq, 1e-12f};
  float eps = info.default_eps;

  template <class F>
  BITTERSWEET_FORMULA F operator()(const Elements<F>& x) const {
    return abs(x.w) * sqrt(abs(x.m) + eps) * abs(x.m) / (sqrt(x.v) + eps);
  }
};

static_assert(ScorerType<Bitter10z>);

}  // namespace bittersweet
