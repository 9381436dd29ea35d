// bitter8: bitter7 by a double reciprocal square root, in f32 registers whatever the storage. On the CPU rsqrt(x) is
// the IEEE 1 / sqrt(x); on CUDA the approximate instruction, and scores are within 2^-21 of the true value, relative
// (docs/cuda.md). bitter9 is the same score (every scorer here runs fused with threshold and mask).
// Source: AdamWPrune, without its f16 arithmetic (bitter8_published keeps that).
#pragma once

#include "bittersweet/score/scorer.hpp"

namespace bittersweet {

struct Bitter8 {
  static constexpr ScorerInfo info{"bitter8", "|w| * rsqrt(rsqrt(|v| + eps))", reads::weight | reads::exp_avg_sq,
                                   1e-8f};
  float eps = info.default_eps;

  template <class F>
  BITTERSWEET_FORMULA F operator()(const Elements<F>& x) const {
    return abs(x.w) * rsqrt(rsqrt(abs(x.v) + eps));
  }

  // The fourth power of bitter7 serves: the two reciprocals move the score by at most two ulp.
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

static_assert(ScorerType<Bitter8>);

}  // namespace bittersweet
