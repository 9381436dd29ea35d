// What goes wrong on one rank ends all of them in the same round, with the same class of error; nothing hangs, and what
// cannot be is refused before any rank has sent anything.
#include <stdexcept>

#include "bittersweet/sharded.hpp"
#include "support/engines.hpp"
#include "support/worlds.hpp"

namespace bittersweet::test {
namespace {

class ShardedNaN : public EngineTest {};
BITTERSWEET_FOR_EVERY(engines, ShardedNaN);

template <class F>
void expect_thrown(F&& f, const std::string& words) {
  try {
    f();
    ADD_FAILURE() << "nothing thrown, instead of an error about " << words;
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
  }
}

TEST(ShardedErrors, SplitRowsAndUnknownPositions) {
  ReferenceEngine engine;
  const std::vector<Shape> shapes{{12, 16}, {9, 8}};
  const auto with = [&](std::size_t cut) {
    return cut_model(model_of({half_normal(192, 1), half_normal(72, 2)}), shapes, cuts()[cut], 4);
  };
  const World rows = with(0), columns = with(3);
  expect_thrown([&] { run_ranks(engine, columns, Magnitude{}, {.sparsity = 0.5}, {.scope = {Scope::row}}); },
                "whole output rows on a rank, and those of 'tensor0' are split");
  run_ranks(engine, columns, Magnitude{}, {}, {.scope = {Scope::n_of_m, 1, 2}});  // 16 and 8 in four parts: even
  expect_thrown([&] { run_ranks(engine, columns, Magnitude{}, {}, {.scope = {Scope::n_of_m, 2, 4}}); },
                "groups of 4 inputs on a rank, and those of 'tensor1' are split");
  expect_thrown([&] { run_ranks(engine, columns, Random{}, {.sparsity = 0.5}, {}); }, "scorer: 'random'");
  expect_thrown([&] { run_ranks(engine, rows, Magnitude{}, {.sparsity = 0.5}, {.selector = Histogram{}}); },
                "selector: 'histogram' over ranks; 'exact' is accepted");
  expect_thrown([&] { run_ranks(engine, rows, Magnitude{}, {.sparsity = 1.5}, {}); }, "sparsity: 1.5");
  expect_thrown([&] { run_ranks(engine, rows, Bitter7{}, {.sparsity = 0.5}, {}); }, "exp_avg_sq: scorer 'bitter7'");
  World missing = with(0);
  missing.local[1].tensors.pop_back();
  missing.of[1].pop_back();
  expect_thrown([&] { run_ranks(engine, missing, Magnitude{}, {.sparsity = 0.5}, {}); },
                "rank 1 holds a part of 'tensor1'");
  World more = with(0);
  more.local[2].tensors.push_back(more.local[2].tensors[0]);
  more.of[2].push_back(0);
  expect_thrown([&] { run_ranks(engine, more, Magnitude{}, {.sparsity = 0.5}, {}); }, "brings more parts of 'tensor0'");
  World other = with(0);
  std::swap(other.of[0][0], other.of[0][1]);
  expect_thrown([&] { run_ranks(engine, other, Magnitude{}, {.sparsity = 0.5}, {}); },
                "elements of 'tensor1' for a part");
}

// ---- errors on all ranks at once ----

template <class Class>
void expect_all_threw(const Result& result, const std::string& words, std::int64_t round = 0) {
  for (std::size_t r = 0; r < result.ranks.size(); ++r) {
    ASSERT_TRUE(result.ranks[r].error) << "rank " << r << " did not throw";
    EXPECT_EQ(result.ranks[r].error_round, result.ranks[0].error_round);
    if (round > 0) {
      EXPECT_EQ(result.ranks[r].error_round, round);
    }
    try {
      std::rethrow_exception(result.ranks[r].error);
    } catch (const Class& error) {
      EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
    } catch (const std::exception& error) {
      ADD_FAILURE() << "rank " << r << " threw something else: " << error.what();
    }
  }
}

// A fault in any round, on any rank, by the caller or by something thrown in the middle of the work, ends all of them
// in that round; whoever threw hears of its own error.
TEST(ShardedErrors, AFaultAnywhereEndsAllRanks) {
  CpuEngine engine;
  for (Try& t : tries()) {
    SCOPED_TRACE(t.name);
    const Result good = expect_as_whole(engine, t.world, Bitter7{}, {.sparsity = 0.5}, t.options, t.settings);
    const auto ranks = static_cast<std::int64_t>(t.world.local.size());
    for (std::int64_t round = 1; round <= good.ranks[0].rounds; ++round)
      for (std::int64_t rank = 0; rank < ranks; ++rank) {
        RunSettings settings = t.settings;
        settings.fault = [&](std::int64_t r, std::int64_t n) { return r == rank && n == round; };
        expect_all_threw<RankFailed>(
            run_ranks(engine, t.world, Bitter7{}, {.sparsity = 0.5}, t.options, settings),
            "ranks: 1 of " + std::to_string(ranks) + " failed in round " + std::to_string(round) + ";", round + 1);
      }
    if (testing::Test::HasFailure()) return;
  }
}

struct Interrupt : std::runtime_error {
  using std::runtime_error::runtime_error;
};

TEST(ShardedErrors, WhatARankThrowsBetweenReadsIsItsOwn) {
  CpuEngine engine;
  for (Try& t : tries())
    for (int read = 1; read < 30; ++read) {
      SCOPED_TRACE(std::string(t.name) + ", read " + std::to_string(read));
      RunSettings settings = t.settings;
      int reads = 0;
      settings.options_of = [&](std::int64_t rank, PruneOptions options) {
        if (rank == 1)
          options.between_passes = [&] {
            if (++reads == read) throw Interrupt("read " + std::to_string(read));
          };
        return options;
      };
      const Result result = run_ranks(engine, t.world, Bitter7{}, {.sparsity = 0.5}, t.options, settings);
      if (reads < read) {
        EXPECT_FALSE(result.ranks[1].error);
        EXPECT_GT(read, 1) << "no read was interrupted";
        break;
      }
      for (std::size_t r = 0; r < result.ranks.size(); ++r) {
        ASSERT_TRUE(result.ranks[r].error);
        EXPECT_EQ(result.ranks[r].error_round, result.ranks[0].error_round);
        if (r == 1)
          EXPECT_THROW(std::rethrow_exception(result.ranks[r].error), Interrupt);
        else
          EXPECT_THROW(std::rethrow_exception(result.ranks[r].error), RankFailed);
      }
    }
}

TEST(ShardedErrors, NothingComesAfterAnError) {
  ReferenceEngine engine;
  const World world = large_world("half_normal", cuts()[0], 1);
  const auto inputs = world.local[0].inputs();
  FreshMasks masks(inputs);
  Workspace workspace;
  flow::Sharded<ReferenceEngine> run(
      engine,
      {.map = world.map.get(), .tensors = inputs, .whole = world.of[0], .names = world.names, .masks = masks.table()},
      Magnitude{}, {.sparsity = 0.5}, {}, workspace);
  run.next(true);
  EXPECT_THROW(run.next(false), RankFailed);
  expect_thrown([&] { run.next(false); }, "called again after it had thrown");
}

TEST(ShardedErrors, RanksThatDisagree) {
  ReferenceEngine engine;
  const World world = large_world("half_normal", cuts()[0], 4);
  const auto differ = [&](std::function<PruneOptions(std::int64_t, PruneOptions)> options,
                          std::function<std::string(std::int64_t)> agreement) {
    expect_all_threw<RanksDisagree>(run_ranks(engine, world, Magnitude{}, {.sparsity = 0.5}, {},
                                              {.options_of = std::move(options), .agreement = std::move(agreement)}),
                                    "ranks: they were not given the same", 2);
  };
  for (const std::int64_t who : {0, 2, 3}) {
    differ({}, [=](std::int64_t rank) { return rank == who ? "step: 21" : "step: 20"; });
    const auto only = [=](auto change) {
      return [=](std::int64_t rank, PruneOptions options) {
        if (rank == who) change(options);
        return options;
      };
    };
    differ(only([](PruneOptions& o) { o.seed = 1; }), {});
    differ(only([](PruneOptions& o) { o.ties = Ties::below; }), {});
    differ(only([](PruneOptions& o) { o.nonfinite = NonFinite::keep; }), {});
    differ(only([](PruneOptions& o) { o.regrow = true; }), {});
    differ(only([](PruneOptions& o) { o.max_tensor_sparsity = 0.9; }), {});
    differ(only([&](PruneOptions& o) {
             for (const Tensor& tensor : world.whole.tensors) o.tensor_sparsity.push_back({0, tensor.numel});
           }),
           {});
    differ(only([](PruneOptions& o) { o.selector = Exact{.guess = Bracket{0.1f, 0.2f}}; }), {});
    differ(only([](PruneOptions& o) { o.scope = {Scope::tensor}; }), {});
  }
  // A fault in the same round is told first: it may be why they disagree.
  RunSettings both{.fault = [](std::int64_t rank, std::int64_t) { return rank == 1; },
                   .agreement = [](std::int64_t rank) { return std::to_string(rank); }};
  expect_all_threw<RankFailed>(run_ranks(engine, world, Magnitude{}, {.sparsity = 0.5}, {}, both), "1 of 4", 2);
}

TEST(ShardedErrors, AFaultVectorIsAFirstVector) {
  const World world = large_world("half_normal", cuts()[0], 2);
  const auto inputs = world.local[0].inputs();
  FreshMasks masks(inputs);
  Workspace workspace;
  ShardedPrune run(*world.map, 0, inputs, world.of[0], world.names, Magnitude{}, {.sparsity = 0.5}, {}, "step: 1",
                   masks.table(), workspace);
  const std::span<std::int32_t> vector = run.next();
  const std::vector<std::int32_t> fault = ShardedPrune::fault_vector();
  ASSERT_EQ(vector.size(), fault.size());
  for (std::size_t i = 0; i < fault.size(); ++i) vector[i] += fault[i];
  EXPECT_THROW(run.next(), RankFailed);
  EXPECT_EQ(run.agreement().find("step: 1\nversion: "), 0u);
}

TEST(ShardedErrors, CopiesThatDiffer) {
  ReferenceEngine engine;
  for (const std::size_t cut : {std::size_t{4}, std::size_t{5}})
    for (const Scope scope : {Scope{}, Scope{Scope::tensor}, Scope{Scope::row}}) {
      World world = large_world("half_normal", cuts()[cut], 4);
      const PruneOptions options{.scope = scope};
      EXPECT_FALSE(run_ranks(engine, world, Magnitude{}, {.sparsity = 0.5}, options).ranks[0].error);
      const float old = world.local[3].tensors[1].weight[5];
      world.local[3].tensors[1].weight.set(5, std::nextafter(old, 1.0f));  // too little to change a bit of a mask
      EXPECT_FALSE(run_ranks(engine, world, Magnitude{}, {.sparsity = 0.5}, options).ranks[0].error);
      world.local[3].tensors[1].weight.set(5, old < 0.013f ? 1.0f : 0.0f);
      expect_all_threw<ReplicasDiffer>(run_ranks(engine, world, Magnitude{}, {.sparsity = 0.5}, options),
                                       "copies of 'tensor1' would");
    }
}

TEST_P(ShardedNaN, TheFirstNaNOfTheModel) {
  run([](auto& engine) {
    for (const Cut& cut : cuts())
      for (const Scope scope : {Scope{}, Scope{Scope::tensor}, Scope{Scope::row}}) {
        if (scope.kind == Scope::row && (cut.name == "grid" || cut.name == "last_axis" || cut.name == "scattered"))
          continue;
        SCOPED_TRACE(cut.name + ", scope " + std::to_string(scope.kind));
        const std::vector<Shape> shapes{{12, 16}, {9, 8}, {5, 3}};
        std::vector<Values> values{half_normal(192, 1), half_normal(72, 2), half_normal(15, 3)};
        for (const std::size_t at : {37u, 35u, 71u}) values[1][at] = not_a_number;
        values[2][0] = not_a_number;
        const World world = cut_model(model_of(values), shapes, cut, 4, true);
        const Result result = expect_as_whole(engine, world, Magnitude{}, {.sparsity = 0.5}, {.scope = scope});
        expect_all_threw<NonFiniteScoreError>(result, "4 NaN score(s), the first in 'tensor1' at flat index 35");
      }
  });
}

// Inputs behind the last whole N:M group are not ranked: there NaN are no error, and elsewhere they are not the first.
TEST_P(ShardedNaN, BehindTheLastWholeGroup) {
  run([](auto& engine) {
    for (const bool ranked : {false, true}) {
      std::vector<Values> values{half_normal(12 * 10, 1), half_normal(9 * 6, 2)};
      for (const std::size_t at : {8u, 29u, 119u}) values[0][at] = not_a_number;
      for (const std::size_t at : {4u, 53u}) values[1][at] = not_a_number;
      if (ranked) values[0][117] = values[0][66] = values[1][51] = not_a_number;
      const World world = cut_model(model_of(values), {{12, 10}, {9, 6}}, cuts()[0], 4, true);
      const Result result = expect_as_whole(engine, world, Magnitude{}, {},
                                            {.scope = {Scope::n_of_m, 2, 4}, .remainder = Remainder::keep});
      if (ranked)
        expect_all_threw<NonFiniteScoreError>(result, "3 NaN score(s), the first in 'tensor0' at flat index 66");
    }
  });
}

}  // namespace
}  // namespace bittersweet::test
