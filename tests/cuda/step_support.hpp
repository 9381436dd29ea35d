// A whole step of the CUDA engine on the emulator against the reference engine, number by number and bit by bit.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "bittersweet/engine/reference.hpp"
#include "bittersweet/flow.hpp"
#include "support/compare.hpp"
#include "support/inputs.hpp"
#include "support/simt/emulated.hpp"

namespace bittersweet::test {

struct Step {
  Model model;
  Scorer scorer = Identity{};
  std::int64_t k = 0;
  cuda::StepOptions options{};
  std::uint64_t seed = 1;
  unsigned processors = 2;
  std::optional<double> sparsity{};  // instead of k

  Budget budget() const { return sparsity ? Budget{.sparsity = sparsity} : Budget{.k = k}; }
  cuda::StepBudget device_budget() const {
    return sparsity ? cuda::step_budget(budget(), options.scope, model.numel()) : cuda::StepBudget{.k = k};
  }
};

struct Result {
  cuda::StepReport report{};
  Bits masks;
  std::vector<std::int64_t> tensor_pruned;
  Values threshold;  // of every tensor, where it has one
};

inline Result run(const Step& step, EmulatedCuda& engine) {
  const std::vector<ScoreInputs> inputs = step.model.inputs();
  const FreshMasks masks(inputs);
  Result result;
  result.threshold.assign(inputs.size(), -7.0f);
  cuda::StepOptions options = step.options;
  options.tensor_threshold = result.threshold.data();
  result.report = engine.step(inputs, step.scorer, step.device_budget(), options, masks.table(), &result.tensor_pruned);
  result.masks = masks.bits();
  return result;
}

inline Result run(const Step& step) {
  EmulatedCuda engine(step.seed, step.processors);
  return run(step, engine);
}

// What the reference engine says. NaN scores must be kept, or not be there.
struct Expected {
  PruneReport report;
  Bits masks;
};

inline Expected expected(const Step& step) {
  const std::vector<ScoreInputs> inputs = step.model.inputs();
  const FreshMasks masks(inputs);
  PruneOptions options = cuda::prune_options(step.options);
  options.nonfinite = NonFinite::keep;
  ReferenceEngine engine;
  Workspace workspace;
  Expected result{flow::make_masks(engine, inputs, step.scorer, step.budget(), options, masks.table(), workspace), {}};
  result.masks = masks.bits();
  return result;
}

inline void expect_same(const Expected& want, const Result& got) {
  EXPECT_TRUE(same_masks(want.masks, got.masks));
  const float value = want.report.value.value_or(not_a_number);
  EXPECT_TRUE(same_bits(value, got.report.value)) << show(value) << " expected, found " << show(got.report.value);
  EXPECT_EQ(std::isnan(got.report.standard_error), !want.report.standard_error.has_value());
  EXPECT_EQ(got.report.converged != 0, want.report.converged);
  EXPECT_EQ(got.report.k, want.report.k);
  EXPECT_EQ(got.report.total, want.report.total);
  EXPECT_EQ(got.report.dead, want.report.dead);
  EXPECT_EQ(got.report.below, want.report.count_below);
  EXPECT_EQ(got.report.equal, want.report.count_equal);
  EXPECT_EQ(got.report.nan, want.report.nonfinite);
  EXPECT_EQ(got.report.pruned, want.report.pruned);
  const auto& thresholds = want.report.tensor_threshold;  // none: a bound decides, and below and ties are of the others
  const bool all = !want.report.value || std::ranges::all_of(thresholds, [](const auto& x) { return x.has_value(); });
  if (want.report.count_below >= 0 && all) {
    EXPECT_EQ(got.report.pruned, got.report.dead + got.report.below + got.report.ties);
  }
  EXPECT_EQ(std::isnan(got.report.standard_error), !want.report.standard_error);
  if (want.report.standard_error) {
    EXPECT_EQ(got.report.standard_error, *want.report.standard_error);
  }
  EXPECT_EQ(got.report.converged, want.report.converged);
  EXPECT_EQ(got.report.churn, want.report.churn);
  EXPECT_EQ(got.report.empty_rows, want.report.empty_rows);
  EXPECT_EQ(got.tensor_pruned, want.report.tensor_pruned);
  if (want.report.v_below_eps) {
    const auto live = static_cast<double>(got.report.v_sampled);
    EXPECT_EQ(static_cast<double>(got.report.v_below_eps) / live, *want.report.v_below_eps);
    EXPECT_EQ(static_cast<double>(got.report.v_zero) / live, *want.report.v_zero);
  } else {
    EXPECT_EQ(got.report.v_sampled, 0);
  }
}

// The same of steps with a threshold for each tensor.
inline void expect_same_tensors(const Expected& want, const Result& got) {
  expect_same(want, got);
  ASSERT_EQ(got.threshold.size(), want.report.tensor_threshold.size());
  for (std::size_t t = 0; t < got.threshold.size(); ++t) {
    const float value = want.report.tensor_threshold[t].value_or(not_a_number);
    EXPECT_TRUE(same_bits(value, got.threshold[t]))
        << show(value) << " expected of tensor " << t << ", found " << show(got.threshold[t]);
  }
}

inline void expect_like_reference(const Step& step) {
  const std::vector<std::vector<unsigned char>> before = step.model.bytes();
  expect_same(expected(step), run(step));
  EXPECT_EQ(step.model.bytes(), before) << "a step without `zero` wrote to an input";
  EXPECT_TRUE(step.model.intact());
}

// The masks that a void step leaves.
inline Bits current(const Model& model) {
  Bits live;
  for (const ScoreInputs& tensor : model.inputs()) {
    live.emplace_back();
    for (std::int64_t word = 0; word < bits::words(tensor.numel); ++word)
      live.back().push_back(bits::live(tensor.mask, tensor.numel, word));
  }
  return live;
}

inline const std::vector<std::vector<DType>>& storages() {  // of weight, exp_avg, exp_avg_sq, grad, scores, ...
  using enum DType;
  static const std::vector<std::vector<DType>> all{{f32},
                                                   {bf16},
                                                   {f16},
                                                   {bf16, f32, f32, f32, f32, f32},
                                                   {f16, f32, f32, f32, f32, f32},
                                                   {f32, bf16, f16, bf16, f16}};
  return all;
}

// All but exact.
inline const std::vector<Selector>& selectors() {
  static const std::vector<Selector> all{
      Histogram{}, KthValue{},
      Streaming{}, Streaming{.tolerance = 0},
      Sampling{},  Sampling{.fraction = 0.9, .verify = true, .by = Sampling::By::element}};
  return all;
}

inline std::string name_of(const Scorer& scorer) { return std::string(info_of(scorer).name); }

}  // namespace bittersweet::test
