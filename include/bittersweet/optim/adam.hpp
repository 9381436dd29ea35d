// Adam and AdamW, one element at a time, in the arithmetic of torch's fused step: scalars are computed in double and
// rounded to float once, everything else is f32. 16-bit arrays are widened, and rounded to nearest once where stored.
// Sources: Kingma and Ba (Adam), Loshchilov and Hutter (AdamW), Reddi et al. (AMSGrad).
#pragma once

#include <cmath>
#include <cstdint>

#include "bittersweet/score/scorer.hpp"

namespace bittersweet {

// Which products are joined with the sum after them into one rounding. torch's source leaves that to the compiler that
// built it, so it is a fact about an installation. `fused` has two forms, since the second moment sums two products.
enum class Contraction : std::uint8_t {
  none,
  fused,       // v = fma(c2 * g, g, v * beta2): in vectors
  fused_rest,  // v = fma(v, beta2, (c2 * g) * g): in the scalar loop over what fills no vector
};

// The vectors of the build that is to be matched: the last numel % lanes elements are its scalar loop's.
struct AdamRounding {
  bool contracted = true;
  std::uint8_t lanes_f32 = 8;
  std::uint8_t lanes_16bit = 16;
};

// The options of a parameter group. `step` is per tensor.
struct AdamOptions {
  double lr = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0;
  bool decoupled = true;  // AdamW: the weight decays; else the gradient gains weight_decay * w
  bool amsgrad = false;
  bool maximize = false;

  bool operator==(const AdamOptions&) const = default;
};

// One step's constants of one tensor.
struct AdamStep {
  float decay;            // factor of the weight; 1 unless decoupled
  float coupled;          // weight decay of the gradient; 0 if decoupled
  float blend;            // m = base + blend * (g - m), where the base is
  bool base_is_gradient;  // g, or m: whichever is nearer the result
  bool maximize;
  bool scaled;  // the gradient is divided by `scale` first, and that is stored
  float beta2, rest2;
  float root_correction;  // sqrt(1 - beta2^step)
  float eps;
  float minus_step_size;  // -lr / (1 - beta1^step)
  float scale;
};

// `step` counts from 1. `scale`: what the gradients were multiplied by (a GradScaler's); 0: nothing.
BITTERSWEET_FORMULA AdamStep make_adam_step(const AdamOptions& o, double step, float scale = 0.0f) noexcept {
  const double rest1 = 1.0 - o.beta1;
  const bool near_past = std::fabs(rest1) < 0.5;
  const auto weight = static_cast<float>(rest1);
  return {.decay = static_cast<float>(o.decoupled && o.weight_decay != 0.0 ? 1.0 - o.lr * o.weight_decay : 1.0),
          .coupled = static_cast<float>(o.decoupled ? 0.0 : o.weight_decay),
          .blend = near_past ? weight : weight - 1.0f,
          .base_is_gradient = !near_past,
          .maximize = o.maximize,
          .scaled = scale != 0.0f,
          .beta2 = static_cast<float>(o.beta2),
          .rest2 = static_cast<float>(1.0 - o.beta2),
          .root_correction = static_cast<float>(std::sqrt(1.0 - std::pow(o.beta2, step))),
          .eps = static_cast<float>(o.eps),
          .minus_step_size = static_cast<float>(-(o.lr / (1.0 - std::pow(o.beta1, step)))),
          .scale = scale};
}

// The arithmetic below for F = float. SIMD vectors bring their own by the same names.
#if defined(__CUDA_ARCH__)
BITTERSWEET_FORMULA float fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
#else
BITTERSWEET_FORMULA float fma(float a, float b, float c) { return std::fma(a, b, c); }
#endif
BITTERSWEET_FORMULA float like(float, float value) { return value; }
BITTERSWEET_FORMULA float larger(float a, float b) { return b != b || a < b ? b : a; }  // NaN if one is

// a * b + c, rounded once or twice.
template <Contraction C, class F>
BITTERSWEET_FORMULA F multiply_add(const F& a, const F& b, const F& c) {
  if constexpr (C == Contraction::none)
    return a * b + c;
  else
    return fma(a, b, c);
}

// One element: w, m, v and, if not null, the AMSGrad buffer are updated; g is what is stored as the gradient.
template <Contraction C, class F>
BITTERSWEET_FORMULA void adam(const AdamStep& s, F& w, F& g, F& m, F& v, F* largest) {
  if (s.scaled) g = g / s.scale;
  F d = s.maximize ? -1.0f * g : g;
  w = w * s.decay;
  if (s.coupled != 0.0f) d = multiply_add<C>(w, like(w, s.coupled), d);
  const F change = d - m;
  m = multiply_add<C>(like(w, s.blend), change, s.base_is_gradient ? d : m);
  const F scaled_gradient = s.rest2 * d;
  if constexpr (C == Contraction::fused_rest)
    v = fma(v, like(w, s.beta2), scaled_gradient * d);
  else
    v = multiply_add<C>(scaled_gradient, d, v * s.beta2);
  if (largest != nullptr) *largest = larger(*largest, v);
  const F denominator = sqrt(largest != nullptr ? *largest : v) / s.root_correction + s.eps;
  w = w + (s.minus_step_size * m) / denominator;
}

}  // namespace bittersweet
