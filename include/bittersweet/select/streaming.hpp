// streaming: no sample and no memory. Mean and spread of the scores place a first guess by the inverse normal CDF;
// bisection on the integer key then counts until the achieved share is within the tolerance, or the bracket's keys
// are neighbours (the answer is one heavily repeated value). At most 35 reads; it never ends unconverged.
#pragma once

#include <cmath>

#include "bittersweet/engine/engine.hpp"
#include "bittersweet/radix_key.hpp"
#include "bittersweet/select/threshold.hpp"

namespace bittersweet {

struct Streaming {
  static constexpr std::string_view name = "streaming";
  static constexpr bool approximate = true;
  double tolerance = 1e-3;  // of the achieved share of the live elements; 0: the exact k-th score
};

// x with P(N(0,1) <= x) = p, to 4.5e-4. Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.2.23.
inline double inverse_normal(double p) {
  if (p <= 0.0 || p >= 1.0) return p <= 0.0 ? -9.0 : 9.0;
  const double t = std::sqrt(-2.0 * std::log(p < 0.5 ? p : 1.0 - p));
  const double x =
      t - (2.515517 + t * (0.802853 + t * 0.010328)) / (1.0 + t * (1.432788 + t * (0.189269 + t * 0.001308)));
  return p < 0.5 ? -x : x;
}

// The state of the search: the k-th score's key lies in (low, high]. A pure step, driven by counts.
struct Bisection {
  std::uint32_t low = key_of_minus_infinity - 1;
  std::uint32_t high = key_of_infinity;
  bool adjacent() const noexcept { return high - low <= 1; }
  std::uint32_t middle() const noexcept { return low + (high - low) / 2; }
  bool contains(std::uint32_t key) const noexcept { return key > low && key <= high; }
  void narrow(std::uint32_t key, bool too_few) noexcept { (too_few ? low : high) = key; }
};

template <Engine E>
Selection select_kth(const Streaming& options, E& engine, const ScoreView& view, std::span<const Chunk> chunks,
                     std::int64_t rank, const SelectContext& context, Workspace&) {
  const Moments moments = engine.moments(view, chunks);
  Selection result{.nan = moments.nan, .passes = 1};
  context.pass_done();
  const std::int64_t numbers = moments.total - moments.nan;
  result.rank = std::min(rank, numbers);
  if (result.rank <= 0) return result;
  const double wanted = static_cast<double>(result.rank) / static_cast<double>(numbers);
  Bisection search;
  std::uint32_t key = search.middle();
  if (moments.finite > 0) {
    const double count = static_cast<double>(moments.finite);
    const double mean = moments.sum / count;
    const double variance = std::max(0.0, moments.sum_of_squares / count - mean * mean);
    const auto guess = static_cast<float>(mean + std::sqrt(variance) * inverse_normal(wanted));
    if (search.contains(key_of(guess))) key = key_of(guess);
  }
  for (;;) {
    const float threshold = score_of(key);
    CountsAt counts;
    engine.count(view, chunks, std::span<const float>(&threshold, 1), std::span(&counts, 1));
    ++result.passes;
    context.pass_done();
    const std::int64_t reached = counts.below + counts.equal;
    const double error = std::abs(static_cast<double>(reached) / static_cast<double>(numbers) - wanted);
    const bool is_kth = counts.below < result.rank && result.rank <= reached;
    search.narrow(key, reached < result.rank);
    if (is_kth || (options.tolerance > 0 && error <= options.tolerance)) {
      result.value = threshold == 0.0f ? 0.0f : threshold;  // the two zeros are one value: +0
      result.below = counts.below;
      result.equal = counts.equal;
      return result;
    }
    key = search.adjacent() ? search.high : search.middle();
  }
}

}  // namespace bittersweet
