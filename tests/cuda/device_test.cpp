// The functions of cuda.hpp on the devices of this machine against the CPU library: masks, weights, states and reports,
// bit for bit. Every test is skipped, with the reason, where there is no usable device.
#include "bittersweet/prune.hpp"
#include "cuda/device_model.hpp"
#include "support/orders.hpp"

namespace bittersweet::test {
namespace {

constexpr std::uint32_t everything = roles::weight | roles::exp_avg | roles::exp_avg_sq | roles::max_exp_avg_sq;
const std::vector<std::int64_t> sizes{1, 31, 0, 33, 1023, 1024, 1025, 70001};

class Step {
 public:
  Step(const cuda::Queue& queue, const DeviceModel& model, const Scorer& scorer, const cuda::StepOptions& options)
      : queue_(queue),
        model_(model),
        scorer_(scorer),
        options_(options),
        workspace_(cuda::step_workspace_bytes(model.inputs(), scorer, options, true)),
        budget_(sizeof(cuda::StepBudget)),
        report_(sizeof(cuda::StepReport)),
        pruned_(sizeof(std::int64_t) * model.inputs().size()) {}

  void enqueue() const {
    cuda::step(queue_, model_.inputs(), scorer_, budget_.as<cuda::StepBudget>(), options_, model_.table(),
               pruned_.as<std::int64_t>(), workspace_.as<void>(),
               cuda::step_workspace_bytes(model_.inputs(), scorer_, options_, true), report_.as<cuda::StepReport>());
  }
  void budget(std::int64_t k) const { cuda::write_budget(queue_, budget_.as<cuda::StepBudget>(), {.k = k}); }
  cuda::StepReport report() const {
    check(cudaStreamSynchronize(static_cast<cudaStream_t>(queue_.stream)));
    return report_.read<cuda::StepReport>().front();
  }
  std::vector<std::int64_t> tensor_pruned() const { return pruned_.read<std::int64_t>(); }

 private:
  cuda::Queue queue_;
  const DeviceModel& model_;
  Scorer scorer_;
  cuda::StepOptions options_;
  Memory workspace_, budget_, report_, pruned_;
};

class Device : public DeviceTest {
 protected:
  // Masks, zeros and counts of a step with bounds; rounds may report another threshold between the same masks.
  void compare_masks(const Model& model, const Scorer& scorer, std::int64_t k, const cuda::StepOptions& options) {
    const DeviceModel there(model, true);
    const Step step(queue_, there, scorer, options);
    step.budget(k);
    step.enqueue();
    const cuda::StepReport found = step.report();
    const Model here = model;
    const auto inputs = here.inputs();
    FreshMasks masks(inputs);
    Workspace workspace;
    const PruneReport expected =
        prune(inputs, scorer, {.k = k}, cuda::prune_options(options), masks.table(), workspace, options.zero);
    ASSERT_EQ(found.status & cuda::status::failed, 0u);
    EXPECT_EQ(found.pruned, expected.pruned);
    EXPECT_EQ(found.churn, expected.churn);
    EXPECT_EQ(step.tensor_pruned(), expected.tensor_pruned);
    ASSERT_TRUE(same_masks(masks.bits(), there.read_masks()));
    EXPECT_EQ(there.bytes(), here.bytes());
  }

  // One step on the device against prune() of the CPU library on a copy of the model.
  void compare(const Model& model, const Scorer& scorer, std::int64_t k, cuda::StepOptions options, bool aligned) {
    SCOPED_TRACE(std::string(info_of(scorer).name) + (aligned ? "" : ", misaligned"));
    const DeviceModel there(model, aligned);
    const Step step(queue_, there, scorer, options);
    step.budget(k);
    step.enqueue();
    const cuda::StepReport found = step.report();

    const Model here = model;
    const auto inputs = here.inputs();
    FreshMasks masks(inputs);
    Workspace workspace;
    const PruneOptions same = cuda::prune_options(options);
    const PruneReport expected = prune(inputs, scorer, {.k = k}, same, masks.table(), workspace, options.zero);

    ASSERT_EQ(found.status & cuda::status::failed, 0u);
    const float value = expected.value.value_or(not_a_number);
    EXPECT_TRUE(same_bits(found.value, value)) << show(found.value) << " for " << show(value);
    EXPECT_EQ(found.k, expected.k);
    EXPECT_EQ(found.total, expected.total);
    EXPECT_EQ(found.dead, expected.dead);
    EXPECT_EQ(found.below, expected.count_below);
    EXPECT_EQ(found.equal, expected.count_equal);
    EXPECT_EQ(found.pruned, expected.pruned);
    EXPECT_EQ(found.churn, expected.churn);
    EXPECT_EQ(found.empty_rows, expected.empty_rows);
    EXPECT_EQ(found.nan, expected.nonfinite);
    EXPECT_EQ(step.tensor_pruned(), expected.tensor_pruned);
    ASSERT_TRUE(same_masks(masks.bits(), there.read_masks()));
    EXPECT_EQ(there.bytes(), here.bytes());
  }
};

bool is_approximate_here(const Scorer& scorer) { return info_of(scorer).name == "bitter8"; }

TEST_F(Device, OrdersOfMemory) {
  for (const char* name : {"half_normal", "three_values", "half_zeros"})
    for (const bool masked : {false, true}) {
      Model model =
          ordered(model_of({values_named(name, 70000, 1), values_named(name, 600, 2), values_named(name, 1 << 20, 3)}));
      if (masked) model.set_masks(0.2, 4);
      for (const double sparsity : {0.3, 0.5, 0.8}) {
        SCOPED_TRACE(std::string(name) + (masked ? ", masked, " : ", ") + std::to_string(sparsity));
        const auto k = static_cast<std::int64_t>(sparsity * static_cast<double>(model.numel()));
        compare(model, Magnitude{}, k, {.zero = roles::weight}, true);
        compare(model, Magnitude{}, k, {.zero = roles::weight}, false);
        compare_masks(model, Magnitude{}, k, {.zero = roles::weight, .scope = {.kind = Scope::tensor}});
        compare(model, Magnitude{}, k, {.selector = Histogram{}}, true);
      }
    }
}

TEST_F(Device, EveryScorerAndDtype) {
  const std::vector<std::vector<DType>> dtypes{{DType::f32},
                                               {DType::bf16},
                                               {DType::f16},
                                               {DType::bf16, DType::f32, DType::f32},
                                               {DType::f16, DType::bf16, DType::f32}};
  for (const Scorer& scorer : all_scorers())
    for (const auto& types : dtypes)
      for (const bool aligned : {true, false}) {
        if (is_approximate_here(scorer)) continue;
        const Model model = training_model(sizes, types, 7);
        compare(model, scorer, model.numel() / 2, {.zero = everything}, aligned);
      }
}

TEST_F(Device, NamedValuesAtEveryRank) {
  for (const NamedValues& named : named_values()) {
    SCOPED_TRACE(named.name);
    const Model model = model_of({named.make(1025, 1), named.make(131149, 2), named.make(33, 3)});
    const std::int64_t n = model.numel();
    for (const std::int64_t k : {std::int64_t{0}, std::int64_t{1}, n / 10, n / 2, n - 1, n})
      for (const Ties ties : {Ties::exact, Ties::at_or_below, Ties::below})
        compare(model, Identity{}, k, {.ties = ties, .zero = roles::weight}, true);
  }
}

TEST_F(Device, CurrentMasksAndRegrow) {
  for (const double dead : {0.5, 0.9, 1.0})
    for (const bool regrow : {false, true}) {
      Model model = training_model(sizes, {DType::f32}, 3);
      model.tensors.back().geometry = matrix(70001, 1);
      model.set_masks(dead, 5);
      for (const std::int64_t k : {model.numel() / 4, 19 * model.numel() / 20})
        compare(model, Bitter7{}, k, {.regrow = regrow, .zero = everything}, true);
    }
}

TEST_F(Device, ScopeTensor) {
  for (const std::optional<Distribution>& distribution :
       {std::optional<Distribution>{}, {Distribution::erk}, {Distribution::layer_adaptive}})
    for (const double dead : {0.0, 0.5})
      for (const Scorer& scorer : {Scorer(Bitter7{}), Scorer(Magnitude{}), Scorer(Bitter9Hybrid{})})
        for (const Ties ties : {Ties::exact, Ties::at_or_below}) {
          Model model = training_model({1, 31, 0, 1025, 70001, 300007}, {DType::f32}, 3);
          if (dead > 0) model.set_masks(dead, 5);
          for (const std::int64_t k : {model.numel() / 3, 4 * model.numel() / 5})
            compare(model, scorer, k,
                    {.ties = ties, .zero = everything, .scope = {Scope::tensor}, .distribution = distribution}, true);
        }
}

TEST_F(Device, ScopeTensorByTheOtherSelectors) {
  Model model = training_model({1, 31, 0, 1025, 70001, 300007}, {DType::f32}, 3);
  for (const double dead : {0.0, 0.5}) {
    if (dead > 0) model.set_masks(dead, 5);
    for (const Selector& selector : {Selector(Histogram{}), Selector(KthValue{}), Selector(Streaming{}),
                                     Selector(Sampling{}), Selector(Sampling{.by = Sampling::By::element})})
      compare(model, Bitter7{}, 3 * model.numel() / 4,
              {.zero = everything, .selector = selector, .scope = {Scope::tensor}, .distribution = Distribution::erk},
              true);
  }
}

TEST_F(Device, BoundsOfTensors) {
  Model model = training_model({40000, 31, 0, 70001, 9000}, {DType::f32}, 3);
  for (std::size_t i = 0; i < 9000; ++i) model.tensors[4].weight.set(i, model.tensors[4].weight[i] * 0.01f);
  const std::vector<CountRange> ranges{{30000, 40000}, {0, 31}, {0, 0}, {0, 70001}, {0, 4000}};
  for (const std::int64_t k : {model.numel() / 2, 2 * model.numel() / 3}) {
    compare_masks(model, Bitter7{}, k, {.zero = everything, .max_tensor_sparsity = 0.7});
    compare_masks(model, Bitter7{}, k, {.zero = everything, .tensor_sparsity = ranges});
    compare_masks(model, Bitter7{}, k, {.zero = everything, .max_tensor_sparsity = 1.0});
    compare_masks(model, Bitter7{}, k, {.zero = everything, .selector = KthValue{}, .tensor_sparsity = ranges});
    for (const Selector& selector : {Selector(Exact{}), Selector(Streaming{}), Selector(Sampling{})})
      for (const Ties ties : {Ties::at_or_below, Ties::below})
        compare_masks(model, Bitter7{}, k,
                      {.ties = ties, .zero = everything, .selector = selector, .max_tensor_sparsity = 0.7});
  }
}

TEST_F(Device, NanIsKeptOnRequest) {
  Model model = training_model(sizes, {DType::f32}, 3);
  for (const std::size_t i : {0u, 77u, 70000u}) model.tensors.back().weight.set(i, not_a_number);
  compare(model, Magnitude{}, model.numel() / 2, {.nonfinite = NonFinite::keep, .zero = everything}, true);
  compare(model, Magnitude{}, model.numel(), {.nonfinite = NonFinite::keep, .zero = everything}, true);
}

TEST_F(Device, AVoidStepWritesNothing) {
  Model model = training_model(sizes, {DType::f32}, 3);
  model.tensors[4].weight.set(1000, not_a_number);
  model.tensors[7].weight.set(5, not_a_number);
  const DeviceModel there(model, true);
  const Step step(queue_, there, Magnitude{}, {.zero = everything});
  step.budget(model.numel() / 2);
  step.enqueue();
  cuda::StepReport found = step.report();
  EXPECT_EQ(found.status & (cuda::status::nan | cuda::status::failed), cuda::status::nan | cuda::status::failed);
  EXPECT_EQ(found.nan, 2);
  EXPECT_EQ(found.first_nan, 1 + 31 + 33 + 1000);
  EXPECT_EQ(there.bytes(), model.bytes());
  step.budget(model.numel() + 1);
  step.enqueue();
  found = step.report();
  EXPECT_NE(found.status & cuda::status::bad_k, 0u);
  EXPECT_EQ(there.bytes(), model.bytes());

  const Memory gate(&found.status, sizeof found.status);  // what a void step leaves stops what follows
  cuda::apply_masks(queue_, there.inputs(), there.bits(), everything, gate.as<std::uint32_t>());
  check(cudaStreamSynchronize(stream()));
  EXPECT_EQ(there.bytes(), model.bytes());
}

TEST_F(Device, ScoresCountsAndViolations) {
  Model model = training_model(sizes, {DType::f32, DType::bf16}, 9);
  const DeviceModel there(model, true);
  std::vector<Memory> scores;
  std::vector<float*> out;
  for (const Tensor& tensor : model.tensors) {
    scores.emplace_back(sizeof(float) * static_cast<std::size_t>(tensor.numel));
    out.push_back(scores.back().as<float>());
  }
  cuda::write_scores(queue_, there.inputs(), Bitter0{}, out);
  check(cudaStreamSynchronize(stream()));
  std::vector<Values> expected;
  std::vector<float*> here;
  for (const Tensor& tensor : model.tensors) {
    expected.emplace_back(static_cast<std::size_t>(tensor.numel));
    here.push_back(expected.back().data());
  }
  write_scores(model.inputs(), Bitter0{}, here);
  for (std::size_t t = 0; t < scores.size(); ++t) ASSERT_TRUE(same_floats(expected[t], scores[t].read<float>()));

  const Step step(queue_, there, Bitter0{}, {});
  step.budget(model.numel() / 3);
  step.enqueue();
  const Memory live(8 * model.tensors.size()), bad(8 * model.tensors.size());
  cuda::count_live(queue_, there.inputs(), there.bits(), live.as<std::int64_t>());
  cuda::count_violations(queue_, there.inputs(), there.bits(), everything, bad.as<std::int64_t>());
  step.report();
  const std::vector<std::int64_t> pruned = step.tensor_pruned(), alive = live.read<std::int64_t>();
  const Bits words = there.read_masks();
  const std::vector<const std::uint64_t*> masks = [&] {
    std::vector<const std::uint64_t*> pointers;
    for (const auto& tensor : words) pointers.push_back(tensor.data());
    return pointers;
  }();
  for (std::size_t t = 0; t < pruned.size(); ++t) EXPECT_EQ(alive[t], model.tensors[t].numel - pruned[t]);
  EXPECT_EQ(bad.read<std::int64_t>(), count_violations(model.inputs(), masks, everything));
}

TEST_F(Device, CapturedOnceReplayedWithOtherBudgets) {
  const Model model = training_model(sizes, {DType::f32}, 11);
  const DeviceModel there(model, true);
  const Step step(queue_, there, Bitter7{}, {});
  step.budget(1);
  step.enqueue();
  step.report();
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t captured = nullptr;
  check(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeGlobal));
  step.enqueue();
  check(cudaStreamEndCapture(stream(), &graph));
  check(cudaGraphInstantiate(&captured, graph, 0));
  for (std::int64_t tenth = 0; tenth <= 10; ++tenth) {
    step.budget(tenth * model.numel() / 10);
    check(cudaGraphLaunch(captured, stream()));
    const cuda::StepReport replayed = step.report();
    const Bits masks = there.read_masks();
    step.enqueue();
    const cuda::StepReport eager = step.report();
    EXPECT_EQ(replayed.pruned, tenth * model.numel() / 10);
    EXPECT_TRUE(same_bits(replayed.value, eager.value));
    ASSERT_TRUE(same_masks(there.read_masks(), masks));
  }
  check(cudaGraphExecDestroy(captured));
  check(cudaGraphDestroy(graph));
}

TEST_F(Device, SelfTestOfEveryUsableDevice) {
  for (const cuda::DeviceVerdict& device : cuda::devices()) {
    if (!device.usable) continue;
    EXPECT_EQ(cuda::self_test(device.index), "") << device.name;
  }
}

TEST_F(Device, BadArgumentsAreRefusedBeforeAnythingRuns) {
  const Model model = training_model(sizes, {DType::f32}, 1);
  const DeviceModel there(model, true);
  const Memory words(1024);
  const auto enqueue = [&](std::span<const ScoreInputs> inputs, std::size_t bytes) {
    const Memory workspace(bytes);
    cuda::step(queue_, inputs, Bitter7{}, words.as<cuda::StepBudget>(), {}, there.table(), nullptr,
               workspace.as<void>(), bytes, words.as<cuda::StepReport>());
  };
  const std::size_t enough = cuda::step_workspace_bytes(there.inputs(), Bitter7{}, {}, true);
  EXPECT_THROW(enqueue(there.inputs(), enough - 1), ArgumentError);
  std::vector<ScoreInputs> lacking(there.inputs().begin(), there.inputs().end());
  lacking[4].exp_avg_sq = {};
  EXPECT_THROW(enqueue(lacking, enough), MissingStateError);
  check(cudaStreamSynchronize(stream()));
  EXPECT_EQ(words.read<unsigned char>(), std::vector<unsigned char>(1024, 0xa5));
}

}  // namespace
}  // namespace bittersweet::test
