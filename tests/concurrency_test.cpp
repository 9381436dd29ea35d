// Two callers at once, each with its own workspace and masks, over weights that they share or own. Meant for the thread
// sanitizer; without it the results must still be those of one caller alone.
#include <array>
#include <thread>

#include "bittersweet/prune.hpp"
#include "support/compare.hpp"
#include "support/inputs.hpp"

namespace bittersweet::test {
namespace {

constexpr int callers = 2, rounds = 4;

struct Outcome {
  Bits masks;
  std::optional<float> value;
  std::int64_t pruned = 0;
};

Outcome mask_shared(const Model& model, int round, Workspace& workspace) {
  const Selector selectors[] = {Exact{}, Histogram{}, Streaming{}, Sampling{}};
  const auto inputs = model.inputs();
  FreshMasks masks(inputs);
  const PruneReport report = make_masks(inputs, Bitter7{}, {.sparsity = 0.2 + 0.1 * round},
                                        {.selector = selectors[round % 4], .seed = 3}, masks.table(), workspace);
  return {masks.bits(), report.value, report.pruned};
}

void expect_same(const Outcome& expected, const Outcome& found) {
  EXPECT_TRUE(same_masks(expected.masks, found.masks));
  EXPECT_EQ(expected.value, found.value);
  EXPECT_EQ(expected.pruned, found.pruned);
}

// First of all: the callers race for the choice of the instruction set, too.
TEST(Concurrency, CallersShareTheWeights) {
  const Model model = training_model({600000, 70, 30000}, {DType::f32, DType::bf16});
  std::array<std::array<Outcome, rounds>, callers> outcomes;
  {
    std::vector<std::jthread> threads;
    for (auto& mine : outcomes)
      threads.emplace_back([&] {
        Workspace workspace;
        for (int round = 0; round < rounds; ++round)
          mine[static_cast<std::size_t>(round)] = mask_shared(model, round, workspace);
      });
    threads.emplace_back([] {  // the limit may change under them
      for (int i = 0; i < 20; ++i) set_num_threads(1 + i % 4);
      set_num_threads(0);
    });
  }
  Workspace workspace;
  for (int round = 0; round < rounds; ++round)
    for (const auto& mine : outcomes)
      expect_same(mask_shared(model, round, workspace), mine[static_cast<std::size_t>(round)]);
}

TEST(Concurrency, CallersPruneTheirOwn) {
  const Model original = training_model({530000, 1000}, {DType::f32});
  std::array<Model, callers> models{original, original};
  std::array<Outcome, callers> outcomes;
  const auto prune_all = [](const Model& model) {
    const auto inputs = model.inputs();
    Workspace workspace;
    Outcome outcome;
    for (const double sparsity : {0.3, 0.6}) {
      FreshMasks masks(inputs);
      const PruneReport report = prune(inputs, Bitter3{}, {.sparsity = sparsity}, {}, masks.table(), workspace,
                                       roles::weight | roles::exp_avg);
      EXPECT_EQ(count_violations(inputs, masks.read_only(), roles::weight), (std::vector<std::int64_t>{0, 0}));
      outcome = {masks.bits(), report.value, report.pruned};
    }
    return outcome;
  };
  set_num_threads(3);
  {
    std::vector<std::jthread> threads;
    for (std::size_t i = 0; i < callers; ++i) threads.emplace_back([&, i] { outcomes[i] = prune_all(models[i]); });
  }
  set_num_threads(0);
  const Model alone = original;
  const Outcome expected = prune_all(alone);
  for (std::size_t i = 0; i < callers; ++i) {
    expect_same(expected, outcomes[i]);
    EXPECT_EQ(models[i].bytes(), alone.bytes());
  }
}

}  // namespace
}  // namespace bittersweet::test
