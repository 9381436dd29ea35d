// Ranks in one process, whose vectors the test adds: threshold, counts and every mask bit are those of the whole model
// in one place, however it is cut.
#include <cstdlib>

#include "support/engines.hpp"
#include "support/sharded_cases.hpp"

namespace bittersweet::test {
namespace {

class Sharded : public EngineTest {};
BITTERSWEET_FOR_EVERY(engines, Sharded);

// BITTERSWEET_SHARDED_CASES: how many seeded cases (2,000 if it is not set).
TEST(ShardedCases, AnyCaseIsAsTheWholeModel) {
  const char* const asked = std::getenv("BITTERSWEET_SHARDED_CASES");
  const std::uint64_t cases = asked ? std::strtoull(asked, nullptr, 10) : 2000;
  ReferenceEngine engine;
  for (std::uint64_t seed = 0; seed < cases; ++seed) {
    try_case(engine, seed, 400);
    ASSERT_FALSE(testing::Test::HasFailure()) << "at seed " << seed;
  }
}

// The same on every engine, with fewer cases.
TEST_P(Sharded, CasesAreAsTheWholeModel) {
  run([](auto& engine) {
    for (std::uint64_t seed = 100000; seed < 100060; ++seed) {
      try_case(engine, seed, 3000);
      ASSERT_FALSE(testing::Test::HasFailure()) << "at seed " << seed;
    }
  });
}

TEST_P(Sharded, SampledBracketsOfEveryKindOfValues) {
  run([](auto& engine) {
    std::size_t turn = 0;
    for (const char* const kind : kinds) {
      const Cut& cut = cuts()[turn++ % cuts().size()];
      SCOPED_TRACE(std::string(kind) + ", " + cut.name);
      const World world = large_world(kind, cut, 1 + static_cast<std::int64_t>(turn % 4), DType::f32, turn % 3 * 0.3);
      const Result result =
          expect_as_whole(engine, world, Identity{}, {.sparsity = turn % 2 ? 0.5 : 0.9}, {.seed = turn});
      EXPECT_LE(result.ranks[0].rounds, 8);
      if (testing::Test::HasFailure()) return;
    }
  });
}

TEST_P(Sharded, StatisticsOfSecondMoments) {
  run([](auto& engine) {
    for (const Cut& cut : cuts()) {
      SCOPED_TRACE(cut.name);
      const World world = large_world("half_normal", cut, 4, DType::f32, 0.3);
      ASSERT_GT(world.whole.numel(), flow::second_moment_lines * LineSample::width);
      const Result result = expect_as_whole(engine, world, Bitter7{.eps = 1e-9f}, {.sparsity = 0.5}, {});
      EXPECT_GT(*result.ranks[0].report.v_below_eps, 0.0);
    }
  });
}

// A bracket that misses and candidates that overflow cost the radix search, never the answer.
TEST_P(Sharded, MissedBracketsAndOverflows) {
  run([](auto& engine) {
    const World world = large_world("half_normal", cuts()[2], 4);
    for (const Exact& exact : {Exact{.guess = Bracket{1.0f, 2.0f}}, Exact{.guess = Bracket{0.0f, 1e-6f}},
                               Exact{.guess = Bracket{0.005f, 0.03f}, .capacity = 3}})
      for (const Ties ties : {Ties::exact, Ties::at_or_below, Ties::below})
        for (const std::size_t bins : {std::size_t{64}, std::size_t{1} << 17}) {
          const Result result = expect_as_whole(engine, world, Magnitude{}, {.sparsity = 0.5},
                                                {.selector = exact, .ties = ties}, {.bins = bins});
          EXPECT_GE(result.ranks[0].report.passes, 3.0);
          EXPECT_LE(result.ranks[0].rounds, bins == 64 ? 12 : 7);
        }
  });
}

// ---- where the cut falls ----

// All scores are equal, so every rank cuts the sequence at another element: at borders of parts and of runs, and one
// to either side of them.
TEST_P(Sharded, TheCutMayFallAnywhere) {
  run([](auto& engine) {
    for (const Cut& cut : cuts())
      for (const std::int64_t ranks : {1, 3, 4}) {
        SCOPED_TRACE(cut.name + " over " + std::to_string(ranks));
        const std::vector<Shape> shapes{{3, 4}, {1, 7}, {5, 2, 3}, {0}, {6}};
        std::vector<Values> values;
        for (const Shape& shape : shapes) values.emplace_back(static_cast<std::size_t>(numel_of(shape)), 0.5f);
        const World world = cut_model(model_of(values), shapes, cut, ranks, ranks == 3);
        for (std::int64_t k = 0; k <= world.whole.numel(); ++k) {
          SCOPED_TRACE("k " + std::to_string(k));
          expect_as_whole(engine, world, Magnitude{}, {.k = k}, {}, {.bins = 16});
          if (testing::Test::HasFailure()) return;
        }
      }
  });
}

// ---- rows and groups ----

TEST_P(Sharded, RowsAndGroups) {
  run([](auto& engine) {
    const std::vector<Shape> shapes{{12, 16}, {9, 8, 3}, {1, 12}, {7, 4}};
    for (const char* const name : {"shard0", "tp_and_fsdp", "hsdp", "replicas", "one_holder"})
      for (const std::int64_t ranks : {1, 3, 4})
        for (const Scope scope : {Scope{Scope::row}, Scope{Scope::n_of_m, 2, 4}})
          for (const std::optional<Distribution> distribution :
               {std::optional<Distribution>{}, std::optional{Distribution::erk},
                std::optional{Distribution::layer_adaptive}})
            for (const char* const kind : {"half_normal", "three_values"}) {
              SCOPED_TRACE(std::string(name) + " over " + std::to_string(ranks) + ", " + kind + ", scope " +
                           std::to_string(scope.kind));
              const auto cut = std::ranges::find_if(cuts(), [&](const Cut& c) { return c.name == name; });
              std::vector<Values> values;
              for (const Shape& shape : shapes) values.push_back(values_of(kind, numel_of(shape), values.size()));
              Model model = model_of(values);
              for (Tensor& tensor : model.tensors) tensor.input_norm = Array(half_normal(64, 8), DType::f32);
              if (ranks == 4) model.set_masks(0.2, 1);
              const World world = cut_model(std::move(model), shapes, *cut, ranks);
              const Result result =
                  expect_as_whole(engine, world, Wanda{}, {.sparsity = 0.3},
                                  {.regrow = ranks == 4, .scope = scope, .distribution = distribution});
              EXPECT_GE(result.ranks[0].report.empty_rows, 0);
              EXPECT_LE(result.ranks[0].rounds, 3);
              if (testing::Test::HasFailure()) return;
            }
  });
}

TEST_P(Sharded, WandaOnSplitInputs) {
  run([](auto& engine) {
    for (const char* const name : {"grid", "last_axis"}) {
      const auto cut = std::ranges::find_if(cuts(), [&](const Cut& c) { return c.name == name; });
      const std::vector<Shape> shapes{{12, 16}, {9, 8}};
      Model model = model_of({half_normal(192, 1), half_normal(72, 2)});
      for (Tensor& tensor : model.tensors) tensor.input_norm = Array(half_normal(16, 8), DType::f32);
      const World world = cut_model(std::move(model), shapes, *cut, 4);
      const Result result = expect_as_whole(engine, world, Wanda{}, {.sparsity = 0.4}, {});
      EXPECT_EQ(result.ranks[0].report.empty_rows, -1);
    }
  });
}

}  // namespace
}  // namespace bittersweet::test
