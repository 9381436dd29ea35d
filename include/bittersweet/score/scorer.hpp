// What a scorer is: a tiny value (formula and parameters) that maps the elements it reads to one score.
//
// A scorer offers
//   info         its published name, its formula as text, what it reads, its default eps;
//   operator()   the formula, generic over the value type F: float, a SIMD vector, or float on a GPU;
//   and may offer
//   powered()    a monotone power of the score without roots (`power` says which), s^power times as large of a weight s
//                times as large, to compare without scoring; and with it least_factor(), zero only where the score is;
//   is_magnitude true where the score is |x| of the one array that it reads, so that stored bits can be compared;
//   rough()      the score within a factor of 1 +- 2^-20 wherever it is normal and eps is too, by reciprocal roots: to
//                compare without scoring, on devices where those are one instruction.
// Every score is keep-high, prune-low. All arithmetic is f32, evaluated as written, without contraction.
#pragma once

#include <cmath>
#include <concepts>
#include <cstdint>
#include <string_view>

#include "bittersweet/config.hpp"
#include "bittersweet/dtype.hpp"

namespace bittersweet {

namespace reads {  // which elements a formula looks at
inline constexpr std::uint32_t weight = 1;
inline constexpr std::uint32_t exp_avg = 2;
inline constexpr std::uint32_t exp_avg_sq = 4;
inline constexpr std::uint32_t grad = 8;
inline constexpr std::uint32_t input_norm = 16;
inline constexpr std::uint32_t scores = 32;
inline constexpr std::uint32_t position = 64;   // a uniform number from (seed, position in the whole sequence)
inline constexpr std::uint32_t step = 128;      // ScoreInputs::bias_correction1
inline constexpr std::uint32_t modifier = 256;  // ScoreInputs::modifier, from a tracker
}  // namespace reads

// The inputs of one score. A formula reads only the members that its info names; the others are undefined.
template <class F>
struct Elements {
  F w;        // weight
  F m;        // exp_avg
  F v;        // exp_avg_sq
  F g;        // gradient
  F norm;     // norm of the weight's input feature
  F score;    // a score computed elsewhere
  F uniform;  // in [0, 1)
  float bias_correction1;
};

struct ScorerInfo {
  std::string_view name;
  std::string_view formula;
  std::uint32_t reads;
  float default_eps = -1.0f;  // negative: the formula has no eps
  bool non_negative = true;   // false: scores may be below zero
};

// The arithmetic that formulas are written in, for F = float. SIMD vectors bring their own by the same names.
BITTERSWEET_FORMULA float abs(float x) { return std::fabs(x); }
#if defined(__CUDA_ARCH__)
// One instruction; flushes denormal arguments to zero. Relative error below 2^-22.
BITTERSWEET_FORMULA float quick_rsqrt(float x) {
  float r;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}
// The approximate instruction, denormals included: relative error below 2^-22, where IEEE would be 2^-23.
BITTERSWEET_FORMULA float rsqrt(float x) {
  float r;
  asm("rsqrt.approx.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}
// The nearest float, as __fsqrt_rn, by the steps that the compiler takes for it, but without its branch: small
// arguments are scaled by a power of four.
BITTERSWEET_FORMULA float sqrt(float x) {
  const bool small = x < 0x1p-101f;
  const float y = small ? x * 0x1p64f : x;
  const float r = quick_rsqrt(y), g = y * r;
  const float root = __fmaf_rn(__fmaf_rn(-g, g, y), 0.5f * r, g) * (small ? 0x1p-32f : 1.0f);
  return x == 0.0f || x == __int_as_float(0x7f800000) ? x : root;
}
#else
BITTERSWEET_FORMULA float sqrt(float x) { return std::sqrt(x); }
BITTERSWEET_FORMULA float rsqrt(float x) { return 1.0f / std::sqrt(x); }
BITTERSWEET_FORMULA float quick_rsqrt(float x) { return rsqrt(x); }
#endif
BITTERSWEET_FORMULA float sign(float x) { return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : 0.0f; }
BITTERSWEET_FORMULA float min(float a, float b) { return a < b ? a : b; }
BITTERSWEET_FORMULA float half(float x) { return round_to_half(x); }

template <class S>
concept ScorerType = requires(const S& scorer, const Elements<float>& x) {
  { S::info } -> std::convertible_to<ScorerInfo>;
  { scorer(x) } -> std::same_as<float>;
};

template <class S>
concept IsMagnitude = requires { requires S::is_magnitude; };

// Does S offer powered(), a monotone power of its score?
template <class S>
concept HasPower = requires(const S& scorer, const Elements<float>& x) {
  { S::power } -> std::convertible_to<int>;
  { scorer.powered(x) } -> std::same_as<float>;
  { scorer.least_factor(x) } -> std::same_as<float>;
};

// Does S offer rough()?
template <class S>
concept HasRough = requires(const S& scorer, const Elements<float>& x) {
  { scorer.rough(x) } -> std::same_as<float>;
};

}  // namespace bittersweet
