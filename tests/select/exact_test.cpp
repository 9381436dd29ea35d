// The exact selector takes one of seven paths. Brackets are injected so that each of them runs, on every engine; the
// path, its passes, the answer and the mask bits are asserted, for every rule of ties.
#include <memory>

#include "bittersweet/flow.hpp"
#include "support/compare.hpp"
#include "support/engines.hpp"
#include "support/inputs.hpp"

namespace bittersweet::test {
namespace {

class ExactPaths : public EngineTest {};
BITTERSWEET_FOR_EVERY(engines, ExactPaths);

constexpr Ties all_rules[] = {Ties::exact, Ties::at_or_below, Ties::below};

// Weights on a coarse grid, so that every score has ties in every chunk: a third zeros, some the smallest positive
// number of their storage. Chunks: 65536 + 900, 64, 700, 1.
struct Grid {
  float least;  // above zero
  Model model;
  std::vector<ScoreInputs> inputs;
  Scorer scorer;
  SortOracle oracle;

  Grid(const Scorer& which, DType dtype, double dead)
      : least(dtype == DType::f32 ? tiniest : 0x1p-133f),
        model(make(dtype, dead, least)),
        inputs(model.inputs()),
        scorer(which),
        oracle(scores(), inputs) {}

  std::int64_t rank_of(float value) const { return oracle.below(value) + 1; }

 private:
  static Model make(DType dtype, double dead, float least) {
    std::vector<Values> weights;
    std::uint64_t seed = 0;
    for (const std::int64_t n : {66436, 64, 700, 1})
      weights.push_back(generate(n, [least, r = Generator(++seed)](std::int64_t i) mutable {
        const std::int64_t step = r.below(96) - 32;
        if (i % 97 == 5) return least;
        return step <= 0 ? (step % 2 ? -0.0f : 0.0f) : (step % 3 ? 1.0f : -1.0f) * static_cast<float>(step) / 64.0f;
      }));
    Model model = model_of(weights, dtype);
    for (Tensor& tensor : model.tensors)
      tensor.exp_avg_sq = Array(Values(static_cast<std::size_t>(tensor.numel), 1.0f), dtype);
    if (dead > 0) model.set_masks(dead, 11);
    return model;
  }
  std::vector<Values> scores() const {  // of Magnitude, and of Bitter7 and Bitter8 with v = 1 and eps = 0
    std::vector<Values> all;
    for (const Tensor& tensor : model.tensors) {
      all.emplace_back();
      for (std::size_t i = 0; i < tensor.weight.size(); ++i) all.back().push_back(std::fabs(tensor.weight[i]));
    }
    return all;
  }
};

const std::vector<std::unique_ptr<Grid>>& grids() {
  static const auto all = [] {
    std::vector<std::unique_ptr<Grid>> made;
    made.push_back(std::make_unique<Grid>(Magnitude{}, DType::f32, 0.0));
    made.push_back(std::make_unique<Grid>(Magnitude{}, DType::bf16, 0.3));
    made.push_back(std::make_unique<Grid>(Bitter7{.eps = 0.0f}, DType::f32, 0.3));
    made.push_back(std::make_unique<Grid>(Bitter8{.eps = 0.0f}, DType::bf16, 0.0));
    return made;
  }();
  return all;
}

// What a path must show beside the right answer.
struct Expected {
  Place place;
  bool overflow = false;
  double passes = 1;  // of the threshold alone
};

template <class E>
void expect_path(E& engine, const Grid& g, const Exact& exact, std::int64_t rank, const Expected& expected) {
  SCOPED_TRACE(std::string(info_of(g.scorer).name) + ", rank " + std::to_string(rank) + ", bracket " +
               show(exact.guess->low) + " to " + show(exact.guess->high) + (exact.guess->heavy_ends ? ", heavy" : ""));
  const ScoreView view = make_view(g.inputs, g.scorer);
  Workspace workspace;
  PruneOptions options{.selector = exact};
  const Selection alone = flow::select(engine, view, rank, g.oracle.live(), options, {}, workspace);
  const float value = g.oracle.value(rank);
  ASSERT_TRUE(same_bits(alone.value, value)) << show(alone.value) << ", right is " << show(value);
  ASSERT_EQ(alone.below, g.oracle.below(value));
  ASSERT_EQ(alone.equal, g.oracle.at_or_below(value) - g.oracle.below(value));
  ASSERT_EQ(alone.place, expected.place);
  ASSERT_EQ(alone.overflow, expected.overflow);
  ASSERT_EQ(alone.passes, expected.passes);
  for (const Ties ties : all_rules) {
    options.ties = ties;
    FreshMasks masks(g.inputs);
    const Selection found = flow::select(engine, view, rank, g.oracle.live(), options, masks.table(), workspace);
    ASSERT_TRUE(same_masks(g.oracle.masks(rank, ties), masks.bits())) << "ties rule " << static_cast<int>(ties);
    ASSERT_TRUE(same_bits(found.value, value));
    ASSERT_EQ(found.place, expected.place);
    ASSERT_EQ(found.overflow, expected.overflow);
    ASSERT_GE(found.passes, expected.passes);
    ASSERT_LE(found.passes, expected.passes + 2) << "more reads than a miss costs";
  }
}

// The first, some middle and the last rank of the scores equal to `value`: ties split within and between chunks. What
// takes more than one read is tried at two of them.
template <class E>
void expect_path_at(E& engine, const Grid& g, const Exact& exact, float value, const Expected& expected) {
  const std::int64_t first = g.rank_of(value), last = g.oracle.at_or_below(value);
  ASSERT_LT(first + 10, last) << "the grid has too few scores of " << show(value);
  std::vector<std::int64_t> ranks{first + (last - first) / 3, last};
  if (expected.passes == 1) ranks.insert(ranks.end(), {first, first + 1, last - 2, last - 1});
  for (const std::int64_t rank : ranks) ASSERT_NO_FATAL_FAILURE(expect_path(engine, g, exact, rank, expected));
}

TEST_P(ExactPaths, ZerosBelow) {
  run([](auto& engine) {
    for (const auto& g : grids())
      for (const Bracket guess : {Bracket{tiniest, 0.5f}, Bracket{tiniest, infinity}, Bracket{tiniest, tiniest, true},
                                  Bracket{tiniest, 0.25f, true}})
        ASSERT_NO_FATAL_FAILURE(expect_path_at(engine, *g, {.guess = guess}, 0.0f, {Place::zeros_below}));
  });
}

TEST_P(ExactPaths, AtTheLowEnd) {
  run([](auto& engine) {
    for (const auto& g : grids())
      for (const bool heavy : {false, true}) {
        ASSERT_NO_FATAL_FAILURE(
            expect_path_at(engine, *g, {.guess = Bracket{0.25f, 0.5f, heavy}}, 0.25f, {Place::at_low}));
        ASSERT_NO_FATAL_FAILURE(
            expect_path_at(engine, *g, {.guess = Bracket{0.25f, 0.25f, heavy}}, 0.25f, {Place::at_low}));
        ASSERT_NO_FATAL_FAILURE(
            expect_path_at(engine, *g, {.guess = Bracket{g->least, 0.5f, heavy}}, g->least, {Place::at_low}));
        ASSERT_NO_FATAL_FAILURE(
            expect_path_at(engine, *g, {.guess = Bracket{0.0f, 0.5f, heavy}}, 0.0f, {Place::at_low}));
      }
  });
}

TEST_P(ExactPaths, Inside) {
  run([](auto& engine) {
    for (const auto& g : grids())
      for (const Bracket guess : {Bracket{0.25f, 0.5f}, Bracket{0.24f, 0.51f, true}, Bracket{0.0f, infinity},
                                  Bracket{-infinity, infinity}, Bracket{tiniest, 0.5f}, Bracket{0.374f, 0.376f}})
        ASSERT_NO_FATAL_FAILURE(
            expect_path_at(engine, *g, {.guess = guess, .capacity = 100000}, 0.375f, {Place::inside}));
  });
}

TEST_P(ExactPaths, AtTheHighEnd) {
  run([](auto& engine) {
    for (const auto& g : grids())
      for (const bool heavy : {false, true}) {
        ASSERT_NO_FATAL_FAILURE(
            expect_path_at(engine, *g, {.guess = Bracket{0.25f, 0.5f, heavy}}, 0.5f, {Place::at_high}));
        ASSERT_NO_FATAL_FAILURE(
            expect_path_at(engine, *g, {.guess = Bracket{0.49f, 0.5f, heavy}}, 0.5f, {Place::at_high}));
        ASSERT_NO_FATAL_FAILURE(  // everything is pruned at the last rank
            expect_path_at(engine, *g, {.guess = Bracket{0.9f, 63.0f / 64, heavy}}, 63.0f / 64, {Place::at_high}));
      }
  });
}

TEST_P(ExactPaths, Missed) {
  run([](auto& engine) {
    for (const auto& g : grids())
      for (const bool heavy : {false, true}) {
        const Expected low{Place::missed_low, false, 3}, high{Place::missed_high, false, 3};
        ASSERT_NO_FATAL_FAILURE(expect_path_at(engine, *g, {.guess = Bracket{0.5f, 0.75f, heavy}}, 0.25f, low));
        ASSERT_NO_FATAL_FAILURE(expect_path_at(engine, *g, {.guess = Bracket{0.5f, 0.75f, heavy}}, 0.0f, low));
        ASSERT_NO_FATAL_FAILURE(expect_path_at(engine, *g, {.guess = Bracket{0.125f, 0.25f, heavy}}, 0.5f, high));
        ASSERT_NO_FATAL_FAILURE(expect_path_at(engine, *g, {.guess = Bracket{0.25f, 0.25f, heavy}}, 0.5f, high));
        ASSERT_NO_FATAL_FAILURE(expect_path_at(engine, *g, {.guess = Bracket{5.0f, infinity, heavy}}, 0.5f, low));
      }
  });
}

TEST_P(ExactPaths, Overflow) {
  run([](auto& engine) {
    for (const auto& g : grids())
      for (const std::int64_t capacity : {0, 300}) {
        const Bracket guess{0.25f, 0.5f};
        const Exact exact{.guess = guess, .capacity = capacity};
        ASSERT_NO_FATAL_FAILURE(expect_path_at(engine, *g, exact, 0.375f, {Place::inside, true, 3}));
        ASSERT_NO_FATAL_FAILURE(expect_path_at(engine, *g, exact, 0.5f, {Place::at_high, true, 3}));
        // Candidates are not needed where the answer lies at the low end or below.
        ASSERT_NO_FATAL_FAILURE(expect_path_at(engine, *g, exact, 0.25f, {Place::at_low, true, 1}));
        const Exact zeros{.guess = Bracket{tiniest, 0.5f}, .capacity = capacity};
        ASSERT_NO_FATAL_FAILURE(expect_path_at(engine, *g, zeros, 0.0f, {Place::zeros_below, true, 1}));
      }
  });
}

// Negative scores: a bracket that begins at the smallest positive number says nothing of what lies below it.
TEST_P(ExactPaths, NegativeScoresAreNotZeros) {
  run([](auto& engine) {
    Workspace workspace;
    const Model model = model_of({values_named("ternary", 3000, 1)});
    const auto inputs = model.inputs();
    Model turned = model_of({values_named("half_normal", 3000, 1)});
    turned.tensors[0].modifier = -1.0f;
    const auto turned_inputs = turned.inputs();
    const PruneOptions options{.selector = Exact{.guess = Bracket{tiniest, 2.0f}}};
    const auto ternary = flow::select(engine, make_view(inputs, Identity{}), 500, 3000, options, {}, workspace);
    EXPECT_EQ(ternary.place, Place::missed_low);
    EXPECT_EQ(ternary.value, -1.0f);
    const auto negative =
        flow::select(engine, make_view(turned_inputs, Magnitude{}), 3000, 3000, options, {}, workspace);
    EXPECT_EQ(negative.place, Place::missed_low);
    EXPECT_LT(negative.value, 0.0f);
  });
}

// "Any bracket gives the same answer": random ends, also on values, at zero, at infinity and the wrong way round.
TEST_P(ExactPaths, AnyBracketGivesTheSameAnswer) {
  run([](auto& engine) {
    Generator random(17);
    Workspace workspace;
    for (int round = 0; round < 400; ++round) {
      const Values choice{-infinity, -2.0f, -tiniest, -0.0f, 0.0f, tiniest, 1.0f, 1.5f, 2.0f, infinity};
      const bool non_negative = random.below(2) == 0;
      std::vector<Values> values;
      for (std::int64_t t = 0, tensors = 1 + random.below(5); t < tensors; ++t)
        values.push_back(generate(random.below(300), [&](std::int64_t) {
          const float x = choice[static_cast<std::size_t>(random.below(10))];
          return non_negative ? std::fabs(x) : x;
        }));
      Model model = model_of(values);
      if (random.below(2)) model.set_masks(0.4, static_cast<std::uint64_t>(round));
      const auto inputs = model.inputs();
      const SortOracle oracle(values, inputs);
      if (oracle.numbers() == 0) continue;
      const Scorer scorer = non_negative ? Scorer{Magnitude{}} : Scorer{Identity{}};
      const std::int64_t rank = 1 + random.below(oracle.numbers());
      const auto end = [&] { return choice[static_cast<std::size_t>(random.below(10))]; };
      const Exact exact{.guess = Bracket{end(), end(), random.below(2) == 0}, .capacity = random.below(400)};
      const Ties ties = all_rules[random.below(3)];
      FreshMasks masks(inputs);
      const Selection found = flow::select(engine, make_view(inputs, scorer), rank, oracle.live(),
                                           {.selector = exact, .ties = ties}, masks.table(), workspace);
      SCOPED_TRACE("round " + std::to_string(round) + ": rank " + std::to_string(rank) + " of " +
                   std::to_string(oracle.numbers()) + ", bracket " + show(exact.guess->low) + " to " +
                   show(exact.guess->high) + (exact.guess->heavy_ends ? ", heavy" : "") + ", ties rule " +
                   std::to_string(static_cast<int>(ties)));
      ASSERT_EQ(found.value, oracle.value(rank));
      ASSERT_TRUE(same_masks(oracle.masks(rank, ties), masks.bits()));
    }
  });
}

// A sample that lies: every line that the guess will read, and no other, is far above or far below the rest. The
// bracket misses, the counts show it, and the answer is right all the same.
struct Lie {
  static constexpr std::int64_t n = 200000;
  static constexpr std::uint64_t seed = 21;
  Model model;
  std::vector<ScoreInputs> inputs;
  SortOracle oracle;

  explicit Lie(float value) : Lie(lies(value)) {}

 private:
  explicit Lie(const Values& values) : model(model_of({values})), inputs(model.inputs()), oracle({values}, inputs) {}
  static Values lies(float value) {
    Values values = values_named("half_normal", n, 3);
    const Model truth = model_of({values});
    const auto tensors = truth.inputs();
    const ScoreView view = make_view(tensors, Identity{});
    const LineSample plan{lines_for(n), seed};
    for (std::int64_t line = 0; line < plan.lines; ++line) {
      const std::int64_t first = line_at(view, plan, line).second;
      for (std::int64_t i = first; i < std::min(n, first + LineSample::width); ++i)
        values[static_cast<std::size_t>(i)] = value * (1.0f + 1e-4f * static_cast<float>(line % 97));
    }
    return values;
  }
};

TEST_P(ExactPaths, LyingSample) {
  static const Lie above(100.0f), below(-100.0f);
  run([](auto& engine) {
    Workspace workspace;
    for (const Lie* lie : {&above, &below}) {
      FreshMasks masks(lie->inputs);
      const Selection found = flow::select(engine, make_view(lie->inputs, Identity{}), Lie::n / 2, Lie::n,
                                           {.seed = Lie::seed}, masks.table(), workspace);
      EXPECT_EQ(found.place, lie == &above ? Place::missed_low : Place::missed_high);
      EXPECT_EQ(found.value, lie->oracle.value(Lie::n / 2));
      EXPECT_TRUE(same_masks(lie->oracle.masks(Lie::n / 2, Ties::exact), masks.bits()));
    }
  });
}

// The sampled bracket holds on every kind of input: the threshold takes one read. So do its masks, but for ties that
// must be split: then the chunks that the provisional bits misjudge are scored once more.
TEST_P(ExactPaths, SampledBracketTakesOneRead) {
  run([](auto& engine) {
    Workspace workspace;
    for (const NamedValues& named : named_values()) {
      const Model model = model_of({named.make(200000, 4), named.make(100001, 5)});
      const auto inputs = model.inputs();
      for (const double sparsity : {0.0001, 0.1, 0.5, 0.9, 0.9999}) {
        const PruneReport report = flow::threshold(engine, inputs, Identity{}, {.sparsity = sparsity}, {}, workspace);
        EXPECT_EQ(report.passes, 1.0) << named.name << " at " << sparsity << ": " << report.path;
        FreshMasks masks(inputs);
        const PruneReport pruned =
            flow::make_masks(engine, inputs, Identity{}, {.sparsity = sparsity}, {}, masks.table(), workspace);
        const bool settled =
            pruned.path == name_of(Place::inside) || report.count_below + report.count_equal == report.k;
        EXPECT_LE(pruned.passes, settled ? 1.0 : 2.0) << named.name << " at " << sparsity << ": " << pruned.path;
        EXPECT_EQ(pruned.pruned, pruned.k);
      }
    }
  });
}

// Layers of different scales after a global pruning: the small ones keep few weights. The guess must not give a line
// with one live weight the voice of a full one.
TEST_P(ExactPaths, SampledBracketHoldsUnderAMask) {
  std::vector<Values> layers;
  for (int layer = 0; layer < 7; ++layer) {
    layers.push_back(values_named("half_normal", 60000, static_cast<std::uint64_t>(layer)));
    for (std::size_t i = 0; i < layers.back().size(); ++i)  // and rows of different scales
      layers.back()[i] *= static_cast<float>((1 + layer) * (1 + i / 100 % 3));
  }
  const Model model = model_of(layers);
  const auto dense = model.inputs();
  run([&](auto& engine) {
    Workspace workspace;
    for (const double dead : {0.5, 0.9, 0.99, 0.999}) {
      FreshMasks first(dense);
      flow::make_masks(engine, dense, Identity{}, {.sparsity = dead}, {}, first.table(), workspace);
      auto inputs = dense;
      for (std::size_t t = 0; t < inputs.size(); ++t) inputs[t].mask = first.table()[t];
      for (const double sparsity : {dead + 0.1 * (1 - dead), dead + 0.5 * (1 - dead), 1 - 0.01 * (1 - dead)}) {
        FreshMasks masks(inputs);
        const PruneReport report =
            flow::make_masks(engine, inputs, Identity{}, {.sparsity = sparsity}, {}, masks.table(), workspace);
        EXPECT_EQ(report.passes, 1.0) << dead << " dead, " << sparsity << ": " << report.path;
        EXPECT_EQ(report.pruned, report.k);
      }
    }
  });
}

}  // namespace
}  // namespace bittersweet::test
