// WANDA: weight times the norm of its input feature. Its comparison group is the output row (scope "row").
// Norms are taken as given: a negative one gives negative scores. Source: Sun et al., A Simple and Effective Pruning
// Approach for Large Language Models.
#pragma once

#include "bittersweet/score/scorer.hpp"

namespace bittersweet {

struct Wanda {
  static constexpr ScorerInfo info{"wanda", "|w_ij| * norm_j", reads::weight | reads::input_norm, -1.0f, false};
  template <class F>
  BITTERSWEET_FORMULA F operator()(const Elements<F>& x) const {
    return abs(x.w) * x.norm;
  }
};

static_assert(ScorerType<Wanda>);

}  // namespace bittersweet
