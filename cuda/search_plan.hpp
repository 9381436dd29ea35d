// Host side of the selectors beside exact: what their kernels are told, in the workspace of a step.
#pragma once

#include "plan.hpp"

namespace bittersweet::cuda {

// kthvalue: the step over scores that are written first, every tensor's in the workspace.
inline void plan_stored(StepPlan& plan, std::span<const ScoreInputs> tensors, const Scorer& scorer, StepOptions options,
                        MaskTable new_masks, void* workspace, std::size_t workspace_bytes) {
  const Layout layout = make_layout(tensors, !new_masks.empty(), options);
  std::byte* at = base_of(workspace) + layout.scores;
  std::vector<ScoreInputs> scored(tensors.begin(), tensors.end());
  std::vector<float*> outputs;
  for (ScoreInputs& tensor : scored) {
    outputs.push_back(reinterpret_cast<float*>(at));
    tensor.scores = view(outputs.back());
    tensor.modifier = 1.0f;
    at += (static_cast<std::size_t>(tensor.numel) * sizeof(float) + alignment - 1) / alignment * alignment;
  }
  plan.written = score_rows(tensors, scorer, outputs);
  options.zero = 0;
  plan.stored.push_back(make_plan(scored, Identity{}, options, new_masks, workspace, workspace_bytes));
  Context& c = plan.stored.back().context;
  c.report = plan.context.report;
  c.tensor_pruned = plan.context.tensor_pruned;
  c.k = plan.context.k;
  c.non_negative = plan.context.non_negative;
}

inline StepPlan make_selected(std::span<const ScoreInputs> tensors, const Scorer& scorer, const StepBudget* budget,
                              const StepOptions& options, MaskTable new_masks, std::int64_t* tensor_pruned,
                              void* workspace, std::size_t workspace_bytes, StepReport* report, std::size_t room = 0) {
  StepPlan plan =
      make_step(tensors, scorer, budget, options, new_masks, tensor_pruned, workspace, workspace_bytes, report, room);
  if (std::holds_alternative<Exact>(plan.selector)) return plan;
  const Layout layout = make_layout(tensors, plan.context.masks, options);
  std::byte* const base = base_of(workspace);
  if (std::holds_alternative<KthValue>(plan.selector))
    plan_stored(plan, tensors, scorer, options, new_masks, workspace, workspace_bytes);
  SearchContext& s = plan.search;
  s.step = plan.stored.empty() ? plan.context : plan.stored.back().context;
  s.search = reinterpret_cast<Search*>(base + layout.search);
  s.block_sums = reinterpret_cast<BlockSums*>(base + layout.block_sums);
  s.passes = plan.stored.empty() ? radix_levels : 1;
  s.counted = plan.context.masks;
  if (const auto* sampling = std::get_if<Sampling>(&plan.selector)) {
    s.by_line = sampling->by == Sampling::By::line;
    s.samples = sampled_places(*sampling, tensors);
    s.verified = sampling->verify;
    s.counted |= s.verified;
    s.passes = static_cast<float>(static_cast<double>(s.samples) / static_cast<double>(s.step.total));
    if (s.by_line) {
      const std::vector<std::int64_t> first = line_numbers(tensors);
      plan.first_line.assign(first.begin(), first.end() - 1);
      s.first_line = reinterpret_cast<const u32*>(base + layout.parts);
      s.lines = s.samples / LineSample::width;
      s.all_lines = first.back();
    }
  } else if (const auto* streaming = std::get_if<Streaming>(&plan.selector)) {
    s.tolerance = streaming->tolerance;
  }
  return plan;
}

}  // namespace bittersweet::cuda
