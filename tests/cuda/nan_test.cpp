// NaN scores under every scope and selector, on the emulator: a step that says which is the first and how many there
// are says what the CPU's error says, and is void where the CPU raises.
#include "cuda/step_support.hpp"

namespace bittersweet::test {
namespace {

// Memory in several orders, groups that whole ones do not fill, every cutter of rows, more than a sample takes whole.
Model spoiled(std::uint64_t seed, double dead, bool behind_alone) {
  const std::vector<std::pair<std::int64_t, std::int64_t>> shapes{{1, 1},   {1, 0},   {40, 30}, {3, 1057}, {20, 170},
                                                                  {300, 7}, {24, 30}, {30, 90}, {2, 3}};
  std::vector<std::int64_t> sizes;
  for (const auto& [rows, columns] : shapes) sizes.push_back(rows * columns);
  Model model = training_model(sizes, {DType::f32, DType::bf16}, seed);
  for (std::size_t t = 0; t < shapes.size(); ++t) model.tensors[t].geometry = matrix(shapes[t].first, shapes[t].second);
  model.tensors[4].geometry = {170, 20, 1, 1, 170};  // (inputs, outputs)
  model.tensors[6].geometry = {24, 10, 3, 30, 3};    // a convolution
  model.tensors[6].order = {10, 3};                  // in channels_last
  model.tensors[7].order = {30, 90};                 // transposed
  if (dead > 0) model.set_masks(dead, seed);
  Generator random(seed);
  for (Tensor& tensor : model.tensors) {
    if (tensor.numel == 0) continue;
    for (int n = 0; n < 3; ++n) {
      std::int64_t index = random.below(tensor.numel);
      const Geometry& g = tensor.geometry;
      if (behind_alone) {  // of the last inputs that 4 does not hold
        if (g.inputs % 4 == 0) continue;
        const std::int64_t input = index / g.input_stride % g.inputs;
        index += (g.inputs - 1 - input) * g.input_stride;
      }
      tensor.weight.set(static_cast<std::size_t>(tensor.order.memory_of(index)), not_a_number);
    }
  }
  return model;
}

// 1: the CPU raises.
int expect_same_error(const Model& model, const Budget& budget, PruneOptions options, std::uint64_t seed) {
  const std::vector<ScoreInputs> inputs = model.inputs();
  const FreshMasks wanted(inputs), masks(inputs);
  ReferenceEngine reference;
  Workspace workspace;
  std::int64_t nan = 0, first = 0;
  try {
    flow::make_masks(reference, inputs, Magnitude{}, budget, options, wanted.table(), workspace);
  } catch (const NonFiniteScoreError& error) {
    nan = error.count();
    for (std::size_t t = 0; inputs[t].name != error.parameter(); ++t) first += inputs[t].numel;
    first += error.first_index();
  }
  cuda::StepOptions on_device{.ties = options.ties, .scope = options.scope, .remainder = options.remainder};
  on_device.selector = options.selector;
  EmulatedCuda engine(seed, 1 + static_cast<unsigned>(seed % 3));
  const cuda::StepReport report = engine.step(
      inputs, Magnitude{}, cuda::step_budget(budget, options.scope, model.numel()), on_device, masks.table());
  EXPECT_EQ(report.nan, nan);
  EXPECT_EQ(report.first_nan, first);
  EXPECT_EQ((report.status & cuda::status::failed) != 0, nan > 0);
  return nan > 0;
}

TEST(CudaNaN, StepsSayWhatTheErrorSays) {
  std::uint64_t seed = 0;
  int raised = 0, all = 0;
  for (const char* text : {"global", "tensor", "row", "2:4", "4:4", "5:7", "40:80"})
    for_each_selector([&](const auto& selector) {
      const Scope scope = parse_scope(text);
      if (scope.in_groups() && std::string(selector.name) != "exact") return;
      for (const double dead : {0.0, 0.3})
        for (const bool behind_alone : {false, true}) {
          SCOPED_TRACE(std::string(text) + ", " + std::string(selector.name) + ", dead " + std::to_string(dead) +
                       (behind_alone ? ", behind whole groups" : ""));
          const Budget budget = scope.of > 0 ? Budget{} : Budget{.sparsity = 0.45};
          PruneOptions options{.selector = selector, .scope = scope, .remainder = Remainder::keep};
          ++seed;
          ++all;
          raised += expect_same_error(spoiled(seed, dead, behind_alone), budget, options, seed);
        }
    });
  EXPECT_GT(raised, 40);
  EXPECT_LT(raised, all);
}

}  // namespace
}  // namespace bittersweet::test
