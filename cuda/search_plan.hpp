// Host side of a whole step: its checks, the selectors beside exact in its workspace, and the steps that it consists
// of.
#pragma once

#include "plan.hpp"

namespace bittersweet::cuda {

// Where a step finds its count, and where it leaves what it found: device memory.
struct StepMemory {
  const std::int64_t* k;
  StepReport* report;
  std::int64_t* tensor_pruned;
};

inline void give_memory(StepPlan& plan, const StepMemory& memory) {
  plan.context.k = memory.k;
  plan.context.report = memory.report;
  plan.context.tensor_pruned = memory.tensor_pruned;
}

// kthvalue: the step over scores that are written first, every tensor's in the workspace.
inline void plan_stored(StepPlan& plan, std::span<const ScoreInputs> tensors, const Scorer& scorer, StepOptions options,
                        MaskTable new_masks, void* workspace, std::size_t workspace_bytes, const StepMemory& memory,
                        std::size_t room) {
  std::byte* at = plan.scores;
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
  StepPlan& stored =
      plan.stored.emplace_back(make_plan(scored, Identity{}, options, new_masks, workspace, workspace_bytes, room));
  give_memory(stored, memory);
  stored.context.non_negative = plan.context.non_negative;
}

inline Answers answers_of(const Selector& selector) {
  if (std::holds_alternative<Sampling>(selector)) return Answers::by_sample;
  return std::holds_alternative<Streaming>(selector) ? Answers::by_search : Answers::by_digits;
}

inline void plan_search(StepPlan& plan, std::span<const ScoreInputs> tensors) {
  SearchContext& s = plan.search;
  s.step = plan.stored.empty() ? plan.context : plan.stored.back().context;
  s.passes = plan.stored.empty() ? radix_levels : 1;
  s.counted = plan.context.masks;
  if (const auto* sampling = std::get_if<Sampling>(&plan.selector)) {
    s.by_line = sampling->by == Sampling::By::line;
    s.verified = sampling->verify;
    s.counted |= s.verified;
    s.sizes = {s.step.total, sampled_places(*sampling, tensors), 0, 0};
    if (s.by_line) {
      const std::vector<std::int64_t> first = line_numbers(tensors);
      plan.first_line.assign(first.begin(), first.end() - 1);
      s.sizes.lines = s.sizes.samples / LineSample::width;
      s.sizes.all_lines = first.back();
    }
  } else if (const auto* streaming = std::get_if<Streaming>(&plan.selector)) {
    s.tolerance = streaming->tolerance;
  }
}

// Rounds read a table of their own, whose rows lose their elements when their tensors leave: element by element.
inline void plan_rounds(StepPlan& plan) {
  RoundsPlan& rounds = plan.rounds;
  rounds.search = plan.search;
  rounds.search.passes = radix_levels;
  rounds.search.sizes_now = &rounds.round->sizes;
  Context& c = rounds.search.step;
  c.rows = rounds.rows;
  c.k = &rounds.round->k;
  c.report = &rounds.round->report;
  c.tensor_pruned = nullptr;
  c.nonfinite = NonFinite::keep;
  c.gate = &rounds.round->open;
  rounds.work.all = plan.work.all;
  rounds.work.all.rows = rounds.rows;
  rounds.work.work[static_cast<int>(Storage::any)] = rounds.work.all;
  rounds.blocks = plan.blocks;
  rounds.blocks.rows = rounds.rows;
  rounds.answers = answers_of(plan.selector);
  if (const auto* sampling = std::get_if<Sampling>(&plan.selector)) rounds.fraction = sampling->fraction;
}

// A step whose options have been checked.
inline StepPlan plan_step(std::span<const ScoreInputs> tensors, const Scorer& scorer, const StepOptions& options,
                          MaskTable new_masks, void* workspace, std::size_t workspace_bytes, const StepMemory& memory,
                          std::size_t room = 0) {
  StepPlan plan = make_plan(tensors, scorer, options, new_masks, workspace, workspace_bytes, room);
  give_memory(plan, memory);
  if (!plan.ways.together()) return plan;
  if (std::holds_alternative<KthValue>(plan.selector))
    plan_stored(plan, tensors, scorer, options, new_masks, workspace, workspace_bytes, memory, room);
  plan_search(plan, tensors);
  if (plan.ways.rounds) plan_rounds(plan);
  return plan;
}

inline StepPlan make_selected(std::span<const ScoreInputs> tensors, const Scorer& scorer, const StepBudget* budget,
                              const StepOptions& options, MaskTable new_masks, std::int64_t* tensor_pruned,
                              void* workspace, std::size_t workspace_bytes, StepReport* report, std::size_t room = 0) {
  flow::check(tensors, prune_options(options));
  if (!options.tensor_sparsity.empty() && new_masks.empty())
    throw ArgumentError("tensor_sparsity: a threshold alone has no bounds; make_masks reports one with them");
  if (budget == nullptr || report == nullptr)
    throw ArgumentError("budget, report: null pointer; both are device memory");
  StepPlan plan = plan_step(tensors, scorer, options, new_masks, workspace, workspace_bytes,
                            {&budget->k, report, tensor_pruned}, room);
  plan.units.budget = budget;
  if (!plan.ways.alone) return plan;
  std::vector<ScoreInputs> placed(tensors.begin(), tensors.end());
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    placed[t].origin = plan.rows[t].origin;  // random scores go by the place among all tensors
    const StepMemory own{plan.units.shares + t, plan.units.results + t, nullptr};
    plan.alone.push_back(plan_step({&placed[t], 1}, scorer, alone_options(options), new_masks.subspan(t, 1),
                                   plan.alone_in, workspace_bytes, own));
  }
  return plan;
}

}  // namespace bittersweet::cuda
