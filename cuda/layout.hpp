// Where in the caller's memory everything lies.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "bittersweet/error.hpp"
#include "bittersweet/flow.hpp"
#include "search.cuh"
#include "units_plan.hpp"

namespace bittersweet::cuda {

inline u64 tiles_in(std::span<const ScoreInputs> tensors) {
  u64 tiles = 0;
  for (const ScoreInputs& tensor : tensors) tiles += static_cast<u64>((tensor.numel + tile_size - 1) / tile_size);
  return tiles;
}

// Where things lie in the workspace.
struct Layout {
  std::size_t state, rows, pieces, parts, sample, candidates, tile_ties, tie_groups, bytes;
  std::size_t units, results, dead, shares, pruned, bounds, cut, bins;  // where tensors have selections of their own
  std::size_t round, round_rows;                                        // of caps that are met in rounds (capped.cuh)
  std::size_t search, block_sums, scores;                               // of the selectors beside exact
  std::size_t alone;  // the workspace of one tensor's step after another
  u64 capacity;
  u32 lines;
};

inline constexpr std::size_t alignment = 256;

inline std::int64_t elements_of(std::span<const ScoreInputs> tensors) {
  std::int64_t total = 0;
  for (const ScoreInputs& tensor : tensors) total += std::max<std::int64_t>(tensor.numel, 0);
  return total;
}

inline u64 blocks_of(std::int64_t numel) { return static_cast<u64>((numel + Moments::block - 1) / Moments::block); }

inline u64 blocks_in(std::span<const ScoreInputs> tensors) {
  u64 blocks = 0;
  for (const ScoreInputs& tensor : tensors) blocks += blocks_of(tensor.numel);
  return blocks;
}

// The keys that a sample keeps.
inline std::int64_t sampled_places(const Sampling& sampling, std::span<const ScoreInputs> tensors) {
  const std::int64_t n = elements_of(tensors), samples = sample_size(sampling, n);
  if (sampling.by == Sampling::By::element) return samples;
  return bittersweet::sample_lines(samples, n, line_numbers(tensors).back()) * LineSample::width;
}

// ... where only some of the tensors are left in a selection, whichever they are: at most those of all, or as many
// lines as the fewest elements that are sampled can lie in.
inline std::int64_t most_sampled_places(const Sampling& sampling, std::span<const ScoreInputs> tensors) {
  const std::int64_t all = sampled_places(sampling, tensors);
  if (sampling.by == Sampling::By::element) return all;
  const auto lines_of = [](std::int64_t numel) { return (numel + LineSample::width - 1) / LineSample::width; };
  std::vector<std::int64_t> sizes;
  for (const ScoreInputs& tensor : tensors)
    if (tensor.numel > 0) sizes.push_back(tensor.numel);
  std::sort(sizes.begin(), sizes.end(), [&](std::int64_t a, std::int64_t b) {  // short lines first
    return static_cast<double>(lines_of(a)) / static_cast<double>(a) >
           static_cast<double>(lines_of(b)) / static_cast<double>(b);
  });
  std::int64_t left = Sampling::smallest + 1, lines = 2;  // for what is rounded
  for (std::size_t t = 0; t < sizes.size() && left > 0; ++t) {
    const std::int64_t part = std::min(sizes[t], left);
    lines += (part * lines_of(sizes[t]) + sizes[t] - 1) / sizes[t];
    left -= part;
  }
  return std::max(all, lines * LineSample::width);
}

// Short sequences are not sampled; groups are ranked, and use no selector.
inline Selector selector_for(const StepOptions& options, std::int64_t total) {
  const bool few = std::holds_alternative<Sampling>(options.selector) && total <= Sampling::smallest;
  return few || options.scope.in_groups() ? Selector(Exact{}) : options.selector;
}

// How a step decides: by one selection over all tensors, by one for each of them, or by both.
struct Ways {
  bool units = false;    // scope tensor by exact: selections side by side
  bool alone = false;    // ... by another selector: a step of each tensor, one after another
  bool bounded = false;  // where a tensor is beyond its bounds, selections side by side follow the one over all
  bool rounds = false;   // ... and as many more over those that are left as there are tensors
  bool by_unit() const { return units || bounded; }
  bool together() const { return !units && !alone; }
};

// A threshold alone is one over all tensors, whatever the scope.
inline Ways ways_of(std::span<const ScoreInputs> tensors, const StepOptions& options, bool masks) {
  Ways ways;
  if (!masks) return ways;
  const bool exact = std::holds_alternative<Exact>(selector_for(options, elements_of(tensors)));
  ways.units = options.scope.kind == Scope::tensor && exact;
  ways.alone = options.scope.kind == Scope::tensor && !exact;
  ways.bounded = is_bounded(options);
  ways.rounds = ways.bounded && flow::ties_of(prune_options(options)) != Ties::exact;
  return ways;
}

// The step of one tensor under scope tensor. NaN are counted: all tensors together say whether they void the step.
inline StepOptions alone_options(StepOptions options) {
  options.scope = {};
  options.distribution.reset();
  options.nonfinite = NonFinite::keep;
  options.zero = 0;
  options.tensor_threshold = nullptr;
  return options;
}

inline std::size_t step_bytes(std::span<const ScoreInputs> tensors, const StepOptions& options, bool masks,
                              std::size_t room = 0);

// `batches`: of units, or none.
inline Layout make_layout(std::span<const ScoreInputs> tensors, bool masks, const StepOptions& options = {},
                          std::span<const UnitBatch> batches = {}) {
  const std::int64_t total = elements_of(tensors);
  const Selector selector = selector_for(options, total);
  const Ways ways = ways_of(tensors, options, masks);
  const bool exact = std::holds_alternative<Exact>(selector), bounded = ways.bounded, together = ways.together();
  const bool streaming = together && std::holds_alternative<Streaming>(selector);
  const u64 tiles = tiles_in(tensors);
  const std::size_t count = tensors.size();
  std::size_t units = 0, unit_keys = 0, unit_candidates = 0;
  for (const UnitBatch& batch : batches) {
    units = std::max(units, batch.units.size());
    unit_keys = std::max<std::size_t>(unit_keys, batch.sample);
    unit_candidates = std::max<std::size_t>(unit_candidates, batch.candidates);
  }
  Layout layout{};
  // Room for 0.75 % of the elements: 1.5 % of an array of scores. Small models have room for all of them.
  if (exact) {
    layout.capacity = static_cast<u64>(std::max(std::min<std::int64_t>(total, std::int64_t{1} << 20), total / 400 * 3));
    layout.lines = static_cast<u32>(device::sample_lines(total));
  }
  std::size_t at = 0;
  const auto place = [&](std::size_t bytes) {
    const std::size_t here = at;
    at += (bytes + alignment - 1) / alignment * alignment;
    return here;
  };
  layout.state = place(std::max<std::size_t>(units, 1) * sizeof(device::State));
  layout.rows = place(count * sizeof(Row));
  layout.pieces = place(((ways.bounded ? 5 : 3) + (streaming ? 1 : 0)) * count * sizeof(Piece));
  layout.parts = place(count * sizeof(u32));
  const auto* const sampling = together ? std::get_if<Sampling>(&selector) : nullptr;
  const std::size_t keys = sampling   ? static_cast<std::size_t>(ways.rounds ? most_sampled_places(*sampling, tensors)
                                                                             : sampled_places(*sampling, tensors))
                           : together ? std::size_t{layout.lines} * device::sample_width
                                      : 0;
  layout.sample = place(std::max(keys, unit_keys) * sizeof(u32));
  layout.candidates = place(std::max<std::size_t>(together ? layout.capacity : 0, unit_candidates) * sizeof(u64));
  const std::size_t bins = bounded && !ways.rounds ? (count << bound_bits(count)) * sizeof(u64) : 0;
  layout.bins = layout.sample;  // counted when there are neither keys nor candidates
  at = std::max(at, layout.bins + (bins + alignment - 1) / alignment * alignment);
  const bool ties = masks && !ways.alone;
  layout.tile_ties = place(ties ? tiles * sizeof(u32) : 0);
  layout.tie_groups = place(ties ? (tiles / group_tiles + 1 + units) * sizeof(u64) : 0);
  if (ways.by_unit() || ways.alone) {
    layout.units = place(units * sizeof(Unit) + (units + most_shared_blocks) * sizeof(u32));
    layout.results = place(count * sizeof(StepReport));
    layout.dead = place(count * sizeof(std::int64_t));
    layout.shares = place(count * sizeof(std::int64_t));
    layout.pruned = place(count * sizeof(std::int64_t));
    layout.bounds = place(bounded ? count * sizeof(BoundRow) : 0);
    layout.cut = place(bounded ? sizeof(BoundCut) : 0);
  }
  layout.round = place(ways.rounds ? sizeof(Round) : 0);
  layout.round_rows = place(ways.rounds ? count * sizeof(Row) : 0);
  layout.search = place(together && (!exact || ways.rounds) ? sizeof(Search) : 0);
  layout.block_sums = place(streaming ? blocks_in(tensors) * sizeof(BlockSums) : 0);
  layout.alone = layout.scores = at;
  if (ways.alone) {
    std::size_t most = 0;
    for (std::size_t t = 0; t < count; ++t)
      most = std::max(most, step_bytes(tensors.subspan(t, 1), alone_options(options), true));
    place(most);
  } else if (std::holds_alternative<KthValue>(selector)) {
    for (const ScoreInputs& tensor : tensors) place(static_cast<std::size_t>(tensor.numel) * sizeof(float));
  }
  layout.bytes = at + alignment;  // the caller's address need not be a multiple
  return layout;
}

// The sets in which selections are made side by side, or none.
inline std::vector<UnitBatch> batches_of(std::span<const ScoreInputs> tensors, const StepOptions& options, bool masks,
                                         std::size_t room = 0) {
  if (!ways_of(tensors, options, masks).by_unit()) return {};
  return unit_batches(tensors, room > 0 ? room : unit_room(elements_of(tensors)));
}

// What a step needs.
inline std::size_t step_bytes(std::span<const ScoreInputs> tensors, const StepOptions& options, bool masks,
                              std::size_t room) {
  return make_layout(tensors, masks, options, batches_of(tensors, options, masks, room)).bytes;
}

inline std::byte* base_of(void* workspace) {
  const auto address = reinterpret_cast<std::uintptr_t>(workspace);
  return reinterpret_cast<std::byte*>((address + alignment - 1) / alignment * alignment);
}

// What every kernel is told of a workspace.
inline Context make_context(const Layout& layout, std::byte* base) {
  Context c{};
  c.state = reinterpret_cast<device::State*>(base + layout.state);
  c.sample = reinterpret_cast<u32*>(base + layout.sample);
  c.candidates = reinterpret_cast<u64*>(base + layout.candidates);
  c.tile_ties = reinterpret_cast<u32*>(base + layout.tile_ties);
  c.tie_groups = reinterpret_cast<u64*>(base + layout.tie_groups);
  c.rows = reinterpret_cast<const Row*>(base + layout.rows);
  c.capacity = layout.capacity;
  c.lines = layout.lines;
  return c;
}

inline void check_workspace(const Layout& layout, const void* workspace, std::size_t bytes) {
  if (workspace == nullptr || bytes < layout.bytes)
    throw ArgumentError("workspace_bytes: " + std::to_string(bytes) + "; this call needs " +
                        std::to_string(layout.bytes) + " (step_workspace_bytes)");
}

}  // namespace bittersweet::cuda
