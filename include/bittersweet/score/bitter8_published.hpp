// bitter8_published: bitter8 in f16 arithmetic, constants included. eps = 1e-8 is exactly 0 there and every v below
// 3e-8 too, so most of a model scores 0; eps = 1e-5 (also published) swamps v and ranks like magnitude. For
// comparison with published runs only. Reciprocal roots are divided out, so that every device gives the same bits.
// Source: AdamWPrune.
#pragma once

#include "bittersweet/score/scorer.hpp"

namespace bittersweet {

struct Bitter8Published {
  static constexpr ScorerInfo info{"bitter8_published",
                                   "|w| * rsqrt(rsqrt(|v| + eps)) with every operation rounded to f16",
                                   reads::weight | reads::exp_avg_sq, 1e-8f};
  float eps = info.default_eps;

  template <class F>
  BITTERSWEET_FORMULA F operator()(const Elements<F>& x) const {
    const F v = half(abs(half(x.v)) + half(eps));
    return half(abs(half(x.w)) * half(1.0f / sqrt(half(1.0f / sqrt(v)))));
  }
};

static_assert(ScorerType<Bitter8Published>);

}  // namespace bittersweet
