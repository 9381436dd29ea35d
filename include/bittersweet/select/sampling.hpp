// sampling: the threshold of a uniform sample, with the standard error of the achieved sparsity. Every element is as
// likely in it as any other, and the set depends on the seed alone (Philox).
//
// By line: whole lines of 32 neighbours in memory, one at a hashed place in each of equal stretches of all lines. What
// is read is used, so that a sample costs its share of a read; neighbours share their row's scale, so that the error
// is told by how lines part from the ones beside them. By element, as published: element j at a hashed place in the
// j-th of S equal stretches of the sequence; the error is sqrt(s (1 - s) / S), and each element costs a cache line.
#pragma once

#include <algorithm>
#include <cmath>

#include "bittersweet/engine/engine.hpp"
#include "bittersweet/mask/bit_layout.hpp"
#include "bittersweet/philox.hpp"
#include "bittersweet/select/exact.hpp"
#include "bittersweet/select/threshold.hpp"

namespace bittersweet {

struct Sampling {
  static constexpr std::string_view name = "sampling";
  static constexpr bool approximate = true;
  static constexpr std::int64_t smallest = 10000;  // sequences up to this are selected exactly
  enum class By { line, element };
  double fraction = 0.02;
  bool verify = false;  // count with the final threshold: one more read, true counts
  By by = By::line;
};

BITTERSWEET_FORMULA std::int64_t sample_size(const Sampling& options, std::int64_t n) {
  const auto wanted = static_cast<std::int64_t>(options.fraction * static_cast<double>(n) + 0.5);
  const std::int64_t samples = wanted > Sampling::smallest ? wanted : Sampling::smallest;
  return samples < n ? samples : n;
}

// ---- by element ----

// The j-th sampled position of 0..n.
BITTERSWEET_FORMULA std::int64_t sample_position(std::int64_t j, std::int64_t n, std::int64_t samples,
                                                 std::uint64_t seed) {
  const std::int64_t begin = stretch(j, n, samples), end = stretch(j + 1, n, samples);
  const auto random = philox(static_cast<std::uint64_t>(j), seed, Purpose::sampling);
  const std::uint64_t r = (std::uint64_t{random[1]} << 32) | random[0];
  return begin + static_cast<std::int64_t>(r % static_cast<std::uint64_t>(end - begin));
}

// Of the share of the scores at or below the sample's threshold.
BITTERSWEET_FORMULA double element_error(double share, std::int64_t drawn) {
  return std::sqrt(share * (1.0 - share) / static_cast<double>(drawn));
}

// ---- by line ----

// The number of each tensor's first line, and of all lines.
inline std::vector<std::int64_t> line_numbers(std::span<const ScoreInputs> tensors) {
  std::vector<std::int64_t> first{0};
  for (const ScoreInputs& tensor : tensors)
    first.push_back(first.back() + (tensor.numel + LineSample::width - 1) / LineSample::width);
  return first;
}

// How many of the lines that n elements lie in make a sample of so many of them: the last of a tensor may be short.
BITTERSWEET_FORMULA std::int64_t sample_lines(std::int64_t samples, std::int64_t n, std::int64_t all_lines) {
  const double lines = static_cast<double>(samples) * static_cast<double>(all_lines) / static_cast<double>(n);
  const auto whole = static_cast<std::int64_t>(std::ceil(lines));
  return whole < all_lines ? whole : all_lines;
}

inline constexpr std::int64_t line_unit = 4096;  // of an excess

// A line's scores at or below the threshold, less what its number of scores lets expect, in 1 / line_unit.
BITTERSWEET_FORMULA std::int64_t line_excess(int under, int drawn, double share) {
  return under * line_unit - drawn * static_cast<std::int64_t>(share * static_cast<double>(line_unit) + 0.5);
}

// `spread`: the sum of the squared differences of successive lines' excess. What separates distant lines is not the
// sample's to miss, since every stretch has one; of `all_lines` those that were read do not err.
BITTERSWEET_FORMULA double line_error(std::uint64_t spread, std::int64_t lines, std::int64_t all_lines,
                                      std::int64_t drawn) {
  const double count = static_cast<double>(lines);
  const double variance = static_cast<double>(spread) / 2 * count / (lines > 1 ? count - 1 : 1.0);
  const double unread = 1.0 - count / static_cast<double>(all_lines);
  return std::sqrt(variance * unread) / (static_cast<double>(line_unit) * static_cast<double>(drawn));
}

// ---- both ----

// The rank within a sample of `drawn` scores.
BITTERSWEET_FORMULA std::int64_t sample_rank(double share, std::int64_t drawn) {
  const auto rank = static_cast<std::int64_t>(std::floor(share * static_cast<double>(drawn) + 0.5));
  return rank < 1 ? 1 : rank > drawn ? drawn : rank;
}

namespace detail {

struct Drawn {
  float* scores;         // NaN where an element is dead or not there
  std::int64_t places;   // scores, NaN included
  std::int64_t numbers;  // scores that are not NaN
  std::int64_t nan;      // live ones that are
};

template <Engine E>
Drawn draw_lines(E& engine, const ScoreView& view, const LineSample& plan, Workspace& workspace) {
  const std::int64_t size = plan.lines * LineSample::width;
  Drawn drawn{workspace.get<float>(Workspace::sample, static_cast<std::size_t>(size)), size, 0, 0};
  engine.sample(view, plan, drawn.scores);
  for (std::int64_t i = 0; i < size; ++i) drawn.numbers += drawn.scores[i] == drawn.scores[i];
  if (drawn.numbers == size) return drawn;
  for (std::int64_t line = 0; line < plan.lines; ++line) {
    const auto [t, index] = line_at(view, plan, line);
    const auto live = static_cast<std::uint32_t>(bits::live_from(view.tensors[t].mask, view.tensors[t].numel, index));
    drawn.nan += bits::count(live);  // a line is half a word
  }
  drawn.nan -= drawn.numbers;  // what lives and is no number
  return drawn;
}

template <Engine E>
Drawn draw_elements(E& engine, const ScoreView& view, std::int64_t samples, std::uint64_t seed, Workspace& workspace) {
  std::vector<std::int64_t> positions(static_cast<std::size_t>(samples));
  for (std::int64_t j = 0; j < samples; ++j)
    positions[static_cast<std::size_t>(j)] = view.offset[0] + sample_position(j, view.size(), samples, seed);
  Drawn drawn{workspace.get<float>(Workspace::sample, static_cast<std::size_t>(samples)), samples, 0, 0};
  engine.gather(view, positions, drawn.scores);
  std::size_t t = 0;
  for (std::int64_t j = 0; j < samples; ++j) {
    if (!std::isnan(drawn.scores[j])) {
      ++drawn.numbers;
      continue;
    }
    const std::int64_t position = positions[static_cast<std::size_t>(j)];
    while (position >= view.offset[t + 1]) ++t;
    drawn.nan += is_live(view.tensors[t], view.tensors[t].order.memory_of(position - view.offset[t]));
  }
  return drawn;
}

inline std::uint64_t line_spread_at(const Drawn& drawn, float value, double share) {
  std::uint64_t spread = 0;
  std::int64_t last = 0;
  for (const float* line = drawn.scores; line != drawn.scores + drawn.places; line += LineSample::width) {
    int under = 0, numbers = 0;
    for (std::int64_t c = 0; c < LineSample::width; ++c) under += line[c] <= value, numbers += line[c] == line[c];
    const std::int64_t excess = line_excess(under, numbers, share);
    if (line != drawn.scores) spread += static_cast<std::uint64_t>((excess - last) * (excess - last));
    last = excess;
  }
  return spread;
}

}  // namespace detail

template <Engine E>
Selection select_kth(const Sampling& options, E& engine, const ScoreView& view, std::span<const Chunk> chunks,
                     std::int64_t rank, const SelectContext& context, Workspace& workspace) {
  const std::int64_t n = view.size();
  if (n <= Sampling::smallest || rank <= 0) return select_kth(Exact{}, engine, view, chunks, rank, context, workspace);
  const bool by_line = options.by == Sampling::By::line;
  const std::int64_t samples = sample_size(options, n);
  const std::vector<std::int64_t> numbers = by_line ? line_numbers(view.tensors) : std::vector<std::int64_t>{0};
  const LineSample plan{sample_lines(samples, n, numbers.back()), context.seed, numbers};
  const detail::Drawn drawn = by_line ? detail::draw_lines(engine, view, plan, workspace)
                                      : detail::draw_elements(engine, view, samples, context.seed, workspace);
  context.pass_done();
  if (drawn.numbers == 0) return select_kth(Exact{}, engine, view, chunks, rank, context, workspace);

  const double share = static_cast<double>(rank) / static_cast<double>(context.live);
  const ScoreInputs tensor{
      .scores = bittersweet::view(drawn.scores), .numel = drawn.places, .geometry = flat(drawn.places)};
  const std::span<const ScoreInputs> one(&tensor, 1);
  const SelectContext within{.nonfinite = NonFinite::keep, .live = drawn.numbers};
  Selection result{.below = -1, .equal = -1, .nan = drawn.nan};
  result.value = select_kth(Exact{}, engine, make_view(one, Identity{}), make_chunks(one),
                            sample_rank(share, drawn.numbers), within, workspace.nested())
                     .value;
  result.rank = rank;
  result.passes = static_cast<double>(drawn.places) / static_cast<double>(n);
  result.standard_error = (by_line ? line_error(detail::line_spread_at(drawn, result.value, share), plan.lines,
                                                numbers.back(), drawn.numbers)
                                   : element_error(share, drawn.numbers)) *
                          static_cast<double>(context.live) / static_cast<double>(n);
  result.extra_bytes =
      drawn.places * std::int64_t{sizeof(float)} + (by_line ? 0 : samples * std::int64_t{sizeof(std::int64_t)});
  if (options.verify) {
    const BracketCounts counts =
        engine.bracket(view, chunks, {result.value, result.value, true}, {}, 0, workspace).total;
    result.below = counts.below;
    result.equal = counts.equal_low;
    result.nan = counts.nan;
    result.passes += 1;
  }
  return result;
}

}  // namespace bittersweet
