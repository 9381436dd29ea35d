// sampling: the threshold of a uniform sample. Element j of the sample lies at a hashed place in the j-th of S equal
// stretches of the sequence (Philox), so every element is as likely as any other and the set depends on the seed
// alone. The standard error of the achieved sparsity is at most sqrt(s (1 - s) / S).
#pragma once

#include <algorithm>
#include <cmath>

#include "bittersweet/engine/engine.hpp"
#include "bittersweet/philox.hpp"
#include "bittersweet/select/exact.hpp"
#include "bittersweet/select/threshold.hpp"

namespace bittersweet {

struct Sampling {
  static constexpr std::string_view name = "sampling";
  static constexpr bool approximate = true;
  static constexpr std::int64_t smallest = 10000;  // sequences up to this are selected exactly
  double fraction = 0.02;
  bool verify = false;  // count with the final threshold: one more read, true counts
};

// The sampled positions, ascending.
inline std::vector<std::int64_t> sample_positions(std::int64_t first, std::int64_t n, std::int64_t samples,
                                                  std::uint64_t seed) {
  std::vector<std::int64_t> positions(static_cast<std::size_t>(samples));
  for (std::int64_t j = 0; j < samples; ++j) {
    const std::int64_t begin = stretch(j, n, samples), end = stretch(j + 1, n, samples);
    const auto random = philox(static_cast<std::uint64_t>(j), seed, Purpose::sampling);
    const std::uint64_t r = (std::uint64_t{random[1]} << 32) | random[0];
    positions[static_cast<std::size_t>(j)] =
        first + begin + static_cast<std::int64_t>(r % static_cast<std::uint64_t>(end - begin));
  }
  return positions;
}

template <Engine E>
Selection select_kth(const Sampling& options, E& engine, const ScoreView& view, std::span<const Chunk> chunks,
                     std::int64_t rank, const SelectContext& context, Workspace& workspace) {
  const std::int64_t n = view.size();
  if (n <= Sampling::smallest || rank <= 0) return select_kth(Exact{}, engine, view, chunks, rank, context, workspace);
  const std::int64_t samples = std::min(
      n, std::max(Sampling::smallest, static_cast<std::int64_t>(options.fraction * static_cast<double>(n) + 0.5)));
  const auto positions = sample_positions(view.offset[0], n, samples, context.seed);
  float* const scores = workspace.get<float>(Workspace::sample, static_cast<std::size_t>(samples));
  engine.gather(view, positions, scores);
  context.pass_done();

  // Dead elements come back as NaN too: only a live NaN counts as one.
  Selection result{.below = -1, .equal = -1};
  std::int64_t drawn = 0;
  std::size_t t = 0;
  for (std::int64_t j = 0; j < samples; ++j) {
    const float s = scores[j];
    if (!std::isnan(s)) {
      scores[drawn++] = s;
      continue;
    }
    const std::int64_t position = positions[static_cast<std::size_t>(j)];
    while (position >= view.offset[t + 1]) ++t;
    result.nan += is_live(view.tensors[t], view.tensors[t].order.memory_of(position - view.offset[t]));
  }
  if (drawn == 0) return select_kth(Exact{}, engine, view, chunks, rank, context, workspace);
  const double fraction = static_cast<double>(rank) / static_cast<double>(context.live);
  const std::int64_t sample_rank = std::clamp<std::int64_t>(
      static_cast<std::int64_t>(std::floor(fraction * static_cast<double>(drawn) + 0.5)), 1, drawn);
  std::nth_element(scores, scores + (sample_rank - 1), scores + drawn);
  result.value = scores[sample_rank - 1] == 0.0f ? 0.0f : scores[sample_rank - 1];
  result.rank = rank;
  result.passes = static_cast<double>(samples) / static_cast<double>(n);
  result.standard_error = std::sqrt(fraction * (1.0 - fraction) / static_cast<double>(drawn)) *
                          static_cast<double>(context.live) / static_cast<double>(n);
  result.extra_bytes = samples * std::int64_t{sizeof(float) + sizeof(std::int64_t)};
  if (options.verify) {
    CountsAt counts;
    engine.count(view, chunks, std::span<const float>(&result.value, 1), std::span(&counts, 1));
    result.below = counts.below;
    result.equal = counts.equal;
    result.passes += 1;
  }
  return result;
}

}  // namespace bittersweet
