// Every exact selector on every engine is a sort: the same value, counts and mask bits on inputs made to be hard, under
// current masks, for every rule of ties, however the sequence is cut, whatever the seed.
#include <memory>

#include "bittersweet/flow.hpp"
#include "support/compare.hpp"
#include "support/engines.hpp"
#include "support/inputs.hpp"
#include "support/orders.hpp"

namespace bittersweet::test {
namespace {

class Selectors : public EngineTest {};
BITTERSWEET_FOR_EVERY(engines, Selectors);

constexpr Ties all_rules[] = {Ties::exact, Ties::at_or_below, Ties::below};

// A sequence of scores cut into tensors, and what sorting says of it.
struct Case {
  std::string label;
  Model model;
  std::vector<ScoreInputs> inputs;
  SortOracle oracle;
  Model moved;  // the same in other orders of memory
  std::vector<ScoreInputs> moved_inputs;

  Case(std::string name, Model tensors)
      : label(std::move(name)),
        model(std::move(tensors)),
        inputs(model.inputs()),
        oracle(scores(), inputs),
        moved(ordered(model)),
        moved_inputs(moved.inputs()) {}

  std::int64_t dead() const { return model.numel() - oracle.live(); }
  std::vector<std::int64_t> ranks() const {  // of live scores
    const std::int64_t n = oracle.numbers();
    std::vector<std::int64_t> all{1, 2, n / 10, n / 2, n - 1, n};
    std::erase_if(all, [&](std::int64_t rank) { return rank < 1 || rank > n; });
    return all;
  }

 private:
  std::vector<Values> scores() const {
    std::vector<Values> all;
    for (const Tensor& tensor : model.tensors) {
      all.emplace_back();
      for (std::size_t i = 0; i < tensor.scores.size(); ++i) all.back().push_back(tensor.scores[i]);
    }
    return all;
  }
};

Model cut(const Values& values, const std::vector<std::int64_t>& sizes, DType dtype = DType::f32) {
  std::vector<Values> parts;
  auto at = values.begin();
  for (const std::int64_t size : sizes) {
    parts.emplace_back(at, at + size);
    at += size;
  }
  parts.emplace_back(at, values.end());
  return model_of(parts, dtype);
}

using Cases = std::vector<std::unique_ptr<Case>>;

const Cases& small_cases() {
  static const Cases all = [] {
    Cases made;
    for (const NamedValues& named : named_values())
      for (const double dead : {0.0, 0.3, 0.9, 1.0}) {
        Model model = cut(named.make(2600, 1), {1, 2, 3, 0, 15, 16, 17, 63, 64, 65, 127, 2047});
        if (dead > 0) model.set_masks(dead, 7);
        made.push_back(
            std::make_unique<Case>(std::string(named.name) + ", dead " + std::to_string(dead), std::move(model)));
      }
    return made;
  }();
  return all;
}

const Cases& large_cases() {  // several chunks, and a sampled bracket
  static const Cases all = [] {
    Cases made;
    for (const NamedValues& named : named_values()) {
      Model model = cut(named.make(131149, 2), {65537, 31, 2048});
      if (made.size() % 3 == 2) model.set_masks(0.6, 3);
      made.push_back(std::make_unique<Case>(std::string(named.name) + ", large", std::move(model)));
    }
    return made;
  }();
  return all;
}

std::vector<Selector> exact_selectors() {
  std::vector<Selector> all;
  for_each_selector([&](const auto& selector) {
    if (!selector.approximate) all.push_back(selector);
  });
  all.push_back(Streaming{.tolerance = 0});
  return all;
}

template <class E>
void expect_sort(E& engine, const Case& c, std::int64_t rank, const Selector& selector) {
  SCOPED_TRACE(c.label + ", rank " + std::to_string(rank) + ", selector " + std::string(name_of(selector)));
  Workspace workspace;
  const PruneReport report = flow::threshold(engine, c.inputs, Identity{}, {.k = c.dead() + rank},
                                             {.selector = selector, .seed = 5}, workspace);
  const float value = c.oracle.value(rank);
  ASSERT_TRUE(report.value && same_bits(*report.value, value)) << show(*report.value) << ", right is " << show(value);
  const std::int64_t below = c.oracle.below(value), equal = c.oracle.at_or_below(value) - below;
  ASSERT_EQ(report.count_below, below);
  ASSERT_EQ(report.count_equal, equal);
  ASSERT_EQ(report.dead, c.dead());
  ASSERT_EQ(report.total, c.model.numel());
  ASSERT_EQ(report.pruned, c.dead() + (is_approximate(selector) ? below + equal : rank));
  ASSERT_TRUE(report.converged);
  ASSERT_GE(report.passes, 1.0);
}

TEST_P(Selectors, FindTheKthOfSmallSequences) {
  run([](auto& engine) {
    for (const auto& c : small_cases())
      for (const std::int64_t rank : c->ranks())
        for (const Selector& selector : exact_selectors())
          ASSERT_NO_FATAL_FAILURE(expect_sort(engine, *c, rank, selector));
  });
}

TEST_P(Selectors, FindTheKthOfLargeSequences) {
  run([](auto& engine) {
    for (const auto& c : large_cases())
      for (const Selector& selector : exact_selectors())
        for (const std::int64_t rank : c->ranks()) {
          if (!std::holds_alternative<Exact>(selector) && rank != c->oracle.numbers() / 2) continue;
          ASSERT_NO_FATAL_FAILURE(expect_sort(engine, *c, rank, selector));
        }
  });
}

TEST_P(Selectors, FindTheKthAtAwkwardSizes) {
  static const Cases cases = [] {
    Cases made;
    for (const std::int64_t n : awkward_sizes)
      for (const char* name : {"half_normal", "ternary"})
        made.push_back(std::make_unique<Case>(std::string(name) + " of " + std::to_string(n),
                                              model_of({values_named(name, n, 3)})));
    return made;
  }();
  run([](auto& engine) {
    for (const auto& c : cases)
      for (const Selector& selector : {Selector{Exact{}}, Selector{Histogram{}}}) {
        if (c->oracle.numbers() == 0) continue;
        ASSERT_NO_FATAL_FAILURE(expect_sort(engine, *c, (c->oracle.numbers() + 1) / 2, selector));
      }
  });
}

template <class E>
void expect_masks(E& engine, const Case& c, std::int64_t rank, const Selector& selector, Ties ties,
                  const Bits& expected, Workspace& workspace) {
  if (ties == Ties::exact && is_approximate(selector)) return;
  SCOPED_TRACE(c.label + ", rank " + std::to_string(rank) + ", selector " + std::string(name_of(selector)) +
               ", ties rule " + std::to_string(static_cast<int>(ties)));
  FreshMasks moved(c.moved_inputs);
  flow::make_masks(engine, c.moved_inputs, Identity{}, {.k = c.dead() + rank},
                   {.selector = selector, .ties = ties, .seed = 9}, moved.table(), workspace);
  ASSERT_TRUE(same_masks(expected, logical_bits(moved.bits(), c.moved_inputs))) << "in other orders of memory";
  FreshMasks masks(c.inputs);
  const PruneReport report =
      flow::make_masks(engine, c.inputs, Identity{}, {.k = c.dead() + rank},
                       {.selector = selector, .ties = ties, .seed = 9}, masks.table(), workspace);
  ASSERT_TRUE(same_masks(expected, masks.bits()));
  ASSERT_EQ(report.pruned, c.dead() + c.oracle.pruned(rank, ties));
  ASSERT_EQ(report.churn, c.oracle.pruned(rank, ties));
  ASSERT_EQ(report.k, c.dead() + rank);
  for (std::size_t t = 0; t < expected.size(); ++t) {
    std::int64_t live = 0;
    for (const std::uint64_t word : expected[t]) live += std::popcount(word);
    ASSERT_EQ(report.tensor_pruned[t], c.inputs[t].numel - live);
  }
}

TEST_P(Selectors, MasksAreThoseOfASort) {
  run([](auto& engine) {
    Workspace workspace;
    for (const auto& c : small_cases()) {
      std::vector<std::int64_t> ranks = c->ranks();
      ranks.push_back(0);
      for (const std::int64_t rank : ranks)
        for (const Ties ties : all_rules) {
          const Bits expected = c->oracle.masks(rank, ties);
          for (const Selector& selector : exact_selectors()) {
            if (std::holds_alternative<Streaming>(selector) && rank != c->oracle.numbers() / 2) continue;
            ASSERT_NO_FATAL_FAILURE(expect_masks(engine, *c, rank, selector, ties, expected, workspace));
          }
        }
    }
    for (const auto& c : large_cases())
      for (const Ties ties : all_rules) {
        const std::int64_t rank = c->oracle.numbers() / 2;
        const Bits expected = c->oracle.masks(rank, ties);
        for (const Selector& selector : exact_selectors())
          ASSERT_NO_FATAL_FAILURE(expect_masks(engine, *c, rank, selector, ties, expected, workspace));
      }
  });
}

// With regrow the dead compete by their plain score; without it they stay dead.
TEST_P(Selectors, RegrowLetsTheDeadCompete) {
  run([](auto& engine) {
    Workspace workspace;
    for (const char* name : {"normal", "three_values", "half_zeros"}) {
      const Values values = values_named(name, 5000, 4);
      Model model = cut(values, {100, 2500});
      model.set_masks(0.5, 1);
      const Model undead = cut(values, {100, 2500});
      const Case competing(name, undead);
      const auto inputs = model.inputs();
      for (const std::int64_t k : {0, 1, 1000, 2500, 4999, 5000}) {
        FreshMasks masks(inputs);
        const PruneReport report =
            flow::make_masks(engine, inputs, Identity{}, {.k = k}, {.regrow = true}, masks.table(), workspace);
        const Bits expected = competing.oracle.masks(k, Ties::exact);
        ASSERT_TRUE(same_masks(expected, masks.bits())) << name << ", k " << k;
        ASSERT_EQ(report.pruned, k);
        ASSERT_EQ(report.dead, 0);
        std::int64_t churn = 0;
        for (std::size_t t = 0; t < expected.size(); ++t)
          for (std::size_t w = 0; w < expected[t].size(); ++w)
            churn += std::popcount(expected[t][w] ^ model.tensors[t].mask.words()[w]);
        ASSERT_EQ(report.churn, churn);
      }
    }
  });
}

// NaN scores are never pruned with nonfinite = keep: k is capped at the numbers, and the NaN are counted.
TEST_P(Selectors, KeepNeverPrunesNaN) {
  run([](auto& engine) {
    Workspace workspace;
    Values values = values_named("half_zeros", 70000, 5);
    for (std::size_t i = 0; i < values.size(); i += 7) values[i] = not_a_number;
    Model model = cut(values, {300, 1, 66000});
    model.set_masks(0.2, 2);
    const Case c("with NaN", std::move(model));
    ASSERT_GT(c.oracle.nan(), 1000);
    for (const Selector& selector : exact_selectors())
      for (const std::int64_t k : {c.dead() + 100, c.dead() + c.oracle.numbers() / 2, c.dead() + c.oracle.numbers(),
                                   c.dead() + c.oracle.numbers() + 1, c.model.numel()}) {
        FreshMasks masks(c.inputs);
        const PruneReport report =
            flow::make_masks(engine, c.inputs, Identity{}, {.k = k},
                             {.selector = selector, .nonfinite = NonFinite::keep}, masks.table(), workspace);
        const std::int64_t rank = std::min(k - c.dead(), c.oracle.numbers());
        const Ties ties = is_approximate(selector) ? Ties::at_or_below : Ties::exact;
        ASSERT_TRUE(same_masks(c.oracle.masks(rank, ties), masks.bits())) << name_of(selector) << ", k " << k;
        ASSERT_EQ(report.nonfinite, c.oracle.nan()) << name_of(selector);
        ASSERT_EQ(report.k, k);
        ASSERT_EQ(report.pruned, c.dead() + c.oracle.pruned(rank, ties));
      }
  });
}

TEST_P(Selectors, NothingButNaNKeepsEverything) {
  run([](auto& engine) {
    Workspace workspace;
    const Case c("all NaN", cut(Values(500, not_a_number), {130}));
    for (const Selector& selector : exact_selectors()) {
      FreshMasks masks(c.inputs);
      const PruneReport report =
          flow::make_masks(engine, c.inputs, Identity{}, {.k = 200},
                           {.selector = selector, .nonfinite = NonFinite::keep}, masks.table(), workspace);
      ASSERT_TRUE(same_masks(c.oracle.masks(0, Ties::exact), masks.bits())) << name_of(selector);
      ASSERT_EQ(report.pruned, 0);
      ASSERT_EQ(report.nonfinite, 500);
    }
  });
}

// The same sequence in one tensor or in many, with any seed: one threshold, one pruned set.
TEST_P(Selectors, CuttingAndSeedChangeNothing) {
  run([](auto& engine) {
    Workspace workspace;
    const Values values = values_named("bitter7_like", 131149, 6);
    for (const Scorer& scorer : {Scorer{Identity{}}, Scorer{Random{.seed = 8}}}) {
      std::optional<float> first;
      std::vector<bool> first_kept;
      std::uint64_t seed = 0;
      for (const std::vector<std::int64_t>& sizes :
           {std::vector<std::int64_t>{}, {1}, {0, 63, 65, 0}, {65536}, {131000, 100}, {7, 65529, 65537}}) {
        const Model model = cut(values, sizes);
        const auto inputs = model.inputs();
        FreshMasks masks(inputs);
        const PruneReport report =
            flow::make_masks(engine, inputs, scorer, {.sparsity = 0.3}, {.seed = ++seed}, masks.table(), workspace);
        std::vector<bool> kept;
        for (std::size_t t = 0; t < inputs.size(); ++t)
          for (std::int64_t i = 0; i < inputs[t].numel; ++i) kept.push_back(bits::get(masks.table()[t], i));
        if (!first) {
          first = report.value;
          first_kept = kept;
        }
        ASSERT_EQ(report.value, first);
        ASSERT_EQ(kept, first_kept);
      }
    }
  });
}

}  // namespace
}  // namespace bittersweet::test
