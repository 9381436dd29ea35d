// Identity: scores that the caller computed, by their value.
#pragma once

#include "bittersweet/score/scorer.hpp"

namespace bittersweet {

struct Identity {
  static constexpr ScorerInfo info{"identity", "scores", reads::scores, -1.0f, false};
  template <class F>
  BITTERSWEET_FORMULA F operator()(const Elements<F>& x) const {
    return x.score;
  }
};

static_assert(ScorerType<Identity>);

}  // namespace bittersweet
