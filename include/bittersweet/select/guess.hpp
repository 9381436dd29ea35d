// The guess of the exact selector: from a sample of whole cache lines, a bracket that holds the wanted rank unless
// five standard deviations are not enough. Arithmetic on a small sample; nothing here decides an answer.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "bittersweet/engine/engine.hpp"
#include "bittersweet/select/threshold.hpp"

namespace bittersweet {

// How many lines to sample for n elements: the inside of the bracket shrinks as fast as the sample's cost grows.
inline std::int64_t lines_for(std::int64_t n) {
  const double lines = 16384.0 * std::sqrt(static_cast<double>(n) / 1e8);
  return std::clamp<std::int64_t>(static_cast<std::int64_t>(lines), 1024, 65536);
}

namespace detail {

// The wanted-th smallest (1-based) of unordered values; they are reordered.
inline float nth(std::span<float> values, double wanted) {
  const auto at = static_cast<std::ptrdiff_t>(std::clamp(wanted, 1.0, static_cast<double>(values.size()))) - 1;
  std::nth_element(values.begin(), values.begin() + at, values.end());
  return values[static_cast<std::size_t>(at)];
}

// What one look at the whole sample tells, given a rough idea of where the wanted score lies.
struct SampleCounts {
  double drawn = 0;         // numbers in the sample
  double below = 0;         // under the rough range
  double zeros = 0;         // within it, and kept apart: half of a pruned model is zero
  double deviation = 0;     // of the number at or under the rough middle
  std::span<float> inside;  // the other numbers within the rough range
};

// The deviation comes from the differences of neighbouring lines: scores of one line share their row's scale, so they
// are not independent, but what separates tensors must not count.
inline SampleCounts count_sample(std::span<float> sample, float from, float to, float middle, double share) {
  SampleCounts counts;
  float* inside = sample.data();  // those within the range move to the front, behind what has been read
  double sum = 0, previous = 0;
  for (std::size_t line = 0; line + LineSample::width <= sample.size(); line += LineSample::width) {
    int under = 0, drawn = 0, below = 0, above = 0, zeros = 0;
    for (std::size_t c = 0; c < LineSample::width; ++c) {
      const float s = sample[line + c];
      under += s <= middle;
      drawn += s == s;
      below += s < from;
      above += s > to;
      zeros += s == 0.0f;
    }
    if (!(from <= 0.0f && 0.0f <= to)) zeros = 0;
    if (below + above + zeros < drawn)
      for (std::size_t c = 0; c < LineSample::width; ++c) {
        const float s = sample[line + c];
        *inside = s;
        inside += (s >= from) & (s <= to) & (s != 0.0f);
      }
    const double excess = under - share * drawn;
    if (line > 0) sum += (excess - previous) * (excess - previous);
    previous = excess;
    counts.drawn += drawn;
    counts.below += below;
    counts.zeros += zeros;
  }
  counts.inside = {sample.data(), inside};
  counts.deviation = std::sqrt(sum / 2);
  return counts;
}

}  // namespace detail

// A bracket for the `rank`-th of `live` scores. `sample` holds LineSample::width scores a line, NaN where there is
// none. For non-negative scores an end at zero becomes the smallest positive number: all that lies below it is zero.
// The sample is used up; `scratch` has room for one number a line.
inline Bracket guess_bracket(std::span<float> sample, std::int64_t rank, std::int64_t live, bool non_negative,
                             float* scratch) {
  constexpr double sigmas = 5;
  Bracket bracket{non_negative ? smallest_positive : minus_infinity, plus_infinity};
  float* end_of_first = scratch;  // one number of every line: a rough idea of the middle, and of a range around it
  for (std::size_t line = 0; line + LineSample::width <= sample.size(); line += LineSample::width)
    for (std::size_t c = 0; c < LineSample::width; ++c)
      if (sample[line + c] == sample[line + c]) {
        *end_of_first++ = sample[line + c];
        break;
      }
  const std::span<float> first(scratch, end_of_first);
  const auto lines = static_cast<double>(first.size());
  if (lines < 64) return bracket;
  const double share = static_cast<double>(rank) / static_cast<double>(live);
  const double rough = 6 * std::sqrt(lines * share * (1 - share)) + 8;
  const float middle = detail::nth(first, share * lines);
  const float from = share * lines - rough < 1 ? minus_infinity : detail::nth(first, share * lines - rough);
  const float to = share * lines + rough > lines ? plus_infinity : detail::nth(first, share * lines + rough);

  detail::SampleCounts counts = detail::count_sample(sample, from, to, middle, share);
  const double wanted = share * counts.drawn;
  const double deviation = std::max(counts.deviation, 0.7 * std::sqrt(counts.drawn * share * (1 - share)));
  const auto move = [&](float& end, double order) {  // to the order-th smallest of the sample
    order -= counts.below;
    const auto negative = static_cast<double>(
        non_negative ? 0 : std::count_if(counts.inside.begin(), counts.inside.end(), [](float s) { return s < 0; }));
    double copies = counts.zeros;
    if (order > negative && order <= negative + counts.zeros) {
      end = non_negative ? smallest_positive : 0.0f;
      if (non_negative) return;  // zeros are counted below it at no cost
    } else if (!counts.inside.empty()) {
      end = detail::nth(counts.inside, order > negative ? order - counts.zeros : order);
      copies = static_cast<double>(std::count(counts.inside.begin(), counts.inside.end(), end));
    }
    bracket.heavy_ends |= copies >= std::max(16.0, counts.drawn / 2048);
  };
  const double low = std::floor(wanted - sigmas * deviation) - 1, high = std::ceil(wanted + sigmas * deviation) + 1;
  if (low >= 1) move(bracket.low, low);
  if (high <= counts.drawn) move(bracket.high, high);
  if (!(bracket.low <= bracket.high)) bracket.high = bracket.low;
  return bracket;
}

}  // namespace bittersweet
