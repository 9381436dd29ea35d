// Temporal coherence: the number per tensor that makes bitter10, bitter10s and bitter10c of bitter3. In double.
//   bitter10   max(floor, alpha p(1 - flip)^a p(direction)^b p(retention)^c / (1 + d jitter)),  p(x) = max(x, floor)
//   bitter10s  the same with c = 0;   bitter10c  p(direction) / (1 + jitter)
// flip: share of signs that changed. direction: cosine with the past. retention: cos(-m, w), above 0 where a tensor
// grows where it is large, since Adam moves along -m; measured when it is used. jitter: var(x) / mean(x)^2. Source:
// AdamWPrune, corrected (its cosines have the other sign or none, its averages start biased, its jitter is absolute);
// see docs/scorers.md.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>

#include "bittersweet/config.hpp"

namespace bittersweet {

// Exponential moving average from zero; `weight`, the average of 1, corrects its bias. Unseen, its mean is 0.
struct Average {
  double value = 0, weight = 0;
  BITTERSWEET_FORMULA double mean() const noexcept { return weight > 0 ? value / weight : 0.0; }
  // What does not exist leaves it as it was.
  BITTERSWEET_FORMULA void observe(std::optional<double> x, double decay) noexcept {
    if (!x) return;
    value = decay * value + (1.0 - decay) * *x;
    weight = decay * weight + (1.0 - decay);
  }
};

struct Coherence {  // of one tensor
  double updates = 0;
  Average flip{}, direction{}, jitter{};

  BITTERSWEET_FORMULA std::int64_t count() const noexcept {
    return updates > 0 && updates < 0x1p53 ? static_cast<std::int64_t>(updates) : 0;
  }
};

struct CoherenceParameters {
  double alpha = 1, d = 1, floor = 0.05;
  int a = 4, b = 4, c = 4;  // exponents in quarters: 4 is the first power
};

BITTERSWEET_FORMULA std::optional<double> finite(double x) noexcept {
  return std::isfinite(x) ? std::optional(x) : std::nullopt;
}

// dot / (norm * norm), between -1 and 1; none where a norm is zero or not finite.
BITTERSWEET_FORMULA std::optional<double> cosine(double xy, double xx, double yy) noexcept {
  if (!(xx > 0.0 && yy > 0.0 && std::isfinite(xx + yy))) return std::nullopt;
  const std::optional<double> value = finite(xy / (std::sqrt(xx) * std::sqrt(yy)));
  return value ? std::optional(std::clamp(*value, -1.0, 1.0)) : value;
}

// var / mean^2 from a sum and a sum of squares of n numbers; none where the mean is zero or not finite.
BITTERSWEET_FORMULA std::optional<double> relative_variance(double n, double sum, double squares) noexcept {
  if (!(n > 0.0 && sum > 0.0)) return std::nullopt;
  const double mean = sum / n, variance = squares / n - mean * mean;
  return finite(std::max(variance, 0.0) / (mean * mean));
}

// x^(quarters / 4) by square roots and products.
inline double power(double x, int quarters) noexcept {
  const double half = std::sqrt(x), factors[] = {1.0, std::sqrt(half), half, half * std::sqrt(half)};
  double result = factors[quarters % 4];
  for (int i = 0; i < quarters / 4; ++i) result *= x;
  return result;
}

// `retention` is that of now; bitter10s has none, and c = 0.
inline double coherence_modifier(const Coherence& s, double retention, const CoherenceParameters& p) noexcept {
  const auto factor = [&](double x, int quarters) { return power(std::max(x, p.floor), quarters); };
  const double product =
      p.alpha * factor(1.0 - s.flip.mean(), p.a) * factor(s.direction.mean(), p.b) * factor(retention, p.c);
  return std::max(p.floor, product / (1.0 + p.d * s.jitter.mean()));
}

inline double snapshot_modifier(const Coherence& s, double floor) noexcept {
  return std::max(s.direction.mean(), floor) / (1.0 + s.jitter.mean());
}

}  // namespace bittersweet
