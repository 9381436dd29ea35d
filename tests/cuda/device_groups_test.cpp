// Rows and N:M groups of cuda.hpp on the devices of this machine against the CPU library: masks, weights, states and
// reports, bit for bit. Every test is skipped, with the reason, where there is no usable device.
#include "bittersweet/prune.hpp"
#include "cuda/device_model.hpp"
#include "support/orders.hpp"

namespace bittersweet::test {
namespace {

class DeviceGroups : public DeviceTest {
 protected:
  void compare(const Model& model, const Scorer& scorer, const Budget& budget, cuda::StepOptions options,
               bool aligned = true) {
    const DeviceModel there(model, aligned);
    const std::size_t bytes = cuda::step_workspace_bytes(there.inputs(), scorer, options, true);
    const Memory workspace(bytes), given(sizeof(cuda::StepBudget)), report(sizeof(cuda::StepReport)),
        counts(sizeof(std::int64_t) * model.tensors.size());
    cuda::write_budget(queue_, given.as<cuda::StepBudget>(), cuda::step_budget(budget, options.scope, model.numel()));
    cuda::step(queue_, there.inputs(), scorer, given.as<cuda::StepBudget>(), options, there.table(),
               counts.as<std::int64_t>(), workspace.as<void>(), bytes, report.as<cuda::StepReport>());
    check(cudaStreamSynchronize(stream()));
    const cuda::StepReport found = report.read<cuda::StepReport>().front();

    const Model here = model;
    const auto inputs = here.inputs();
    FreshMasks masks(inputs);
    Workspace memory;
    const PruneReport expected =
        prune(inputs, scorer, budget, cuda::prune_options(options), masks.table(), memory, options.zero);
    ASSERT_EQ(found.status & cuda::status::failed, 0u);
    EXPECT_EQ(found.k, expected.k);
    EXPECT_EQ(found.dead, expected.dead);
    EXPECT_EQ(found.pruned, expected.pruned);
    EXPECT_EQ(found.churn, expected.churn);
    EXPECT_EQ(found.empty_rows, expected.empty_rows);
    EXPECT_EQ(found.nan, expected.nonfinite);
    EXPECT_EQ(counts.read<std::int64_t>(), expected.tensor_pruned);
    ASSERT_TRUE(same_masks(masks.bits(), there.read_masks()));
    EXPECT_EQ(there.bytes(), here.bytes());
  }
};

Model shaped(const std::vector<Geometry>& geometries, const std::vector<DType>& dtypes, std::uint64_t seed) {
  std::vector<std::int64_t> sizes;
  for (const Geometry& g : geometries) sizes.push_back(g.rows * g.row_size());
  Model model = training_model(sizes, dtypes, seed);
  for (std::size_t t = 0; t < geometries.size(); ++t) {
    model.tensors[t].geometry = geometries[t];
    model.tensors[t].input_norm = Array(half_normal(geometries[t].features(), t), DType::f32);
  }
  return model;
}

const std::vector<Geometry> rows{matrix(500, 2),    matrix(70, 48),      matrix(40, 65),     matrix(33, 512),
                                 matrix(9, 513),    matrix(17, 4096),    matrix(3, 28672),   matrix(2, 65536),
                                 matrix(1, 200003), {64, 32, 9, 288, 9}, {96, 300, 1, 1, 96}};

TEST_F(DeviceGroups, RowsOfEveryLengthAndStorage) {
  std::uint64_t seed = 0;
  for (const Scorer& scorer : {Scorer(Wanda{}), Scorer(Magnitude{}), Scorer(Bitter7{}), Scorer(Random{.seed = 3})})
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
      for (const bool aligned : {true, false})
        for (const double sparsity : {0.1, 0.5, 0.9}) {
          SCOPED_TRACE(std::string(info_of(scorer).name) + " of " + name_of(dtype) + (aligned ? "" : ", misaligned"));
          Model model = shaped(rows, {dtype}, ++seed);
          if (seed % 2) model.set_masks(0.3, seed);
          compare(model, scorer, {.sparsity = sparsity}, {.zero = roles::weight, .scope = {Scope::row}}, aligned);
        }
}

TEST_F(DeviceGroups, NamedValuesInRows) {
  for (const NamedValues& named : named_values())
    for (const double sparsity : {0.03, 0.5, 0.97}) {
      SCOPED_TRACE(named.name);
      Model model = model_of({named.make(40 * 4096, 1), named.make(100 * 160, 2), named.make(2 * 65536, 3)});
      model.tensors[0].geometry = matrix(40, 4096);
      model.tensors[1].geometry = matrix(100, 160);
      model.tensors[2].geometry = matrix(2, 65536);
      compare(model, Identity{}, {.sparsity = sparsity}, {.scope = {Scope::row}});
    }
}

TEST_F(DeviceGroups, EveryNofM) {
  std::uint64_t seed = 0;
  for (const auto& [keep, of] : std::vector<std::pair<std::int64_t, std::int64_t>>{
           {2, 4}, {4, 8}, {1, 2}, {1, 4}, {8, 16}, {3, 5}, {16, 32}, {30, 64}, {40, 80}})
    for (const DType dtype : {DType::f32, DType::bf16})
      for (const bool aligned : {true, false}) {
        SCOPED_TRACE(std::to_string(keep) + ":" + std::to_string(of) + " of " + name_of(dtype));
        Model model = shaped({matrix(128, 512), matrix(31, 1000), {64, 32, 9, 288, 9}}, {dtype}, ++seed);
        if (seed % 2) model.set_masks(0.2, seed);
        compare(model, seed % 3 ? Scorer(Magnitude{}) : Scorer(Wanda{}), {},
                {.zero = roles::weight, .scope = {Scope::n_of_m, keep, of}, .remainder = Remainder::keep}, aligned);
      }
}

TEST_F(DeviceGroups, OrdersOfMemoryAndDistributions) {
  const std::vector<std::pair<Geometry, MemoryOrder>> shapes{{{64, 32, 9, 288, 9}, {32, 9}},
                                                             {{64, 128, 9, 1152, 9}, {128, 9}},
                                                             {matrix(300, 500), {300, 500}},
                                                             {{66, 140, 1, 1, 66}, {140, 66}},
                                                             {{70, 12, 9, 108, 9}, {840, 9}}};
  std::vector<Geometry> geometries;
  for (const auto& [geometry, order] : shapes) geometries.push_back(geometry);
  Model model = shaped(geometries, {DType::f32}, 5);
  for (std::size_t t = 0; t < shapes.size(); ++t) model.tensors[t] = ordered(model.tensors[t], shapes[t].second);
  for (const Scorer& scorer : {Scorer(Wanda{}), Scorer(Magnitude{})})
    for (const Distribution distribution : {Distribution::uniform, Distribution::erk, Distribution::layer_adaptive}) {
      compare(model, scorer, {.sparsity = 0.5}, {.scope = {Scope::row}, .distribution = distribution});
      compare(model, scorer, {.sparsity = 0.4},
              {.scope = {Scope::n_of_m, 2, 4}, .distribution = distribution, .remainder = Remainder::keep});
    }
}

TEST_F(DeviceGroups, CapturedOnceReplayedWithOtherBudgets) {
  const Model model = shaped({matrix(64, 4096), matrix(64, 160)}, {DType::f32}, 11);
  const DeviceModel there(model, true);
  const cuda::StepOptions options{.scope = {Scope::row}};
  const std::size_t bytes = cuda::step_workspace_bytes(there.inputs(), Magnitude{}, options, true);
  const Memory workspace(bytes), given(sizeof(cuda::StepBudget)), report(sizeof(cuda::StepReport));
  const auto enqueue = [&] {
    cuda::step(queue_, there.inputs(), Magnitude{}, given.as<cuda::StepBudget>(), options, there.table(), nullptr,
               workspace.as<void>(), bytes, report.as<cuda::StepReport>());
  };
  const auto budget = [&](double sparsity) {
    cuda::write_budget(queue_, given.as<cuda::StepBudget>(),
                       cuda::step_budget({.sparsity = sparsity}, options.scope, model.numel()));
  };
  budget(0.5);
  enqueue();
  check(cudaStreamSynchronize(stream()));
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t captured = nullptr;
  check(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeGlobal));
  enqueue();
  check(cudaStreamEndCapture(stream(), &graph));
  check(cudaGraphInstantiate(&captured, graph, 0));
  for (const double sparsity : {0.0, 0.25, 0.5, 1.0}) {
    budget(sparsity);
    check(cudaGraphLaunch(captured, stream()));
    check(cudaStreamSynchronize(stream()));
    const Bits replayed = there.read_masks();
    EXPECT_EQ(report.read<cuda::StepReport>().front().pruned,
              static_cast<std::int64_t>(sparsity * static_cast<double>(model.numel())));
    enqueue();
    check(cudaStreamSynchronize(stream()));
    ASSERT_TRUE(same_masks(there.read_masks(), replayed));
  }
  check(cudaGraphExecDestroy(captured));
  check(cudaGraphDestroy(graph));
}

}  // namespace
}  // namespace bittersweet::test
