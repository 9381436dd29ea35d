// bitter9_hybrid_published: bitter9_hybrid with the published sign. For comparison with published runs only.
// Source: AdamWPrune.
#pragma once

#include "bittersweet/score/scorer.hpp"

namespace bittersweet {

struct Bitter9HybridPublished {
  static constexpr ScorerInfo info{"bitter9_hybrid_published",
                                   "|w| * sqrt(|m| + eps) + 0.1 * (sign(w) * m / (sqrt(v) + eps))",
                                   reads::weight | reads::exp_avg | reads::exp_avg_sq, 1e-8f, false};
  float eps = info.default_eps;

  template <class F>
  BITTERSWEET_FORMULA F operator()(const Elements<F>& x) const {
    return abs(x.w) * sqrt(abs(x.m) + eps) + 0.1f * (sign(x.w) * x.m / (sqrt(x.v) + eps));
  }
};

static_assert(ScorerType<Bitter9HybridPublished>);

}  // namespace bittersweet
