// bitter0: squared weight times the size of Adam's update. Source: AdamWPrune.
#pragma once

#include "bittersweet/score/scorer.hpp"

namespace bittersweet {

struct Bitter0 {
  static constexpr ScorerInfo info{"bitter0", "|w*m| * |w| / (sqrt(v) + eps)",
                                   reads::weight | reads::exp_avg | reads::exp_avg_sq, 1e-8f};
  float eps = info.default_eps;

  template <class F>
  BITTERSWEET_FORMULA F operator()(const Elements<F>& x) const {
    return abs(x.w * x.m) * abs(x.w) / (sqrt(x.v) + eps);
  }
};

static_assert(ScorerType<Bitter0>);

}  // namespace bittersweet
