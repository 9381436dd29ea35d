// Random: a baseline. The number depends on the seed and on the element's position in the whole sequence of tensors
// (Philox4x32-10), never on threads, chunks or engine.
#pragma once

#include "bittersweet/score/scorer.hpp"

namespace bittersweet {

struct Random {
  static constexpr ScorerInfo info{"random", "uniform(seed, position)", reads::position};
  std::uint64_t seed = 0;

  template <class F>
  BITTERSWEET_FORMULA F operator()(const Elements<F>& x) const {
    return x.uniform;
  }
};

static_assert(ScorerType<Random>);

}  // namespace bittersweet
