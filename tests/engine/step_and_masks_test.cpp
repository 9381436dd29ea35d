// The optimizer's step and a selection of what it leaves, in one pass: as the one after the other.
#include "bittersweet/error.hpp"
#include "bittersweet/optim.hpp"
#include "support/optim.hpp"

namespace bittersweet::test {
namespace {

constexpr DType f32 = DType::f32;

struct NewMasks {
  std::vector<Words> words;
  std::vector<std::uint64_t*> table;

  explicit NewMasks(const Model& model) {
    for (const Tensor& tensor : model.tensors) words.emplace_back(tensor.numel);
    for (const Words& one : words) table.push_back(one.data());
  }
};

struct Outcome {
  Model model;
  std::vector<std::vector<std::uint64_t>> masks;
  std::optional<PruneReport> report;
  std::vector<std::uint8_t> dirty;
};

Outcome in_one_pass(Model model, const Case& c, const Scorer& scorer, double sparsity, const PruneOptions& options) {
  NewMasks masks(model);
  Workspace workspace;
  const std::vector<AdamOptions> adam(model.tensors.size(), c.options);
  const std::vector<double> steps(model.tensors.size(), c.step);
  const auto draws = draws_of(c, adam.size());
  AdamCall call = c.call;
  call.draws = draws;
  SteppedMasks found = step_adam_and_make_masks(model.inputs(), adam, steps, call, scorer, {.sparsity = sparsity},
                                                options, masks.table, workspace);
  Outcome outcome{std::move(model), {}, found.report, found.dirty};
  for (const Words& one : masks.words) outcome.masks.emplace_back(one.words().begin(), one.words().end());
  return outcome;
}

Outcome one_after_the_other(Model model, const Case& c, const Scorer& scorer, double sparsity,
                            const PruneOptions& options) {
  NewMasks masks(model);
  Workspace workspace;
  std::vector<ScoreInputs> inputs = model.inputs();
  if (options.regrow)
    for (ScoreInputs& tensor : inputs) tensor.mask = nullptr;
  const std::vector<AdamOptions> adam(inputs.size(), c.options);
  const std::vector<double> steps(inputs.size(), c.step);
  const auto draws = draws_of(c, inputs.size());
  AdamCall call = c.call;
  call.draws = draws;
  std::vector<std::uint8_t> dirty = step_adam(inputs, adam, steps, call);
  inputs = model.inputs();
  for (ScoreInputs& tensor : inputs)
    tensor.bias_correction1 = static_cast<float>(1.0 - std::pow(c.options.beta1, c.step));
  std::optional<PruneReport> report;
  try {
    report = make_masks(inputs, scorer, {.sparsity = sparsity}, options, masks.table, workspace);
  } catch (const NonFiniteScoreError&) {
  }
  Outcome outcome{std::move(model), {}, report, dirty};
  for (const Words& one : masks.words) outcome.masks.emplace_back(one.words().begin(), one.words().end());
  return outcome;
}

void expect_same_outcome(const Outcome& expected, const Outcome& found, const std::string& where) {
  expect_same(expected.model, found.model, where);
  EXPECT_EQ(expected.dirty, found.dirty) << where;
  ASSERT_EQ(expected.report.has_value(), found.report.has_value()) << where;
  if (!expected.report) return;
  EXPECT_EQ(expected.masks, found.masks) << where;
  const PruneReport &a = *expected.report, &b = *found.report;
  EXPECT_EQ(a.value, b.value) << where;
  EXPECT_EQ(a.pruned, b.pruned) << where;
  EXPECT_EQ(a.count_below, b.count_below) << where;
  EXPECT_EQ(a.count_equal, b.count_equal) << where;
  EXPECT_EQ(a.tensor_pruned, b.tensor_pruned) << where;
  EXPECT_EQ(a.churn, b.churn) << where;
  EXPECT_EQ(a.empty_rows, b.empty_rows) << where;
  EXPECT_EQ(a.v_zero, b.v_zero) << where;
}

TEST(StepAndMasks, AreTheOneAfterTheOther) {
  std::uint64_t seed = 0;
  for (const auto& [weight, state] : storages)
    for (const std::vector<std::int64_t>& sizes :
         {std::vector<std::int64_t>{65537, 5, 0, 70001, 131}, std::vector<std::int64_t>{300, 64, 1}})
      for (const Scorer& scorer : all_scorers()) {
        Model model = optim_model(sizes, weight, state, ++seed);
        if (seed % 3 != 0) model.set_masks(0.3, seed);
        for (const Case& c : {cases()[0], cases()[3], cases()[4], cases()[6], cases()[7]}) {
          if (c.drawn && weight == DType::f16) continue;
          const std::string where = std::string(info_of(scorer).name) + ", " + c.name + ", " + name_of(weight);
          for (const PruneOptions& options :
               {PruneOptions{}, PruneOptions{.nonfinite = NonFinite::keep, .regrow = true}})
            expect_same_outcome(one_after_the_other(model, c, scorer, 0.6, options),
                                in_one_pass(model, c, scorer, 0.6, options), where);
        }
      }
}

TEST(StepAndMasks, WithOtherScopesSelectorsAndBudgets) {
  const Model model = [] {
    Model masked = optim_model({65536 * 2, 4096}, f32, f32, 77);
    masked.set_masks(0.2, 5);
    for (Tensor& tensor : masked.tensors) tensor.geometry = matrix(tensor.numel / 64, 64);
    return masked;
  }();
  std::vector<PruneOptions> all(7);
  all[0].selector = Histogram{};
  all[1].selector = Sampling{};
  all[2].scope = {.kind = Scope::tensor};
  all[3].scope = {.kind = Scope::row};
  all[4].max_tensor_sparsity = 0.55;
  all[5].selector = Exact{.guess = Bracket{1e9f, 2e9f}};  // misses
  all[6].selector = Sampling{.verify = true};
  for (const PruneOptions& options : all)
    for (const double sparsity : {0.0, 0.2, 0.5, 1.0})
      expect_same_outcome(one_after_the_other(model, cases()[0], Bitter7{}, sparsity, options),
                          in_one_pass(model, cases()[0], Bitter7{}, sparsity, options), std::to_string(sparsity));
}

TEST(StepAndMasks, NaNIsNoErrorAndNoReport) {
  for (const std::int64_t size : {200, 70000}) {
    Model model = optim_model({size}, f32, f32, 3);
    model.tensors[0].grad.set(7, not_a_number);
    const Outcome found = in_one_pass(model, cases()[0], Magnitude{}, 0.5, {});
    EXPECT_FALSE(found.report);
    expect_same_outcome(one_after_the_other(model, cases()[0], Magnitude{}, 0.5, {}), found, "NaN");
  }
  for (const Scope::Kind kind : {Scope::tensor, Scope::row}) {  // all tensors are stepped, those behind the first too
    Model model = optim_model({300, 200, 64}, f32, f32, 4);
    for (Tensor& tensor : model.tensors) tensor.geometry = matrix(tensor.numel / 4, 4);
    model.tensors[1].grad.set(9, not_a_number);
    const PruneOptions options{.scope = {kind}};
    const Outcome found = in_one_pass(model, cases()[0], Magnitude{}, 0.5, options);
    EXPECT_FALSE(found.report);
    expect_same_outcome(one_after_the_other(model, cases()[0], Magnitude{}, 0.5, options), found, "NaN, by tensor");
  }
}

TEST(StepAndMasks, RefusesBeforeAnythingIsWritten) {
  const Model model = optim_model({300, 64}, f32, f32, 4);
  const auto before = model.bytes();
  NewMasks masks(model);
  Workspace workspace;
  const std::vector<AdamOptions> adam(2);
  const std::vector<double> steps(2, 1.0);
  const auto call = [&](const Budget& budget, const PruneOptions& options, const Scorer& scorer) {
    step_adam_and_make_masks(model.inputs(), adam, steps, {}, scorer, budget, options, masks.table, workspace);
  };
  EXPECT_THROW(call({.sparsity = 2.0}, {}, Magnitude{}), ArgumentError);
  EXPECT_THROW(call({.sparsity = 0.5}, {.distribution = Distribution::uniform}, Magnitude{}), ArgumentError);
  EXPECT_THROW(call({.sparsity = 0.5}, {}, Bitter7{.eps = -1.0f}), ArgumentError);
  EXPECT_EQ(model.bytes(), before);
}

}  // namespace
}  // namespace bittersweet::test
