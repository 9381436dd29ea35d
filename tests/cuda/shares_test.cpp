// What each tensor gives, computed by one block of threads: the very numbers of the host.
#include "cuda/shares.cuh"

#include "bittersweet/scope.hpp"
#include "cuda/plan.hpp"
#include "support/compare.hpp"
#include "support/inputs.hpp"

namespace bittersweet::test {
namespace {

using Counts = std::vector<std::int64_t>;

struct Layers {
  std::vector<ScoreInputs> tensors;
  std::vector<cuda::Row> rows;
  Counts dead;
  std::int64_t total = 0;

  void add(std::int64_t row_count, std::int64_t columns, std::int64_t dead_of_them) {
    tensors.push_back({.numel = row_count * columns, .geometry = matrix(row_count, columns)});
    cuda::Row row{};
    row.numel = row_count * columns;
    row.dimensions = dimensions_of(tensors.back());
    rows.push_back(row);
    dead.push_back(dead_of_them);
    total += row_count * columns;
  }
};

Counts on_device(const Layers& layers, const cuda::StepBudget& budget, Distribution distribution, double most,
                 std::uint64_t seed) {
  Counts found(layers.tensors.size(), -1);
  simt::Launcher launcher(seed);
  cuda::shares(launcher, {layers.rows.data(), static_cast<cuda::u32>(layers.rows.size()), layers.dead.data(), &budget,
                          layers.total, most, distribution, found.data()});
  return found;
}

TEST(CudaShares, AreThoseOfTheHost) {
  Generator random(5);
  for (std::uint64_t round = 0; round < 60; ++round) {
    Layers layers;
    const std::int64_t count = round % 20 == 7 ? 300 + random.below(700) : random.below(40);
    for (std::int64_t t = 0; t < count; ++t) {
      const std::int64_t row_count = 1 + random.below(3000), columns = random.below(20) ? 1 + random.below(900) : 0;
      layers.add(row_count, columns, random.below(3) ? 0 : random.below(row_count * columns + 1));
    }
    const double sparsity = random.below(6) ? random.uniform() : static_cast<double>(random.below(2));
    const std::int64_t k = resolve({.sparsity = sparsity}, layers.total);
    const double most = round % 3 ? 1.0 : 0.5;
    for (const Distribution distribution : {Distribution::uniform, Distribution::erk, Distribution::layer_adaptive}) {
      SCOPED_TRACE("round " + std::to_string(round) + ", " + std::to_string(count) + " tensors");
      EXPECT_EQ(on_device(layers, {k, sparsity}, distribution, most, round),
                allocate(layers.tensors, layers.dead, distribution, k, layers.total, sparsity, most));
      EXPECT_EQ(on_device(layers, {k}, distribution, most, round),
                allocate(layers.tensors, layers.dead, distribution, k, layers.total, {}, most));
    }
  }
}

// Equal remainders by the hundred, more than one each, and budgets that cannot be met: whatever the order of threads.
TEST(CudaShares, TiesAndLimits) {
  Layers equal;
  for (int t = 0; t < 700; ++t) equal.add(3, 1, t % 5 == 0 ? 2 : 0);
  for (const std::int64_t k : {0, 1, 350, 699, 700, 1050, 2099, 2100})
    for (const Distribution distribution : {Distribution::erk, Distribution::layer_adaptive})
      for (const double most : {1.0, 0.4})
        for (std::uint64_t seed = 1; seed < 4; ++seed)
          EXPECT_EQ(on_device(equal, {k}, distribution, most, seed),
                    allocate(equal.tensors, equal.dead, distribution, k, equal.total, {}, most))
              << k << " at most " << most;
}

TEST(CudaShares, DeadElementsByMask) {
  Model model = training_model({5000, 1, 0, 64, 1024, 4097}, {DType::f32});
  model.set_masks(0.4, 3);
  model.tensors[4].mask = {};
  const std::vector<ScoreInputs> inputs = model.inputs();
  std::vector<cuda::Row> rows;
  std::vector<cuda::Piece> pieces;
  cuda::u32 tiles = 0;
  const ScoreView view = make_view(inputs, Magnitude{});
  Counts wanted;
  for (std::size_t t = 0; t < inputs.size(); ++t) {
    rows.push_back(cuda::make_row(view, t, 0));
    if (inputs[t].numel > 0) pieces.push_back({tiles, static_cast<cuda::u32>(t), 0});
    tiles += cuda::tiles_of(inputs[t].numel);
    wanted.push_back(0);
    for (std::int64_t i = 0; i < inputs[t].numel; ++i) wanted.back() += !is_live(inputs[t], i);
  }
  Counts found(inputs.size(), -1);
  simt::Launcher launcher(3);
  cuda::count_dead(launcher, {rows.data(), pieces.data(), static_cast<cuda::u32>(pieces.size()), tiles},
                   static_cast<cuda::u32>(rows.size()), found.data());
  EXPECT_EQ(found, wanted);
  EXPECT_GT(wanted[0], 0);
}

}  // namespace
}  // namespace bittersweet::test
