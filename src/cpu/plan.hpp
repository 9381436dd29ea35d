// How the bracket pass decides: by the score, or by a cheaper power of it with exact scores near the ends.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>

#include "cpu/kernels.hpp"

namespace bittersweet::cpu {

// The power form's relative error is below this where the power is above smallest_power, and what overflows in it has a
// power above largest_power (tests sweep both).
inline constexpr double power_margin = 4e-6;
inline constexpr double smallest_power = 1e-34;
inline constexpr double largest_power = 1e32;
inline constexpr double smallest_rounded = 1e-30;  // scores from here on are normal numbers, rounded as finely as any

// The power of two by which weights are multiplied so that the power of the bracket's high end is about 2^96: what is
// left below it, down to smallest_power, are scores of 1e15 times less (of 1e31, for a square).
inline float power_scale(float high, int power) {
  return std::ldexp(1.0f, std::clamp(96 / power - std::ilogb(high), -126, 127));
}

// The ends as bits of bf16 magnitudes: rounded up for the least that is not below, down and one more for the least
// above.
inline void plan_bits(BracketPlan& plan) {
  const auto bits = [](float end) { return end > 0.0f ? std::bit_cast<std::uint32_t>(end) : 0u; };
  const auto holds = [&](float end) { return end >= 0.0f && (bits(end) & 0xffffu) == 0; };
  const Bracket& bracket = plan.bracket;
  plan.bits_low = static_cast<std::int16_t>((bits(bracket.low) + 0xffffu) >> 16);
  plan.bits_high = static_cast<std::int16_t>(bracket.high < 0.0f ? 0 : (bits(bracket.high) >> 16) + 1);
  plan.bits_hold_low = holds(bracket.low);
  plan.bits_hold_high = holds(bracket.high);
}

inline BracketPlan plan_bracket(const Bracket& bracket, const ScoreView& view) {
  BracketPlan plan{bracket, bracket.heavy_ends || view.modified ? Decide::by_score_heavy : Decide::by_score};
  plan_bits(plan);
  if (bracket.heavy_ends || view.modified) return plan;
  return std::visit(
      [&](const auto& scorer) {
        if constexpr (HasPower<std::decay_t<decltype(scorer)>>) {
          if (!(bracket.low > 0.0f) || !std::isfinite(bracket.high) || !(bracket.high >= smallest_rounded)) return plan;
          plan.scale = power_scale(bracket.high, scorer.power);
          const auto power = [&](float end) { return std::pow(static_cast<double>(end) * plan.scale, scorer.power); };
          const double high = power(bracket.high) * (1 + power_margin), low = power(bracket.low) * (1 - power_margin);
          if (bracket.low == std::numeric_limits<float>::denorm_min()) {
            plan.decide = Decide::by_power_above_zero;
            plan.power_high = static_cast<float>(high);
          } else if (bracket.low >= smallest_rounded && low >= smallest_power) {
            plan.decide = Decide::by_power;
            plan.power_low = static_cast<float>(low);
            plan.power_high = static_cast<float>(high);
          }
        }
        return plan;
      },
      view.scorer);
}

}  // namespace bittersweet::cpu
