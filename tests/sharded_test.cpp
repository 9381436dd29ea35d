// Ranks in one process, whose vectors the test adds: threshold, counts and every mask bit are those of the whole model
// in one place, however it is cut, and all ranks end in the same call.
#include "bittersweet/sharded.hpp"

#include <cstdlib>
#include <stdexcept>

#include "support/engines.hpp"
#include "support/ranks.hpp"

namespace bittersweet::test {
namespace {

class Sharded : public EngineTest {};
BITTERSWEET_FOR_EVERY(engines, Sharded);

Shape random_shape(Generator& random, std::int64_t most) {
  const auto axes = 1 + random.below(3);
  Shape shape;
  for (std::int64_t a = 0; a < axes; ++a) {
    const std::int64_t room = most / std::max<std::int64_t>(numel_of(shape), 1);
    shape.push_back(random.below(6) == 0 ? 1 : 1 + random.below(std::max<std::int64_t>(std::min(room, most / 4), 1)));
  }
  if (random.below(12) == 0) shape.back() = 0;
  return shape;
}

constexpr const char* kinds[] = {"half_normal",  "bf16_rounded", "all_equal", "all_zero",  "mostly_zeros", "narrow",
                                 "three_values", "student_t",    "denormals", "sorted",    "infinities",   "ternary",
                                 "bitter7_like", "signed_zeros", "row_scale", "any_number"};

Values values_of(const char* kind, std::int64_t n, std::uint64_t seed) {
  if (std::string_view(kind) != "narrow") return values_named(kind, n, seed);
  return generate(n, [r = Generator(seed)](std::int64_t) mutable { return 1.0 + 1e-3 * r.uniform(); });
}

// One seeded case: shapes, cut, values, masks, rules, budget, brackets and sizes of vectors.
template <class E>
void try_case(E& engine, std::uint64_t seed, std::int64_t most) {
  Generator random(seed);
  SCOPED_TRACE("seed " + std::to_string(seed));
  const std::int64_t ranks = 1 + random.below(8);
  std::vector<Shape> shapes;
  std::vector<Values> values;
  const char* const kind = kinds[random.below(std::size(kinds))];
  for (std::int64_t t = 0, tensors = 1 + random.below(5); t < tensors; ++t) {
    shapes.push_back(random_shape(random, most));
    values.push_back(values_of(kind, numel_of(shapes.back()), seed + static_cast<std::uint64_t>(t)));
    if (random.below(12) == 0)
      for (float& x : values.back())
        if (random.below(40) == 0) x = not_a_number;
  }
  Model model = model_of(values, random.below(4) == 0 ? DType::bf16 : DType::f32);
  const double dead = std::vector{0.0, 0.0, 0.3, 0.9}[static_cast<std::size_t>(random.below(4))];
  if (dead > 0) model.set_masks(dead, seed);
  for (Tensor& tensor : model.tensors) {
    tensor.exp_avg_sq = Array(second_moments(tensor.numel, seed + 5), DType::f32);
    if (random.below(6) == 0) tensor.modifier = static_cast<float>(random.below(4)) - 1.0f;
  }
  const Cut& cut = cuts()[static_cast<std::size_t>(random.below(static_cast<std::int64_t>(cuts().size())))];
  const World world = cut_model(std::move(model), shapes, cut, ranks, random.below(4) == 0);
  bool boxed = false;
  for (std::size_t t = 0; t < shapes.size(); ++t) boxed |= world.map->boxed(t);
  const std::vector<Scorer> scorers{Magnitude{}, Identity{}, AdamVariance{}, Random{.seed = seed}};
  const Scorer scorer = scorers[static_cast<std::size_t>(random.below(boxed ? 3 : 4))];

  PruneOptions options{.seed = seed};
  options.ties = std::vector<std::optional<Ties>>{std::nullopt, Ties::exact, Ties::at_or_below,
                                                  Ties::below}[static_cast<std::size_t>(random.below(4))];
  options.nonfinite = random.below(2) ? NonFinite::keep : NonFinite::error;
  options.regrow = random.below(4) == 0;
  Exact exact;
  if (random.below(3) > 0) {
    const auto end = [&] {
      const Values& some = values[static_cast<std::size_t>(random.below(static_cast<std::int64_t>(values.size())))];
      if (some.empty() || random.below(4) == 0)
        return Values{-infinity, 0.0f, tiniest, infinity}[static_cast<std::size_t>(random.below(4))];
      return std::fabs(some[static_cast<std::size_t>(random.below(static_cast<std::int64_t>(some.size())))]);
    };
    exact.guess = Bracket{end(), end(), random.below(2) == 0};
    if (random.below(4) > 0 && exact.guess->low > exact.guess->high) std::swap(exact.guess->low, exact.guess->high);
  }
  if (random.below(4) == 0) exact.capacity = 10;
  options.selector = exact;
  if (random.below(4) == 0) options.scope = {Scope::tensor};
  if (options.scope.kind == Scope::tensor && random.below(2))
    options.distribution = random.below(2) ? Distribution::erk : Distribution::layer_adaptive;
  if (options.scope.kind == Scope::global && random.below(4) == 0) options.max_tensor_sparsity = random.uniform();
  RunSettings settings{
      .bins = std::vector<std::size_t>{64, 257, std::size_t{1} << 17}[static_cast<std::size_t>(random.below(3))],
      .threshold_only = random.below(8) == 0};
  const double s = std::vector{0.0, 0.1, 0.5, 0.9, 1.0, random.uniform()}[static_cast<std::size_t>(random.below(6))];
  SCOPED_TRACE(std::string(kind) + " over " + std::to_string(ranks) + " ranks, " + cut.name + ", " +
               std::string(info_of(scorer).name) + ", sparsity " + std::to_string(s) + ", bins " +
               std::to_string(settings.bins) + ", scope " + std::to_string(options.scope.kind));
  if (settings.threshold_only) {
    options.scope = {};
    options.distribution.reset();
    options.max_tensor_sparsity.reset();
  }
  expect_as_whole(engine, world, scorer, {.sparsity = s}, options, settings);
}

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

// ---- larger models, whose bracket comes from a sample ----

const std::vector<Shape>& large_shapes() {
  static const std::vector<Shape> shapes{{300, 200}, {64, 32, 9}, {1, 500}, {77, 1}};
  return shapes;
}

World large_world(const char* kind, const Cut& cut, std::int64_t ranks, DType dtype = DType::f32, double dead = 0) {
  std::vector<Values> values;
  for (const Shape& shape : large_shapes()) values.push_back(values_of(kind, numel_of(shape), 1 + values.size()));
  Model model = model_of(values, dtype);
  for (Tensor& tensor : model.tensors) {
    tensor.exp_avg_sq = Array(second_moments(tensor.numel, 3), dtype);
    tensor.exp_avg = Array(half_normal(tensor.numel, 4), dtype);
  }
  if (dead > 0) model.set_masks(dead, 5);
  return cut_model(std::move(model), large_shapes(), cut, ranks);
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

// ---- limits ----

struct Limit {
  const char* kind;
  DType dtype;
  const char* cut;
  std::int64_t rounds, kibibytes;
};

// Rounds and bytes of typical and of nasty values stay under what is promised.
TEST(ShardedLimits, RoundsAndBytes) {
  CpuEngine engine;
  for (const Limit& limit : std::vector<Limit>{{"half_normal", DType::f32, "shard0", 4, 1281},
                                               {"half_normal", DType::f32, "grid", 4, 1281},
                                               {"student_t", DType::f32, "last_axis", 4, 1281},
                                               {"infinities", DType::f32, "shard0", 5, 1281},
                                               {"half_normal", DType::bf16, "shard0", 4, 1281},
                                               {"half_normal", DType::bf16, "last_axis", 5, 1313},
                                               {"mostly_zeros", DType::f32, "shard0", 4, 769},
                                               {"all_zero", DType::f32, "grid", 5, 897},
                                               {"narrow", DType::f32, "hsdp", 4, 1281},
                                               {"all_equal", DType::f32, "shard0", 5, 1025},
                                               {"all_equal", DType::f32, "last_axis", 6, 1057},
                                               {"three_values", DType::f32, "shard0", 5, 1025},
                                               {"denormals", DType::f32, "shard0", 5, 1281},
                                               {"any_number", DType::f32, "grid", 8, 3072}})
    for (const std::int64_t ranks : {1, 4, 8}) {
      SCOPED_TRACE(std::string(limit.kind) + ", " + limit.cut + ", " + std::to_string(ranks) + " ranks");
      const auto cut = std::ranges::find_if(cuts(), [&](const Cut& c) { return c.name == limit.cut; });
      const World world = large_world(limit.kind, *cut, ranks, limit.dtype);
      const Scorer scorer = std::string_view(limit.kind) == "any_number" || std::string_view(limit.kind) == "infinities"
                                ? Scorer{Identity{}}
                                : Scorer{Magnitude{}};
      const Result result = expect_as_whole(engine, world, scorer, {.sparsity = 0.5}, {});
      for (const Outcome& outcome : result.ranks) {
        EXPECT_LE(outcome.rounds, limit.rounds);
        EXPECT_LE(outcome.bytes, limit.kibibytes * 1024);
      }
    }
}

TEST(ShardedLimits, BytesDoNotGrowWithRanks) {
  ReferenceEngine engine;
  std::vector<std::int64_t> bytes;
  for (const std::int64_t ranks : {1, 2, 8, 16}) {
    const World world = large_world("half_normal", cuts()[0], ranks);
    bytes.push_back(run_ranks(engine, world, Magnitude{}, {.sparsity = 0.5}, {}).ranks[0].bytes);
  }
  EXPECT_LE(bytes.back(), bytes.front() + 600 * 1024);  // one vector of candidates more, at the most
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

// The worlds in which faults are tried, so that every kind of round comes up.
struct Try {
  const char* name;
  World world;
  PruneOptions options{};
  RunSettings settings{};
};

std::vector<Try> tries() {
  std::vector<Try> all;
  all.push_back({"normal", large_world("half_normal", cuts()[0], 3)});
  all.push_back({"runs", large_world("three_values", cuts()[3], 3), {}, {.bins = 64}});
  all.push_back(
      {"digits", large_world("half_normal", cuts()[2], 4), {.selector = Exact{.guess = Bracket{1.0f, 2.0f}}}});
  all.push_back({"by tensor", large_world("half_normal", cuts()[4], 4), {.scope = {Scope::tensor}}});
  all.push_back({"caps", large_world("row_scale", cuts()[0], 2), {.max_tensor_sparsity = 0.6}});
  all.push_back({"rows", large_world("half_normal", cuts()[0], 2), {.scope = {Scope::row}}});
  all.push_back({"threshold", large_world("half_normal", cuts()[1], 4), {}, {.threshold_only = true}});
  return all;
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

TEST_P(Sharded, TheFirstNaNOfTheModel) {
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
        expect_all_threw<NonFiniteScoreError>(result, std::string(scope.kind == Scope::global ? "4" : "3") +
                                                          " NaN score(s), the first in 'tensor1' at flat index 35");
      }
  });
}

// ---- the same numbers whoever computes them ----

TEST(ShardedVectors, AreTheSameForAnyEngineAndThreads) {
  for (Try& t : tries()) {
    SCOPED_TRACE(t.name);
    std::vector<std::vector<std::int32_t>> expected;
    RunSettings settings = t.settings;
    settings.sums = &expected;
    ReferenceEngine reference;
    run_ranks(reference, t.world, Bitter7{}, {.sparsity = 0.5}, t.options, settings);
    for (const EngineCase& which : fast_engines()) {
      if (!which.runs_here()) continue;
      std::vector<std::vector<std::int32_t>> found;
      settings.sums = &found;
      with_engine(which,
                  [&](auto& engine) { run_ranks(engine, t.world, Bitter7{}, {.sparsity = 0.5}, t.options, settings); });
      ASSERT_EQ(found, expected) << which;
    }
  }
}

// The public class runs the same flow.
TEST(ShardedVectors, ThePublicClassGivesTheSame) {
  const World world = large_world("half_normal", cuts()[2], 4);
  std::vector<std::vector<ScoreInputs>> inputs;
  std::vector<std::unique_ptr<FreshMasks>> masks;
  std::vector<Workspace> workspaces(4);
  std::vector<ShardedPrune> runs;
  for (std::size_t r = 0; r < 4; ++r) {
    inputs.push_back(world.local[r].inputs());
    masks.push_back(std::make_unique<FreshMasks>(inputs[r]));
    runs.emplace_back(*world.map, static_cast<std::int64_t>(r), inputs[r], world.of[r], world.names, Bitter7{},
                      Budget{.sparsity = 0.5}, PruneOptions{}, "", masks[r]->table(), workspaces[r]);
  }
  for (;;) {
    std::vector<std::span<std::int32_t>> vectors;
    for (ShardedPrune& run : runs) vectors.push_back(run.next());
    if (vectors[0].empty()) break;
    std::vector<std::int32_t> sum(vectors[0].size());
    for (const auto& vector : vectors)
      for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += vector[i];
    for (const auto& vector : vectors) std::copy(sum.begin(), sum.end(), vector.begin());
  }
  const auto whole = world.whole_inputs();
  FreshMasks expected(whole);
  Workspace workspace;
  const PruneReport report = make_masks(whole, Bitter7{}, {.sparsity = 0.5}, {}, expected.table(), workspace);
  Result result;
  result.masks = std::move(masks);
  result.inputs = inputs;
  EXPECT_TRUE(same_masks(expected.bits(), gather_masks(world, result)));
  for (const ShardedPrune& run : runs) expect_same_report(report, run.report());
  EXPECT_EQ(runs[0].rounds(), 4);
}

}  // namespace
}  // namespace bittersweet::test
