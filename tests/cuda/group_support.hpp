// A step in rows or N:M groups on the emulator, held against the reference engine.
#pragma once

#include <algorithm>

#include "cuda/step_support.hpp"
#include "support/orders.hpp"

namespace bittersweet::test {

struct GroupStep {
  Model model;
  Scorer scorer = Magnitude{};
  Budget budget{.sparsity = 0.5};
  cuda::StepOptions options{.scope = {Scope::row}};
  std::uint64_t seed = 1;
  unsigned processors = 1;
};

struct Outcome {
  cuda::StepReport report{};
  Bits masks;  // by logical index
  std::vector<std::int64_t> tensor_pruned;
};

inline Outcome run(const GroupStep& step) {
  const std::vector<ScoreInputs> inputs = step.model.inputs();
  const FreshMasks masks(inputs);
  Outcome got;
  EmulatedCuda engine(step.seed, step.processors);
  got.report = engine.step(inputs, step.scorer, cuda::step_budget(step.budget, step.options.scope, step.model.numel()),
                           step.options, masks.table(), &got.tensor_pruned);
  got.masks = logical_bits(masks.bits(), inputs);
  return got;
}

// What the reference engine makes of `model`; NaN kept.
inline void expect_groups_of_reference(const Model& model, const GroupStep& step, const Outcome& got) {
  const std::vector<ScoreInputs> inputs = model.inputs();
  const FreshMasks masks(inputs);
  ReferenceEngine engine;
  Workspace workspace;
  PruneOptions options = cuda::prune_options(step.options);
  options.nonfinite = NonFinite::keep;
  const PruneReport want =
      flow::make_masks(engine, inputs, step.scorer, step.budget, options, masks.table(), workspace);
  EXPECT_TRUE(same_masks(logical_bits(masks.bits(), inputs), got.masks));
  EXPECT_EQ(got.report.k, want.k);
  EXPECT_EQ(got.report.total, want.total);
  EXPECT_EQ(got.report.dead, want.dead);
  EXPECT_EQ(got.report.nan, want.nonfinite);
  EXPECT_EQ(got.report.pruned, want.pruned);
  EXPECT_EQ(got.report.churn, want.churn);
  EXPECT_EQ(got.report.empty_rows, want.empty_rows);
  EXPECT_EQ(got.report.passes, 1.0f);
  EXPECT_EQ(got.tensor_pruned, want.tensor_pruned);
  EXPECT_EQ(got.report.status, want.nonfinite > 0 ? cuda::status::nan : 0u);
  if (want.v_below_eps) {
    const auto live = static_cast<double>(got.report.v_sampled);
    EXPECT_EQ(static_cast<double>(got.report.v_below_eps) / live, *want.v_below_eps);
    EXPECT_EQ(static_cast<double>(got.report.v_zero) / live, *want.v_zero);
  }
}

inline void expect_groups_like_reference(GroupStep step) {
  step.options.nonfinite = NonFinite::keep;
  const std::vector<std::vector<unsigned char>> before = step.model.bytes();
  expect_groups_of_reference(step.model, step, run(step));
  EXPECT_EQ(step.model.bytes(), before) << "a step without `zero` wrote to an input";
  EXPECT_TRUE(step.model.intact());
}

}  // namespace bittersweet::test
