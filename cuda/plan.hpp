// Host side of a step: checks, the table of tensors, and how their tiles are shared out to kernels.
#pragma once

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "arrays.cuh"
#include "bittersweet/error.hpp"
#include "bittersweet/flow.hpp"
#include "layout.hpp"

namespace bittersweet::cuda {

inline void check_addresses(std::span<const ScoreInputs> tensors) {
  for (const ScoreInputs& tensor : tensors)
    for (const TensorView* array : {&tensor.weight, &tensor.exp_avg, &tensor.exp_avg_sq, &tensor.grad,
                                    &tensor.input_norm, &tensor.scores, &tensor.max_exp_avg_sq})
      if (array->dtype != DType::none && reinterpret_cast<std::uintptr_t>(array->data) % size_of(array->dtype) != 0)
        throw LayoutError("tensor '" + std::string(tensor.name) + "': its address is not a multiple of the size of " +
                          name_of(array->dtype) + "; copy it to aligned memory");
}

inline void check_masks(std::span<const ScoreInputs> tensors, std::size_t masks, const char* argument) {
  if (masks != tensors.size())
    throw ShapeError(std::string(argument) + ": " + std::to_string(masks) + " for " + std::to_string(tensors.size()) +
                     " tensors; one is needed for each");
}

inline void check_new_masks(std::span<const ScoreInputs> tensors, MaskTable new_masks, const StepOptions& options) {
  const bool masks = !new_masks.empty();
  if (masks) check_masks(tensors, new_masks.size(), "new_masks");
  if (!masks && options.zero != 0) throw ArgumentError("zero: arrays to zero, but no new masks to zero them by");
  for (std::size_t t = 0; masks && t < tensors.size(); ++t)
    if (tensors[t].numel > 0 && (new_masks[t] == nullptr || new_masks[t] == tensors[t].mask))
      throw ArgumentError("new_masks: " + std::string(new_masks[t] ? "the current mask itself" : "null pointer") +
                          " for tensor '" + std::string(tensors[t].name) + "'; words of their own are needed");
}

// The row of tensor t of a view, for `scorer`.
inline Row make_row(const ScoreView& view, std::size_t t, u64 tile) {
  const ScoreInputs& tensor = view.tensors[t];
  Row row{};
  int slot = 0;
  const auto reads_of = info_of(view.scorer).reads;
  const std::pair<std::uint32_t, const TensorView*> inputs[] = {
      {reads::weight, &tensor.weight}, {reads::exp_avg, &tensor.exp_avg}, {reads::exp_avg_sq, &tensor.exp_avg_sq},
      {reads::grad, &tensor.grad},     {reads::scores, &tensor.scores},   {reads::input_norm, &tensor.input_norm}};
  for (const auto& [role, input] : inputs)
    if (reads_of & role) {
      row.in[slot] = input->data;
      row.dtype[slot++] = input->dtype;
    }
  row.live = row.current = tensor.mask;
  row.numel = tensor.numel;
  row.offset = view.offset[t];
  row.origin = origin_of(view, t);
  row.geometry = tensor.geometry;
  row.order = tensor.order;
  row.dimensions = dimensions_of(tensor);
  row.tile = static_cast<u32>(tile);
  row.modifier = tensor.modifier;
  row.bias_correction1 = tensor.bias_correction1;
  return row;
}

// Rows whose modifier could bring a rough score out of the range of normal numbers are not decided by it.
inline constexpr float modifier_least = 0x1p-20f, modifier_most = 0x1p20f;

// The table of write_scores.
inline std::vector<Row> score_rows(std::span<const ScoreInputs> tensors, const Scorer& scorer,
                                   std::span<float* const> scores) {
  const ScoreView view = make_view(tensors, scorer);
  check_addresses(tensors);
  check_masks(tensors, scores.size(), "scores");
  std::vector<Row> rows;
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    if (tensors[t].numel > 0 && scores[t] == nullptr)
      throw ArgumentError("scores: null pointer for tensor '" + std::string(tensors[t].name) + "'");
    rows.push_back(make_row(view, t, 0));
    rows.back().scores = scores[t];
  }
  return rows;
}

// Which vectors can read a row, if any.
inline Storage storage_of(const Scorer& scorer, const Row& row) {
  return std::visit(
      [&]<class S>(const S&) {
        constexpr int count = Slots<S>::count;
        if constexpr (!has_vectors<S>) {
          return Storage::any;
        } else {
          const DType w = row.dtype[0], x = row.dtype[count > 1 ? 1 : 0];
          for (int slot = 2; slot < count; ++slot)
            if (row.dtype[slot] != x) return Storage::any;
          if (x != w && x != DType::f32) return Storage::any;
          if constexpr (HasRough<S>)  // rough scores stay normal
            if (!(row.modifier >= modifier_least && row.modifier <= modifier_most)) return Storage::any;
          const bool halves = w != DType::f32 && x != DType::f32;
          if (IsMagnitude<S> && halves && row.modifier != 1.0f) return Storage::any;
          for (int slot = 0; slot < count; ++slot)
            if (reinterpret_cast<std::uintptr_t>(row.in[slot]) % (size_of(row.dtype[slot]) * (halves ? 8 : 4)) != 0)
              return Storage::any;
          if (w == DType::f32) return Storage::f32;
          if (halves) return w == DType::bf16 ? Storage::bf16 : Storage::f16;
          return w == DType::bf16 ? Storage::bf16_f32 : Storage::f16_f32;
        }
      },
      scorer);
}

// One set of launches over units.
struct UnitsLaunch {
  Context context{};
  Plan work{};
  std::vector<Unit> units;
};

// What a step with a selection for each tensor has beside.
struct UnitsPlan {
  std::vector<UnitsLaunch> launches;
  std::byte* table = nullptr;     // of units and their blocks, in the workspace
  StepReport* results = nullptr;  // one a tensor
  std::int64_t *dead = nullptr, *shares = nullptr, *pruned = nullptr;
  BoundRow* bounds = nullptr;
  BoundCut* cut = nullptr;
  u64* bins = nullptr;
  u32 bits = 0;
  std::vector<BoundRow> ranges;  // as they are given
  bool exact_counts = false;     // all counts are promised, not only that none is above its cap
  Distribution distribution = Distribution::uniform;
  const StepBudget* budget = nullptr;
  float* threshold = nullptr;
};

// Caps that are met in rounds (capped.cuh).
struct RoundsPlan {
  SearchContext search{};
  Plan work{};
  Work blocks{};
  Round* round = nullptr;
  Row* rows = nullptr;
  Answers answers{};
  double fraction = 0;  // sampling's
};

// All that a step enqueues, made and checked before anything is.
struct StepPlan {
  Ways ways{};
  std::vector<ScoreInputs> competing;
  Context context{};
  Plan work{};
  std::vector<Row> rows;
  std::vector<Piece> pieces;
  std::vector<ArrayRow> zeros;  // arrays to apply the new masks to
  u64 live = 0;                 // elements of tensors without a mask
  bool masked = false;          // does any competing tensor have one?
  UnitsPlan units{};

  // Of the selectors beside exact (search_plan.hpp):
  Selector selector = Exact{};
  SearchContext search{};
  std::byte *scores = nullptr, *alone_in = nullptr;  // in the workspace
  Work blocks{};                                     // of Moments
  std::vector<u32> first_line;                       // sampling by line: of every row
  std::vector<Row> written;                          // kthvalue: the table of write_scores
  std::vector<StepPlan> stored;                      // kthvalue: the same step over the scores that were written
  std::vector<StepPlan> alone;                       // of each tensor, where the step consists of these
  RoundsPlan rounds{};
};

// What the kernels of a set of launches over units are told. A NaN makes no unit void: the step knows when all are
// done.
inline Context unit_context(Context c, const UnitsPlan& plan, const UnitBatch& batch, bool bounded) {
  c.units = reinterpret_cast<const Unit*>(plan.table);
  c.report = plan.results;
  c.unit_of_block = reinterpret_cast<const u32*>(plan.table + batch.units.size() * sizeof(Unit));
  c.k = plan.shares;
  c.nonfinite = NonFinite::keep;
  if (bounded) {
    c.ties = Ties::exact;
    c.gate = &plan.cut->active;
  }
  return c;
}

inline void place_bounds(UnitsPlan& plan, std::span<const ScoreInputs> tensors, const StepOptions& options,
                         std::byte* base, const Layout& layout) {
  std::vector<std::int64_t> numels;
  for (const ScoreInputs& tensor : tensors) numels.push_back(tensor.numel);
  plan.exact_counts = !options.tensor_sparsity.empty();
  const std::vector<std::int64_t> none(numels.size());  // the dead are counted on the device
  for (const CountRange& range : ranges_of(options.tensor_sparsity, options.max_tensor_sparsity, numels, none))
    plan.ranges.push_back({range.least, range.most, 0, 0, 0});
  plan.bounds = reinterpret_cast<BoundRow*>(base + layout.bounds);
  plan.cut = reinterpret_cast<BoundCut*>(base + layout.cut);
  plan.bins = reinterpret_cast<u64*>(base + layout.bins);
  plan.bits = bound_bits(numels.size());
}

// Without what a step alone has: a budget, and where its results go.
inline StepPlan make_plan(std::span<const ScoreInputs> tensors, const Scorer& scorer, const StepOptions& options,
                          MaskTable new_masks, void* workspace, std::size_t workspace_bytes, std::size_t room = 0) {
  StepPlan plan;
  plan.competing.assign(tensors.begin(), tensors.end());
  if (options.regrow)
    for (ScoreInputs& tensor : plan.competing) tensor.mask = nullptr;
  const ScoreView view = make_view(plan.competing, scorer);
  check_addresses(tensors);
  const bool masks = !new_masks.empty();
  check_new_masks(tensors, new_masks, options);
  const u64 tiles = tiles_in(tensors);
  if (tiles >= device::max_tiles)
    throw ArgumentError("tensors: " + std::to_string(view.size()) + " elements; one step takes up to about 2^33");
  const Ways ways = plan.ways = ways_of(tensors, options, masks);
  std::vector<UnitBatch> batches = batches_of(tensors, options, masks, room);
  const Layout layout = make_layout(tensors, masks, options, batches);
  check_workspace(layout, workspace, workspace_bytes);
  std::byte* const base = base_of(workspace);
  plan.selector = selector_for(options, view.size());
  plan.context = make_context(layout, base);

  u64 tile = 0;
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    Row row = make_row(view, t, tile);
    row.current = tensors[t].mask;
    row.next = masks ? new_masks[t] : nullptr;
    row.output_row = plan.context.output_rows;
    plan.context.output_rows += row.numel > 0 ? row.geometry.rows : 0;
    plan.rows.push_back(row);
    plan.masked |= row.live != nullptr;
    plan.live += row.live == nullptr ? static_cast<u64>(row.numel) : 0;
    tile += static_cast<u64>(tiles_of(row.numel));
  }
  Context& c = plan.context;
  c.total = view.size();
  c.seed = options.seed;
  c.row_count = static_cast<u32>(plan.rows.size());
  c.tiles = static_cast<u32>(tiles);
  c.ties = flow::ties_of(prune_options(options));
  c.nonfinite = options.nonfinite;
  c.non_negative = info_of(scorer).non_negative &&
                   std::ranges::all_of(tensors, [](const ScoreInputs& tensor) { return tensor.modifier >= 0.0f; });
  c.masks = masks;
  c.ordered = std::ranges::any_of(tensors, [](const ScoreInputs& tensor) { return !tensor.order.row_major(); });

  const auto* const pieces = reinterpret_cast<const Piece*>(base + layout.pieces);
  const auto share_out = [&](Work& work, u32 first, u32 last, const auto& from_to) {  // [from, to) tiles of these rows
    work = {c.rows, pieces + plan.pieces.size(), 0, 0};
    for (u32 r = first; r < last; ++r) {
      const auto [from, to] = from_to(plan.rows[r]);
      if (from >= to) continue;
      plan.pieces.push_back({work.tiles, r, from});
      work.tiles += to - from;
      ++work.count;
    }
  };
  using FromTo = std::pair<u32, u32>;
  share_out(plan.work.all, 0, c.row_count, [](const Row& row) { return FromTo{0, tiles_of(row.numel)}; });
  const auto by_storage = [&](Plan& work, u32 first, u32 last) {
    work.all = plan.work.all;
    for (int s = 0; s < storages; ++s)
      share_out(work.work[s], first, last, [&](const Row& row) {
        const Storage storage = storage_of(scorer, row);
        const u32 whole = storage == Storage::any ? 0 : static_cast<u32>(row.numel / tile_size);
        if (s == static_cast<int>(Storage::any)) return FromTo{whole, tiles_of(row.numel)};
        return s == static_cast<int>(storage) ? FromTo{0, whole} : FromTo{0, 0};
      });
  };
  if (ways.together()) by_storage(plan.work, 0, c.row_count);
  if (ways.together() && std::holds_alternative<Streaming>(plan.selector))
    share_out(plan.blocks, 0, c.row_count,
              [](const Row& row) { return FromTo{0, static_cast<u32>(blocks_of(row.numel))}; });
  plan.search.search = reinterpret_cast<Search*>(base + layout.search);
  plan.search.block_sums = reinterpret_cast<BlockSums*>(base + layout.block_sums);
  plan.search.first_line = reinterpret_cast<u32*>(base + layout.parts);
  plan.rounds.round = reinterpret_cast<Round*>(base + layout.round);
  plan.rounds.rows = reinterpret_cast<Row*>(base + layout.round_rows);
  plan.scores = base + layout.scores;
  plan.alone_in = base + layout.alone;
  if (ways.by_unit() || ways.alone) {
    UnitsPlan& units = plan.units;
    units.distribution = options.distribution.value_or(Distribution::uniform);
    units.threshold = options.tensor_threshold;
    units.table = base + layout.units;
    const auto counts = [&](std::size_t at) { return reinterpret_cast<std::int64_t*>(base + at); };
    units.dead = counts(layout.dead);
    units.shares = counts(layout.shares);
    units.pruned = counts(layout.pruned);
    units.results = reinterpret_cast<StepReport*>(base + layout.results);
    if (ways.bounded) place_bounds(units, tensors, options, base, layout);
    for (UnitBatch& batch : batches) {
      UnitsLaunch& launch = units.launches.emplace_back();
      const u32 first = batch.units.front().row, last = batch.units.back().row + 1;
      for (u32 r = first; r < last; ++r) plan.rows[r].unit = r - first;
      by_storage(launch.work, first, last);
      launch.context = unit_context(c, units, batch, ways.bounded);
      launch.units = std::move(batch.units);
    }
  }
  if (options.zero != 0)
    plan.zeros =
        chosen_arrays(tensors, std::vector<const std::uint64_t*>(new_masks.begin(), new_masks.end()), options.zero);
  return plan;
}

}  // namespace bittersweet::cuda
