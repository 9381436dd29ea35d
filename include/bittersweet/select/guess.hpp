// The guess of the exact selector: from a sample of whole cache lines, a bracket that holds the wanted rank unless
// four standard deviations are not enough (once in some 16,000 calls, which then take radix passes; a fifth would cost
// every call a quarter more candidates). Arithmetic on a small sample; nothing here decides an answer.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "bittersweet/engine/engine.hpp"
#include "bittersweet/select/nth.hpp"
#include "bittersweet/select/threshold.hpp"

namespace bittersweet {

// How many lines to sample for n elements: the inside of the bracket shrinks as fast as the sample's cost grows.
inline std::int64_t lines_for(std::int64_t n) {
  const double lines = 16384.0 * std::sqrt(static_cast<double>(n) / 1e8);
  return std::clamp<std::int64_t>(static_cast<std::int64_t>(lines), 1024, 65536);
}

namespace detail {

// The wanted-th smallest (1-based) of unordered values. They are reordered, and shortened to the smallest `wanted`:
// asking for large orders first leaves less to look through for the small ones.
inline float nth(std::span<float>& values, double wanted) {
  const auto at = static_cast<std::size_t>(std::clamp(wanted, 1.0, static_cast<double>(values.size()))) - 1;
  put_nth(values, at);
  values = values.first(at + 1);
  return values.back();
}

// How far neighbouring lines of a sample part in the number of scores up to `middle`, of which there is `share`: the
// sum of the squares over some of the pairs. A quarter of the pairs of a large sample tell it to two percent.
struct LineSpread {
  double squares = 0;
  std::int64_t pairs = 0;
};

inline LineSpread line_spread(std::span<const float> sample, float middle, double share) {
  const std::size_t lines = sample.size() / LineSample::width, step = lines < 4096 ? 2 : 8;
  const auto excess = [&](std::size_t line) {
    int under = 0, drawn = 0;
    for (std::size_t c = line * LineSample::width; c < (line + 1) * LineSample::width; ++c) {
      under += sample[c] <= middle;
      drawn += sample[c] == sample[c];
    }
    return under - share * drawn;
  };
  LineSpread spread;
  for (std::size_t line = 0; line + 1 < lines; line += step, ++spread.pairs) {
    const double difference = excess(line) - excess(line + 1);
    spread.squares += difference * difference;
  }
  return spread;
}

// Standard deviation of the number of sampled scores up to `middle`, from the differences of neighbouring lines: scores
// of one line share their row's scale, so they are not independent, but what separates tensors must not count.
inline double rank_deviation(std::span<const float> sample, float middle, double share) {
  const auto lines = static_cast<double>(sample.size() / LineSample::width);
  const LineSpread spread = line_spread(sample, middle, share);
  return std::sqrt(spread.squares / 2 * lines / static_cast<double>(std::max<std::int64_t>(spread.pairs, 1)));
}

}  // namespace detail

// A bracket for the `rank`-th of `live` scores. `sample` holds LineSample::width scores a line, NaN where there is
// none; `scratch` has room for as many. For non-negative scores an end at zero becomes the smallest positive number:
// all that lies below it is zero.
template <Engine E>
Bracket guess_bracket(E& engine, std::span<const float> sample, std::int64_t rank, std::int64_t live, bool non_negative,
                      float* scratch, Workspace& workspace) {
  constexpr double sigmas = 4;
  const float least = non_negative ? 0.0f : minus_infinity;
  Bracket bracket{non_negative ? smallest_positive : minus_infinity, plus_infinity};
  const double share = static_cast<double>(rank) / static_cast<double>(live);

  // One place of every line, each as often as the others: a rough idea of the middle, and of a range around it.
  float* end = scratch;
  for (std::size_t line = 0; line < sample.size() / LineSample::width; ++line)
    if (const float s = sample[line * LineSample::width + line % LineSample::width]; s == s) *end++ = s;
  std::span<float> places(scratch, end);
  const auto count = static_cast<double>(places.size());
  const double rough = 5 * std::sqrt(count * share * (1 - share)) + 8;
  const bool few = count < 64;
  float from = least, middle = plus_infinity, to = plus_infinity;
  if (!few) {
    if (share * count + rough <= count) to = detail::nth(places, share * count + rough);
    middle = detail::nth(places, share * count);
    if (share * count - rough >= 1) from = detail::nth(places, share * count - rough);
  }

  // The sample against that range, by the same verb that will read the model.
  const auto size = static_cast<std::int64_t>(sample.size());
  const ScoreInputs tensor{.scores = view(sample.data()), .numel = size, .geometry = flat(size)};
  const std::span<const ScoreInputs> one(&tensor, 1);
  BracketResult found;
  const auto look = [&] {
    found = engine.bracket(make_view(one, Identity{}), make_chunks(one), {from, to, true}, {}, size, workspace);
    float* last = scratch;
    for (const auto& piece : found.collected) last = std::copy(piece.begin(), piece.end(), last);
    return std::span<float>(scratch, last);
  };
  std::span<float> inside = look();
  const auto drawn = static_cast<double>(found.total.total() - found.total.nan);
  if (drawn < 64) return bracket;
  const double wanted = share * drawn;
  if (few) {
    std::span<float> lower = inside;
    const double order = wanted - static_cast<double>(found.total.below + found.total.equal_low);
    middle = order < 1 || lower.empty() ? from : detail::nth(lower, order);
  }
  const double deviation =
      std::max(detail::rank_deviation(sample, middle, share), 0.7 * std::sqrt(drawn * share * (1 - share)));
  const double reach = sigmas * deviation + static_cast<double>(LineSample::width);  // a sorted model deviates by lines
  const double low = std::floor(wanted - reach), high = std::ceil(wanted + reach);
  if ((low >= 1 && low <= static_cast<double>(found.total.below)) ||
      (high <= drawn && high > drawn - static_cast<double>(found.total.above))) {
    from = least;  // the range was too rough
    to = plus_infinity;
    inside = look();
  }

  std::span<float> lower = inside;
  const auto move = [&](float& to_move, double order) {  // to the order-th smallest of the sample
    order -= static_cast<double>(found.total.below);
    auto copies = static_cast<double>(found.total.equal_low);
    float value = from;
    if (order > copies && order <= copies + static_cast<double>(inside.size())) {
      value = detail::nth(lower, order - copies);
      copies = static_cast<double>(std::count(inside.begin(), inside.end(), value));
    } else if (order > copies) {
      value = to;
      copies = static_cast<double>(found.total.equal_high);
    }
    if (non_negative && value == 0.0f) {
      to_move = smallest_positive;  // zeros are counted below it at no cost
      return;
    }
    to_move = value;
    bracket.heavy_ends |= is_heavy(copies, drawn);
  };
  if (high <= drawn) move(bracket.high, high);
  if (low >= 1) move(bracket.low, low);
  if (!(bracket.low <= bracket.high)) bracket.high = bracket.low;
  return bracket;
}

}  // namespace bittersweet
