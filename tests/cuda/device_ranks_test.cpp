// Decisions of several ranks on the devices of this machine, whose vectors the test adds: masks, thresholds and counts
// are those of the CPU library on the whole model. Every test is skipped, with the reason, where there is no usable
// device.
#include "bittersweet/cuda_sharded.hpp"
#include "cuda/device_model.hpp"
#include "support/worlds.hpp"

namespace bittersweet::test {
namespace {

class DeviceRanks : public DeviceTest {
 protected:
  // All ranks in the memory of one device.
  void compare(const World& world, const Scorer& scorer, const Budget& budget, const PruneOptions& options) {
    const std::vector<ScoreInputs> inputs = world.whole_inputs();
    const FreshMasks masks(inputs);
    Workspace memory;
    const PruneReport expected = make_masks(inputs, scorer, budget, options, masks.table(), memory);

    const std::size_t ranks = world.local.size();
    std::vector<std::unique_ptr<DeviceModel>> there;
    std::vector<Memory> workspaces;
    std::vector<Workspace> hosts(ranks);
    std::vector<ShardedPrune> runs;
    Result found;
    for (std::size_t r = 0; r < ranks; ++r) {
      found.inputs.push_back(world.local[r].inputs());
      there.push_back(std::make_unique<DeviceModel>(world.local[r], r % 2 == 0));
      const DeviceModel& model = *there.back();
      workspaces.emplace_back(cuda::sharded_workspace_bytes(model.inputs()));
      runs.push_back(cuda::sharded_prune(queue_, *world.map, static_cast<std::int64_t>(r), model.inputs(), world.of[r],
                                         world.names, scorer, budget, options, "", model.table(),
                                         workspaces.back().as<void>(), cuda::sharded_workspace_bytes(model.inputs()),
                                         hosts[r]));
    }
    for (int round = 0;; ++round) {
      ASSERT_LT(round, 40);
      std::vector<std::span<std::int32_t>> vectors;
      for (ShardedPrune& run : runs) vectors.push_back(run.next());
      if (vectors[0].empty()) break;
      std::vector<std::int32_t> sum(vectors[0].size());
      for (const auto& vector : vectors)
        for (std::size_t i = 0; i < sum.size(); ++i)
          sum[i] =
              static_cast<std::int32_t>(static_cast<std::uint32_t>(sum[i]) + static_cast<std::uint32_t>(vector[i]));
      for (const auto& vector : vectors) std::copy(sum.begin(), sum.end(), vector.begin());
    }
    for (std::size_t r = 0; r < ranks; ++r) {
      expect_same_report(expected, runs[r].report());
      const Bits bits = there[r]->read_masks();
      found.masks.push_back(std::make_unique<FreshMasks>(found.inputs[r]));
      for (std::size_t t = 0; t < bits.size(); ++t)
        std::copy(bits[t].begin(), bits[t].end(), found.masks.back()->table()[t]);
    }
    EXPECT_TRUE(same_masks(masks.bits(), gather_masks(world, found)));
  }
};

const Cut& cut_named(std::string_view name) {
  return *std::ranges::find_if(cuts(), [&](const Cut& cut) { return cut.name == name; });
}

TEST_F(DeviceRanks, EveryCutAndKindOfRound) {
  for (const char* const kind : {"half_normal", "three_values", "any_number", "mostly_zeros"})
    for (const Cut& cut : cuts())
      for (const DType dtype : {DType::f32, DType::bf16}) {
        SCOPED_TRACE(std::string(kind) + ", " + cut.name + ", " + name_of(dtype));
        const World world = large_world(kind, cut, 4, dtype, 0.3);
        for (const double sparsity : {0.2, 0.7})
          compare(world, Identity{}, {.sparsity = sparsity}, {.nonfinite = NonFinite::keep});
      }
  for (const Try& t : tries()) {
    SCOPED_TRACE(t.name);
    if (!t.settings.threshold_only) compare(t.world, Bitter7{.eps = 1e-9f}, {.sparsity = 0.5}, t.options);
  }
}

TEST_F(DeviceRanks, RowsAndGroups) {
  const std::vector<Shape> shapes{{64, 256}, {33, 520}, {16, 4096}, {9, 8, 3}};
  for (const char* const name : {"shard0", "hsdp", "one_holder"})
    for (const Scope scope : {Scope{Scope::row}, Scope{Scope::n_of_m, 2, 4}}) {
      SCOPED_TRACE(std::string(name) + ", scope " + std::to_string(scope.kind));
      std::vector<Values> values;
      for (const Shape& shape : shapes) values.push_back(values_of("three_values", numel_of(shape), values.size()));
      const World world = cut_model(model_of(values), shapes, cut_named(name), 4);
      compare(world, Magnitude{}, {.sparsity = 0.5}, {.scope = scope});
    }
}

// Several chunks on a rank, ties in each of them, an end of the cut in the second; and a tensor in another order.
TEST_F(DeviceRanks, ManyTies) {
  Values values(300000, 1.0f);
  for (std::size_t i = 0; i < values.size(); i += 2) values[i] = 0.25f;
  for (const bool turned : {false, true})
    for (const char* const name : {"shard0", "replicas"}) {
      const World world = cut_model(model_of({values}), {{30, 10000}}, cut_named(name), 2, turned);
      for (const std::int64_t k : {1, 40000, 149999, 150001}) compare(world, Magnitude{}, {.k = k}, {});
    }
}

}  // namespace
}  // namespace bittersweet::test
