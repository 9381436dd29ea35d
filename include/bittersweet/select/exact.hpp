// exact: guess, count, prove. A sampled bracket around the wanted rank; one read of the inputs that counts the scores
// below, inside and above it and collects the inside; the counts then prove where the k-th score lies. If the
// bracket missed, radix passes find it. The sample decides only whether one read sufficed, never the answer.
#pragma once

#include <algorithm>
#include <optional>

#include "bittersweet/engine/engine.hpp"
#include "bittersweet/radix_key.hpp"
#include "bittersweet/select/guess.hpp"
#include "bittersweet/select/histogram.hpp"
#include "bittersweet/select/nth.hpp"
#include "bittersweet/select/threshold.hpp"

namespace bittersweet {

struct Exact {
  static constexpr std::string_view name = "exact";
  static constexpr bool approximate = false;
  std::optional<Bracket> guess = {};          // instead of the sampled one; any bracket gives the same answer
  std::optional<std::int64_t> capacity = {};  // candidates a thread may store; more is handled, more slowly
};

// Where the rank-th score lies, by the counts. For non-negative scores, all that is below the smallest positive
// number is zero.
BITTERSWEET_FORMULA Place locate(const Bracket& bracket, const BracketCounts& counts, std::int64_t rank,
                                 bool non_negative) {
  if (rank <= 0) return Place::nothing;
  if (rank <= counts.below)
    return non_negative && bracket.low == smallest_positive ? Place::zeros_below : Place::missed_low;
  rank -= counts.below;
  if (rank <= counts.equal_low) return Place::at_low;
  rank -= counts.equal_low;
  if (rank <= counts.inside) return Place::inside;
  rank -= counts.inside;
  return rank <= counts.equal_high ? Place::at_high : Place::missed_high;
}

// The rank-th smallest of the collected scores, and how many are below and equal to it: directly when they are few,
// else by the same guess, count and prove over them.
template <Engine E>
Selection select_collected(E& engine, std::span<const std::span<const float>> collected, std::int64_t rank,
                           Workspace& workspace);

struct ExactRun {
  Selection selection{};
  Bracket bracket{};
  BracketResult counts{};   // of the bracket; its candidates live in the workspace
  bool masks_hold = false;  // were the masks written by this bracket, and do counts describe them?
};

// The selection, with masks written on the way when `masks` is not empty: then, if masks_hold, they are decided
// outside the bracket and mask/commit.hpp completes them.
template <Engine E>
ExactRun run_exact(const Exact& options, E& engine, const ScoreView& view, std::span<const Chunk> chunks,
                   std::int64_t rank, const SelectContext& context, Workspace& workspace, MaskTable masks) {
  ExactRun run{.bracket = {minus_infinity, plus_infinity}};
  const bool non_negative = info_of(view.scorer).non_negative &&
                            std::ranges::all_of(view.tensors, [](const auto& t) { return t.modifier >= 0.0f; });
  const std::int64_t n = view.size();
  std::int64_t capacity = options.capacity.value_or(std::max(Chunk::size, n / 32));
  Selection& selection = run.selection;
  if (options.guess) {
    if (options.guess->low <= options.guess->high) run.bracket = *options.guess;
  } else if (n > Chunk::size / 2) {
    const LineSample plan{lines_for(n), context.seed};
    const auto size = static_cast<std::size_t>(plan.lines * LineSample::width);
    float* const sample = workspace.get<float>(Workspace::sample, 2 * size);
    engine.sample(view, plan, sample);
    run.bracket =
        guess_bracket(engine, std::span<const float>(sample, size), std::max<std::int64_t>(rank, 1),
                      std::max<std::int64_t>(context.live, 1), non_negative, sample + size, workspace.nested());
    selection.extra_bytes += static_cast<std::int64_t>((size + size / LineSample::width) * sizeof(float));
  }

  run.counts = engine.bracket(view, chunks, run.bracket, masks, capacity, workspace);
  run.masks_hold = !masks.empty();
  context.pass_done();
  const BracketCounts& counts = run.counts.total;
  selection.passes = 1;
  selection.extra_bytes += run.counts.bytes;
  selection.nan = counts.nan;
  selection.overflow = run.counts.overflow;
  if (counts.nan > 0 && context.nonfinite == NonFinite::error) return run;  // the caller raises
  selection.rank = std::min(rank, counts.total() - counts.nan);
  selection.place = locate(run.bracket, counts, selection.rank, non_negative);

  switch (selection.place) {
    case Place::nothing: return run;
    case Place::zeros_below:
      selection.value = 0.0f;
      selection.equal = counts.below;
      return run;
    case Place::at_low:
      selection.value = run.bracket.low;
      selection.below = counts.below;
      selection.equal = counts.equal_low;
      break;
    case Place::at_high:
      if (run.counts.overflow) break;
      selection.value = run.bracket.high;
      selection.below = counts.below + counts.equal_low + counts.inside;
      selection.equal = counts.equal_high;
      break;
    case Place::inside: {
      if (run.counts.overflow) break;
      const std::int64_t under = counts.below + counts.equal_low;
      const Selection found =
          select_collected(engine, run.counts.collected, selection.rank - under, workspace.nested());
      selection.value = found.value;
      selection.below = under + found.below;
      selection.equal = found.equal;
      break;
    }
    case Place::missed_low:
    case Place::missed_high: break;
  }
  if (selection.equal > 0) {
    if (selection.value == 0.0f) selection.value = 0.0f;  // the two zeros are one value: +0
    return run;
  }
  const Selection radix = select_kth(Histogram{}, engine, view, chunks, selection.rank, context, workspace);
  selection.value = radix.value;
  selection.below = radix.below;
  selection.equal = radix.equal;
  selection.passes += radix.passes;
  selection.extra_bytes += radix.extra_bytes;
  run.masks_hold = false;
  return run;
}

template <Engine E>
Selection select_kth(const Exact& options, E& engine, const ScoreView& view, std::span<const Chunk> chunks,
                     std::int64_t rank, const SelectContext& context, Workspace& workspace) {
  return run_exact(options, engine, view, chunks, rank, context, workspace, {}).selection;
}

template <Engine E>
Selection select_collected(E& engine, std::span<const std::span<const float>> collected, std::int64_t rank,
                           Workspace& workspace) {
  std::vector<ScoreInputs> tensors;
  std::int64_t count = 0;
  for (const std::span<const float>& piece : collected) {
    const auto size = static_cast<std::int64_t>(piece.size());
    tensors.push_back({.scores = view(piece.data()), .numel = size, .geometry = flat(size)});
    count += size;
  }
  if (count > Chunk::size / 2) {
    const ScoreView scores = make_view(tensors, Identity{});
    const SelectContext context{.nonfinite = NonFinite::keep, .live = count};
    return run_exact(Exact{}, engine, scores, make_chunks(tensors), rank, context, workspace, {}).selection;
  }
  std::vector<float> few;
  for (const std::span<const float>& piece : collected) few.insert(few.end(), piece.begin(), piece.end());
  put_nth(few, static_cast<std::size_t>(rank - 1));
  const float value = few[static_cast<std::size_t>(rank - 1)];
  return {.value = value,
          .below = std::count_if(few.begin(), few.end(), [&](float s) { return s < value; }),
          .equal = std::count(few.begin(), few.end(), value)};
}

}  // namespace bittersweet
