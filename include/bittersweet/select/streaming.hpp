// streaming: no sample. Mean and spread of the scores place a first guess by the inverse normal CDF; every read then
// counts at a few thresholds at once, near where the counts so far place the k-th score, until the achieved share is
// within the tolerance, or the range holds one key (the answer is one heavily repeated value). The range halves with
// every read at least, so that 35 are the most; it never ends unconverged. Where the exact score is asked for and few
// are left in the range, the next read collects them and is the last: they are what memory it takes.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "bittersweet/engine/engine.hpp"
#include "bittersweet/radix_key.hpp"
#include "bittersweet/select/exact.hpp"
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

// The state of the search: the k-th score's key lies in (low, high], and so many scores lie at or below the two. Pure
// steps, driven by counts.
struct KeySearch {
  static constexpr double octave = 1 << 23;  // keys from a score to its double

  std::uint32_t low = key_of_minus_infinity - 1;
  std::uint32_t high = key_of_infinity;
  std::int64_t up_to_low = 0;
  std::int64_t up_to_high = 0;
  std::int64_t up_to_all = up_to_high;

  // Where to count first: around a guess, by parts of an octave and by octaves, more of them below it, since heavy
  // tails lift mean and spread; and at zero, which half of a model may be.
  std::vector<std::uint32_t> cuts_around(std::uint32_t guess) const {
    std::vector<double> wanted{key_of_zero};
    for (const double octaves : {-12.0, -3.0, -0.7, -0.125, 0.125, 0.7}) wanted.push_back(guess + octaves * octave);
    return distinct(wanted);
  }

  // Where to count next. In a wide range at equal steps; else where the k-th would lie if the scores inside were spread
  // evenly over their keys, beside it as far as chance and their density may carry it, and in the middle.
  std::vector<std::uint32_t> cuts(std::int64_t rank) const {
    const double width = high - low, inside = static_cast<double>(up_to_high - up_to_low);
    if (width > 2.5 * octave)
      return distinct({low + width / 7, low + width * 2 / 7, low + width * 3 / 7, low + width * 4 / 7,
                       low + width * 5 / 7, low + width * 6 / 7});
    const double at = low + width * (static_cast<double>(rank - up_to_low) - 0.5) / inside;
    const double near = width * std::clamp(2.5 / std::sqrt(inside), 0.01, 0.0625), least = 1;
    return distinct({at - std::max(2 * least, 4 * near), at - std::max(least, near), at, at + std::max(least, near),
                     at + std::max(2 * least, 4 * near), low + width / 2});
  }

  // Are so few scores left that one read can collect them, and where they lie: a bracket that holds the k-th.
  bool few_left() const noexcept { return up_to_high - up_to_low <= up_to_all / 64; }
  Bracket left() const noexcept { return {score_of(low + 1), score_of(high)}; }

  void narrow(std::uint32_t key, std::int64_t up_to_key, std::int64_t rank) noexcept {
    if (up_to_key < rank && key > low) low = key, up_to_low = up_to_key;
    if (up_to_key >= rank && key < high) high = key, up_to_high = up_to_key;
  }

 private:
  std::vector<std::uint32_t> distinct(const std::vector<double>& wanted) const {
    std::vector<std::uint32_t> keys;
    const double least = static_cast<double>(low) + 1, most = std::max(least, static_cast<double>(high) - 1);
    for (const double key : wanted) keys.push_back(static_cast<std::uint32_t>(std::clamp(key, least, most)));
    std::sort(keys.begin(), keys.end());
    keys.erase(std::unique(keys.begin(), keys.end()), keys.end());
    return keys;
  }
};

template <Engine E>
Selection select_kth(const Streaming& options, E& engine, const ScoreView& view, std::span<const Chunk> chunks,
                     std::int64_t rank, const SelectContext& context, Workspace& workspace) {
  const Moments moments = engine.moments(view, chunks);
  Selection result{.nan = moments.nan, .passes = 1};
  context.pass_done();
  const std::int64_t numbers = moments.total - moments.nan;
  result.rank = std::min(rank, numbers);
  if (result.rank <= 0) return result;
  const double wanted = static_cast<double>(result.rank) / static_cast<double>(numbers);
  KeySearch search{.up_to_high = numbers};
  std::vector<std::uint32_t> keys = search.cuts(result.rank);
  if (moments.finite > 0) {
    const double count = static_cast<double>(moments.finite);
    const double mean = moments.sum / count;
    const double variance = std::max(0.0, moments.sum_of_squares / count - mean * mean);
    const auto guess = static_cast<float>(mean + std::sqrt(variance) * inverse_normal(wanted));
    if (guess == guess) keys = search.cuts_around(key_of(guess));
  }
  for (;;) {
    std::vector<float> thresholds;
    for (const std::uint32_t key : keys) thresholds.push_back(score_of(key));
    std::vector<CountsAt> counts(keys.size());
    engine.count(view, chunks, thresholds, counts);
    ++result.passes;
    context.pass_done();
    double least_error = options.tolerance > 0 ? options.tolerance : -1;
    bool found = false;
    for (std::size_t i = 0; i < keys.size(); ++i) {
      const std::int64_t reached = counts[i].below + counts[i].equal;
      const bool is_kth = counts[i].below < result.rank && result.rank <= reached;
      const double error = std::abs(static_cast<double>(reached) / static_cast<double>(numbers) - wanted);
      search.narrow(keys[i], reached, result.rank);
      if (!is_kth && error > least_error) continue;
      found = true;
      least_error = is_kth ? -1 : error;
      result.value = thresholds[i] == 0.0f ? 0.0f : thresholds[i];  // the two zeros are one value: +0
      result.below = counts[i].below;
      result.equal = counts[i].equal;
    }
    if (found) return result;
    if (options.tolerance == 0 && search.few_left()) {
      const Exact last{.guess = search.left()};
      const Selection exact = select_kth(last, engine, view, chunks, result.rank, context, workspace);
      result.value = exact.value;
      result.below = exact.below;
      result.equal = exact.equal;
      result.passes += exact.passes;
      result.extra_bytes = exact.extra_bytes;
      return result;
    }
    keys = search.cuts(result.rank);
  }
}

}  // namespace bittersweet
