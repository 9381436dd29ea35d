// Host side of a step: checks, the table of tensors, how their tiles are shared out to kernels, and where in the
// caller's memory everything lies.
#pragma once

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "arrays.cuh"
#include "bittersweet/error.hpp"
#include "bittersweet/flow.hpp"
#include "search.cuh"

namespace bittersweet::cuda {

inline void check_memory(std::span<const ScoreInputs> tensors) {
  for (const ScoreInputs& tensor : tensors) {
    if (!tensor.order.row_major())
      throw LayoutError("tensor '" + std::string(tensor.name) + "': matrices of " + std::to_string(tensor.order.p) +
                        " x " + std::to_string(tensor.order.q) +
                        " are transposed in its memory; row-major memory is accepted. Make a row-major copy");
    for (const TensorView* array : {&tensor.weight, &tensor.exp_avg, &tensor.exp_avg_sq, &tensor.grad,
                                    &tensor.input_norm, &tensor.scores, &tensor.max_exp_avg_sq})
      if (array->dtype != DType::none && reinterpret_cast<std::uintptr_t>(array->data) % size_of(array->dtype) != 0)
        throw LayoutError("tensor '" + std::string(tensor.name) + "': its address is not a multiple of the size of " +
                          name_of(array->dtype) + "; copy it to aligned memory");
  }
}

inline void check_masks(std::span<const ScoreInputs> tensors, std::size_t masks, const char* argument) {
  if (masks != tensors.size())
    throw ShapeError(std::string(argument) + ": " + std::to_string(masks) + " for " + std::to_string(tensors.size()) +
                     " tensors; one is needed for each");
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
  check_memory(tensors);
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

inline u64 tiles_in(std::span<const ScoreInputs> tensors) {
  u64 tiles = 0;
  for (const ScoreInputs& tensor : tensors) tiles += static_cast<u64>((tensor.numel + tile_size - 1) / tile_size);
  return tiles;
}

inline std::int64_t elements_in(std::span<const ScoreInputs> tensors) {
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
  const std::int64_t samples = sample_size(sampling, elements_in(tensors));
  if (sampling.by == Sampling::By::element) return samples;
  return bittersweet::sample_lines(samples, line_numbers(tensors).back()) * LineSample::width;
}

// Where things lie in the workspace.
struct Layout {
  std::size_t state, rows, pieces, parts, sample, candidates, tile_ties, tie_groups;
  std::size_t search, block_sums, scores;  // of the selectors beside exact
  std::size_t bytes;
  u64 capacity;
  u32 lines;
};

inline constexpr std::size_t alignment = 256;

// Short sequences are not sampled; groups are ranked, and use no selector.
inline Selector selector_for(const StepOptions& options, std::int64_t total) {
  const bool few = std::holds_alternative<Sampling>(options.selector) && total <= Sampling::smallest;
  return few || options.scope.in_groups() ? Selector(Exact{}) : options.selector;
}

inline Layout make_layout(std::span<const ScoreInputs> tensors, bool masks, const StepOptions& options = {}) {
  const std::int64_t total = elements_in(tensors);
  const Selector selector = selector_for(options, total);
  const bool exact = std::holds_alternative<Exact>(selector);
  const u64 tiles = tiles_in(tensors);
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
  layout.state = place(sizeof(device::State));
  layout.rows = place(tensors.size() * sizeof(Row));
  layout.pieces = place(4 * tensors.size() * sizeof(Piece));
  layout.parts = place(tensors.size() * sizeof(u32));
  const auto* const sampling = std::get_if<Sampling>(&selector);
  layout.sample = place((sampling ? static_cast<std::size_t>(sampled_places(*sampling, tensors))
                                  : std::size_t{layout.lines} * device::sample_width) *
                        sizeof(u32));
  layout.candidates = place(layout.capacity * sizeof(u64));
  layout.tile_ties = place(masks ? tiles * sizeof(u32) : 0);
  layout.tie_groups = place(masks ? (tiles / group_tiles + 1) * sizeof(u64) : 0);
  layout.search = place(exact ? 0 : sizeof(Search));
  layout.block_sums = place(std::holds_alternative<Streaming>(selector) ? blocks_in(tensors) * sizeof(BlockSums) : 0);
  layout.scores = at;
  if (std::holds_alternative<KthValue>(selector))
    for (const ScoreInputs& tensor : tensors) place(static_cast<std::size_t>(tensor.numel) * sizeof(float));
  layout.bytes = at + alignment;  // the caller's address need not be a multiple
  return layout;
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

// All that a step enqueues, made and checked before anything is.
struct StepPlan {
  std::vector<ScoreInputs> competing;
  Context context{};
  Plan work{};
  std::vector<Row> rows;
  std::vector<Piece> pieces;
  std::vector<ArrayRow> zeros;  // arrays to apply the new masks to
  u64 live = 0;                 // elements of tensors without a mask
  bool masked = false;          // does any competing tensor have one?

  // Of the selectors beside exact (search_plan.hpp):
  Selector selector = Exact{};
  SearchContext search{};
  Work blocks{};                 // of Moments
  std::vector<u32> first_line;   // sampling by line: of every row
  std::vector<Row> written;      // kthvalue: the table of write_scores
  std::vector<StepPlan> stored;  // kthvalue: the same step over the scores that were written
};

// What no kernel does yet.
inline void require_built(const StepOptions& options) {
  const auto refuse = [](const std::string& argument, const std::string& accepted) {
    throw ArgumentError(argument + ": not with CUDA tensors so far; the CUDA engine accepts " + accepted +
                        ". Use that, or give tensors on the CPU (nothing is moved by itself)");
  };
  if (options.scope.kind != Scope::global) refuse("scope", "'global'");
  if (options.max_tensor_sparsity || !options.tensor_sparsity.empty())
    refuse(options.max_tensor_sparsity ? "max_tensor_sparsity" : "tensor_sparsity", "None");
}

// Without what a step alone has: a budget, and where its results go.
inline StepPlan make_plan(std::span<const ScoreInputs> tensors, const Scorer& scorer, const StepOptions& options,
                          MaskTable new_masks, void* workspace, std::size_t workspace_bytes) {
  StepPlan plan;
  plan.competing.assign(tensors.begin(), tensors.end());
  if (options.regrow)
    for (ScoreInputs& tensor : plan.competing) tensor.mask = nullptr;
  const ScoreView view = make_view(plan.competing, scorer);
  check_memory(tensors);
  const bool masks = !new_masks.empty();
  if (masks) check_masks(tensors, new_masks.size(), "new_masks");
  if (!masks && options.zero != 0) throw ArgumentError("zero: arrays to zero, but no new masks to zero them by");
  for (std::size_t t = 0; masks && t < tensors.size(); ++t)
    if (tensors[t].numel > 0 && (new_masks[t] == nullptr || new_masks[t] == tensors[t].mask))
      throw ArgumentError("new_masks: " + std::string(new_masks[t] ? "the current mask itself" : "null pointer") +
                          " for tensor '" + std::string(tensors[t].name) + "'; words of their own are needed");
  const u64 tiles = tiles_in(tensors);
  if (tiles >= device::max_tiles)
    throw ArgumentError("tensors: " + std::to_string(view.size()) + " elements; one step takes up to about 2^33");
  const Layout layout = make_layout(tensors, masks, options);
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

  const auto* const pieces = reinterpret_cast<const Piece*>(base + layout.pieces);
  const auto share_out = [&](Work& work, const auto& from_to) {  // [first, last) tiles of every row
    work = {c.rows, pieces + plan.pieces.size(), 0, 0};
    for (u32 r = 0; r < plan.rows.size(); ++r) {
      const auto [from, to] = from_to(plan.rows[r]);
      if (from >= to) continue;
      plan.pieces.push_back({work.tiles, r, from});
      work.tiles += to - from;
      ++work.count;
    }
  };
  using FromTo = std::pair<u32, u32>;
  share_out(plan.work.all, [](const Row& row) { return FromTo{0, tiles_of(row.numel)}; });
  if (std::holds_alternative<Streaming>(plan.selector))
    share_out(plan.blocks, [](const Row& row) { return FromTo{0, static_cast<u32>(blocks_of(row.numel))}; });
  for (int s = 0; s < storages; ++s)
    share_out(plan.work.work[s], [&](const Row& row) {
      const Storage storage = storage_of(scorer, row);
      const u32 whole = storage == Storage::any ? 0 : static_cast<u32>(row.numel / tile_size);
      if (s == static_cast<int>(Storage::any)) return FromTo{whole, tiles_of(row.numel)};
      return s == static_cast<int>(storage) ? FromTo{0, whole} : FromTo{0, 0};
    });
  if (options.zero != 0)
    plan.zeros =
        chosen_arrays(tensors, std::vector<const std::uint64_t*>(new_masks.begin(), new_masks.end()), options.zero);
  return plan;
}

inline StepPlan make_step(std::span<const ScoreInputs> tensors, const Scorer& scorer, const StepBudget* budget,
                          const StepOptions& options, MaskTable new_masks, std::int64_t* tensor_pruned, void* workspace,
                          std::size_t workspace_bytes, StepReport* report) {
  flow::check(prune_options(options));
  require_built(options);
  StepPlan plan = make_plan(tensors, scorer, options, new_masks, workspace, workspace_bytes);
  if (budget == nullptr || report == nullptr)
    throw ArgumentError("budget, report: null pointer; both are device memory");
  plan.context.report = report;
  plan.context.tensor_pruned = tensor_pruned;
  plan.context.k = &budget->k;
  return plan;
}

}  // namespace bittersweet::cuda
