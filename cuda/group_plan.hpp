// Host side of a step in rows or N:M groups: which kernel takes which tensor, and where things lie in the workspace.
#pragma once

#include <algorithm>
#include <array>

#include "eight.cuh"
#include "group_table.cuh"
#include "groups.cuh"
#include "plan.hpp"
#include "rows.cuh"

namespace bittersweet::cuda {

// The kernels that cut groups, each with tiles, rows or 32 groups as its units of work.
enum class Cutter : u32 { eight, ranks, warps, blocks, digits };
inline constexpr int cutters = 5;

inline bool can_read_eight(const Scorer& scorer, const Row& row) {
  return std::visit(
      [&]<class S>(const S&) {
        using In = Slots<S>;
        const auto aligned = [&](const void* data) { return reinterpret_cast<std::uintptr_t>(data) % 16 == 0; };
        if (!reads_eight<S> || !std::all_of(row.in, row.in + In::count, aligned)) return false;
        if (!In::has(reads::input_norm)) return true;
        const Geometry& g = row.geometry;
        return aligned(row.in[In::norm]) && row.order.row_major() && g.rows_are_contiguous() && g.inner == 1 &&
               g.inputs % 8 == 0;
      },
      scorer);
}

inline Grouping grouping_of(const Scorer& scorer, const Row& row, const Scope& scope) {
  const RowLayout rows = rows_in_memory(row.geometry, row.order);
  Grouping how{rows.geometry, scope.kind == Scope::row ? 0 : scope.of, false, false, false, false};
  const bool in_runs = rows.kind != RowLayout::scattered && rows.geometry.rows_are_contiguous();
  const std::int64_t size = row.geometry.row_size();
  how.eight = can_read_eight(scorer, row);
  if (how.group == 0) {
    how.permuted = rows.kind == RowLayout::permuted;
    how.mapped = rows.kind == RowLayout::scattered || (how.permuted && size <= most_ranked);
    if (how.mapped) how.geometry = row.geometry;
    how.in_words = !how.mapped && in_runs && size <= 32 && 32 % size == 0;
    how.eight &= size % 32 == 0;
    return how;
  }
  if (rows.kind == RowLayout::permuted && row.order.p == row.geometry.inputs && row.order.q == row.geometry.inner)
    how.geometry = matrix(row.geometry.rows * row.geometry.inner, row.geometry.inputs);  // inputs are neighbours
  else if (rows.kind != RowLayout::strided || rows.geometry.inner != row.geometry.inner)
    how.mapped = true, how.geometry = row.geometry;
  const bool side_by_side = !how.mapped && how.geometry.rows_are_contiguous() && how.geometry.inner == 1 &&
                            how.geometry.inputs % how.group == 0;
  how.in_words = side_by_side && how.group <= 32 && 32 % how.group == 0;
  how.eight &= how.in_words && how.group > 1 && how.group <= 8;
  return how;
}

inline Cutter cutter_of(const Row& row, const Grouping& how) {
  if (how.group > 0) return how.eight ? Cutter::eight : how.group <= most_ranked ? Cutter::ranks : Cutter::digits;
  const std::int64_t size = row.geometry.row_size();
  if (size <= most_ranked) return Cutter::ranks;
  if (how.mapped || !how.geometry.rows_are_contiguous()) return Cutter::digits;
  return size <= row_of_a_warp ? Cutter::warps : Cutter::blocks;
}

struct GroupLayout {
  std::size_t state, rows, groupings, rules, pieces, pruned, dead, shares, bytes;
};

inline GroupLayout make_group_layout(std::size_t tensors) {
  GroupLayout layout{};
  std::size_t at = 0;
  const auto place = [&](std::size_t bytes) {
    const std::size_t here = at;
    at += (bytes + alignment - 1) / alignment * alignment;
    return here;
  };
  layout.state = place(sizeof(device::State));
  layout.rows = place(tensors * sizeof(Row));
  layout.groupings = place(tensors * sizeof(Grouping));
  layout.rules = place(tensors * sizeof(GroupRule));
  layout.pieces = place(4 * tensors * sizeof(Piece));  // all tiles, a cutter's, tiles left over or to be cleared
  layout.pruned = place(tensors * sizeof(std::int64_t));
  layout.dead = place(tensors * sizeof(std::int64_t));
  layout.shares = place(tensors * sizeof(std::int64_t));
  layout.bytes = at + alignment;
  return layout;
}

struct GroupPlan {
  StepPlan step;
  GroupContext context{};
  std::vector<Grouping> groupings;
  Work cut[cutters];
  Work clear;  // tiles of tensors whose words are put together bit by bit
  const StepBudget* budget = nullptr;
  Scope scope{};
  Rounding rounding{};
  Distribution distribution{};
  std::int64_t* dead = nullptr;    // one a tensor, for a distribution that looks at them
  std::int64_t* shares = nullptr;  // likewise; null where each tensor gives the same share
};

inline GroupPlan make_group_step(std::span<const ScoreInputs> tensors, const Scorer& scorer, const StepBudget* budget,
                                 const StepOptions& options, MaskTable new_masks, std::int64_t* tensor_pruned,
                                 void* workspace, std::size_t workspace_bytes, StepReport* report) {
  flow::check(tensors, prune_options(options));
  GroupPlan plan;
  StepPlan& step = plan.step;
  step.competing = flow::competitors(tensors, options.regrow);
  const ScoreView view = make_view(step.competing, scorer);
  check_addresses(tensors);
  if (new_masks.empty() && !tensors.empty())
    throw ArgumentError(
        "new_masks: none, and rows and N:M groups have no threshold to find without them; give one a "
        "tensor, or scope 'global'");
  check_new_masks(tensors, new_masks, options);
  if (budget == nullptr || report == nullptr)
    throw ArgumentError("budget, report: null pointer; both are device memory");
  for (const ScoreInputs& tensor : tensors) {
    if (tensor.numel >= std::int64_t{1} << 41 || tensor.geometry.row_size() >= std::int64_t{1} << 31)
      throw ArgumentError("tensor '" + std::string(tensor.name) + "': rows of " +
                          std::to_string(tensor.geometry.row_size()) + " elements; rows below 2^31 are accepted");
  }
  const GroupLayout layout = make_group_layout(tensors.size());
  if (workspace == nullptr || workspace_bytes < layout.bytes)
    throw ArgumentError("workspace_bytes: " + std::to_string(workspace_bytes) + "; this call needs " +
                        std::to_string(layout.bytes) + " (step_workspace_bytes)");
  std::byte* const base = base_of(workspace);
  Context& c = step.context;
  c.state = reinterpret_cast<device::State*>(base + layout.state);
  c.rows = reinterpret_cast<const Row*>(base + layout.rows);
  c.report = report;
  c.tensor_pruned = tensor_pruned ? tensor_pruned : reinterpret_cast<std::int64_t*>(base + layout.pruned);
  c.k = &budget->k;
  c.total = view.size();
  c.seed = options.seed;
  c.row_count = static_cast<u32>(tensors.size());
  c.tiles = static_cast<u32>(tiles_in(tensors));
  c.nonfinite = options.nonfinite;
  c.masks = true;
  plan.context = {c, reinterpret_cast<const Grouping*>(base + layout.groupings),
                  reinterpret_cast<GroupRule*>(base + layout.rules)};
  plan.budget = budget;
  plan.scope = options.scope;
  plan.rounding = options.rounding;
  plan.distribution = options.distribution.value_or(Distribution::uniform);
  if (plan.distribution != Distribution::uniform) {
    plan.dead = reinterpret_cast<std::int64_t*>(base + layout.dead);
    plan.shares = reinterpret_cast<std::int64_t*>(base + layout.shares);
  }

  for (std::size_t t = 0; t < tensors.size(); ++t) {
    Row row = make_row(view, t, 0);
    row.current = tensors[t].mask;
    row.next = new_masks[t];
    row.output_row = c.output_rows;
    c.output_rows += row.numel > 0 ? row.geometry.rows : 0;
    step.masked |= row.live != nullptr;
    step.live += row.live == nullptr ? static_cast<u64>(row.numel) : 0;
    plan.groupings.push_back(row.numel > 0 ? grouping_of(scorer, row, options.scope) : Grouping{});
    step.rows.push_back(row);
  }
  plan.context.step = c;

  const auto* const pieces = reinterpret_cast<const Piece*>(base + layout.pieces);
  using FromTo = std::pair<u32, u32>;
  const auto share_out = [&](Work& work, const auto& from_to) {  // [first, last) units of every row
    work = {c.rows, pieces + step.pieces.size(), 0, 0};
    for (u32 r = 0; r < step.rows.size(); ++r) {
      if (step.rows[r].numel == 0) continue;
      const auto [from, to] = from_to(step.rows[r], plan.groupings[r], cutter_of(step.rows[r], plan.groupings[r]));
      if (from >= to) continue;
      step.pieces.push_back({work.tiles, r, from});
      work.tiles += to - from;
      ++work.count;
    }
  };
  const auto only = [](bool mine, std::int64_t units) { return FromTo{0, mine ? static_cast<u32>(units) : 0}; };
  share_out(step.work.all, [](const Row& row, const Grouping&, Cutter) { return FromTo{0, tiles_of(row.numel)}; });
  share_out(plan.cut[0], [&](const Row& row, const Grouping&, Cutter cutter) {
    return only(cutter == Cutter::eight, row.numel / tile_size);
  });
  share_out(plan.cut[1], [&](const Row& row, const Grouping&, Cutter cutter) {
    const u32 whole = cutter == Cutter::eight ? static_cast<u32>(row.numel / tile_size) : 0;
    const bool mine = cutter == Cutter::eight || cutter == Cutter::ranks;
    return FromTo{whole, mine ? tiles_of(row.numel) : 0};
  });
  for (const Cutter each : {Cutter::warps, Cutter::blocks})
    share_out(plan.cut[static_cast<int>(each)],
              [&](const Row& row, const Grouping&, Cutter cutter) { return only(cutter == each, row.geometry.rows); });
  share_out(plan.cut[static_cast<int>(Cutter::digits)], [&](const Row&, const Grouping& how, Cutter cutter) {
    const Geometry& g = how.geometry;
    const std::int64_t groups = how.group == 0 ? g.rows : g.rows * ((g.inputs + how.group - 1) / how.group) * g.inner;
    return only(cutter == Cutter::digits, (groups + 31) / 32);
  });
  share_out(plan.clear, [&](const Row& row, const Grouping&, Cutter cutter) {
    return only(cutter == Cutter::digits, tiles_of(row.numel));
  });
  if (options.zero != 0)
    step.zeros =
        chosen_arrays(tensors, std::vector<const std::uint64_t*>(new_masks.begin(), new_masks.end()), options.zero);
  return plan;
}

}  // namespace bittersweet::cuda
