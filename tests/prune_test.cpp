// The public functions end to end: what a mask event reports and writes, for every scope, and nothing besides.
#include "bittersweet/prune.hpp"

#include <numeric>

#include "support/compare.hpp"
#include "support/inputs.hpp"

namespace bittersweet::test {
namespace {

std::vector<Values> scores_of(const Model& model, const Scorer& scorer) {
  const auto inputs = model.inputs();
  std::vector<Values> scores;
  std::vector<float*> out;
  for (const ScoreInputs& tensor : inputs) {
    scores.emplace_back(static_cast<std::size_t>(tensor.numel));
    out.push_back(scores.back().data());
  }
  write_scores(inputs, scorer, out);
  return scores;
}

SortOracle oracle_of(const Model& model, const Scorer& scorer) { return {scores_of(model, scorer), model.inputs()}; }

const std::vector<DType> one_type{DType::f32}, mixed{DType::f32, DType::bf16, DType::f16};

TEST(Prune, GlobalEventOnEveryDtype) {
  for (const auto& dtypes : {one_type, mixed, std::vector{DType::bf16}})
    for (const bool masked : {false, true})
      for (const std::uint32_t which : {roles::weight, roles::weight | roles::exp_avg | roles::exp_avg_sq}) {
        Model model = training_model({3000, 64, 0, 1, 70001}, dtypes, 1, Placement::offset);
        model.tensors[0].geometry = matrix(300, 10);
        if (masked) model.set_masks(0.3, 1);
        const auto inputs = model.inputs();
        const SortOracle oracle = oracle_of(model, Bitter7{});
        const Model before = model;
        FreshMasks masks(inputs);
        Workspace workspace;
        const PruneReport report = prune(inputs, Bitter7{}, {.sparsity = 0.6}, {}, masks.table(), workspace, which);

        const std::int64_t n = model.numel(), k = (6 * n + 5) / 10, dead = n - oracle.live();
        EXPECT_EQ(report.total, n);
        EXPECT_EQ(report.k, k);
        EXPECT_EQ(report.pruned, k);
        EXPECT_EQ(report.dead, dead);
        EXPECT_EQ(report.churn, k - dead);
        EXPECT_EQ(report.nonfinite, 0);
        const float value = oracle.value(k - dead);
        ASSERT_TRUE(report.value && same_bits(*report.value, value));
        EXPECT_EQ(report.count_below, oracle.below(value));
        EXPECT_EQ(report.count_below + report.count_equal, oracle.at_or_below(value));
        for (const auto& threshold : report.tensor_threshold) EXPECT_EQ(threshold, value);
        ASSERT_TRUE(same_masks(oracle.masks(k - dead, Ties::exact), masks.bits()));
        EXPECT_EQ(std::accumulate(report.tensor_pruned.begin(), report.tensor_pruned.end(), std::int64_t{0}), k);

        ASSERT_TRUE(model.intact());
        std::int64_t empty_rows = 0;
        for (std::size_t t = 0; t < inputs.size(); ++t) {
          const Tensor &now = model.tensors[t], &then = before.tensors[t];
          std::int64_t pruned = 0;
          for (std::size_t i = 0; i < now.weight.size(); ++i) {
            const bool keep = bits::get(masks.table()[t], static_cast<std::int64_t>(i));
            pruned += !keep;
            const bool states = which != roles::weight;
            ASSERT_TRUE(same_bits(now.weight[i], keep ? then.weight[i] : 0.0f));
            ASSERT_TRUE(same_bits(now.exp_avg[i], keep || !states ? then.exp_avg[i] : 0.0f));
            ASSERT_TRUE(same_bits(now.exp_avg_sq[i], keep || !states ? then.exp_avg_sq[i] : 0.0f));
          }
          EXPECT_EQ(report.tensor_pruned[t], pruned);
          EXPECT_EQ(now.grad.bytes(), then.grad.bytes());
          EXPECT_EQ(now.max_exp_avg_sq.bytes(), then.max_exp_avg_sq.bytes());
          const Geometry& g = now.geometry;
          for (std::int64_t row = 0; row < g.rows && now.numel > 0; ++row) {
            std::int64_t live = 0, lived = 0;
            for (std::int64_t i = row * g.row_stride; i < row * g.row_stride + g.row_size(); ++i) {
              live += bits::get(masks.table()[t], i);
              lived += inputs[t].mask == nullptr || bits::get(inputs[t].mask, i);
            }
            empty_rows += live == 0 && lived > 0;
          }
        }
        EXPECT_EQ(report.empty_rows, empty_rows);
        EXPECT_EQ(count_violations(inputs, masks.read_only(), which), std::vector<std::int64_t>(inputs.size(), 0));
      }
}

TEST(Prune, EveryScorerAgainstASort) {
  Workspace workspace;
  for (const bool modified : {false, true}) {
    Model model = training_model({500, 40000, 7}, mixed, 3);
    model.set_masks(0.2, 5);
    if (modified) model.tensors[0].modifier = 0.0f;
    if (modified) model.tensors[1].modifier = 0.25f;
    const auto inputs = model.inputs();
    for (const Scorer& scorer : all_scorers()) {
      const SortOracle oracle = oracle_of(model, scorer);
      const std::int64_t k = model.numel() / 2, rank = k - (model.numel() - oracle.live());
      FreshMasks masks(inputs);
      const PruneReport report = make_masks(inputs, scorer, {.k = k}, {}, masks.table(), workspace);
      EXPECT_TRUE(same_masks(oracle.masks(rank, Ties::exact), masks.bits())) << info_of(scorer).name;
      EXPECT_EQ(*report.value, oracle.value(rank)) << info_of(scorer).name;
    }
  }
}

TEST(Prune, NothingAndEverything) {
  Model model = training_model({100, 0, 70}, one_type);
  model.set_masks(0.5, 1);
  const auto inputs = model.inputs();
  const SortOracle oracle = oracle_of(model, Magnitude{});
  const std::int64_t dead = 170 - oracle.live();
  Workspace workspace;
  for (const std::int64_t k : {std::int64_t{0}, dead / 2, dead})  // fewer than are dead: nothing more
    for (const Ties ties : {Ties::exact, Ties::at_or_below, Ties::below}) {
      FreshMasks masks(inputs);
      const PruneReport report = make_masks(inputs, Magnitude{}, {.k = k}, {.ties = ties}, masks.table(), workspace);
      EXPECT_EQ(report.pruned, dead);
      EXPECT_EQ(*report.value, -infinity);
      EXPECT_TRUE(same_masks(oracle.masks_without(0), masks.bits()));
    }
  FreshMasks masks(inputs);
  EXPECT_EQ(make_masks(inputs, Magnitude{}, {.sparsity = 1.0}, {}, masks.table(), workspace).pruned, 170);
  for (const auto& words : masks.bits())
    for (const std::uint64_t word : words) EXPECT_EQ(word, 0u);

  const PruneReport none = make_masks({}, Magnitude{}, {.sparsity = 0.5}, {}, {}, workspace);
  EXPECT_EQ(none.total, 0);
  EXPECT_EQ(none.pruned, 0);
  EXPECT_EQ(threshold({}, Bitter7{}, {.k = 0}, {}, workspace).k, 0);
}

TEST(Prune, ScopeTensorIsEachTensorAlone) {
  Model model = training_model({3000, 65, 40001, 1, 0}, mixed, 4);
  model.set_masks(0.2, 2);
  const auto inputs = model.inputs();
  const std::vector<Values> scores = scores_of(model, Bitter3{});
  Workspace workspace;
  for (const std::optional<Distribution> distribution :
       {std::optional<Distribution>{}, {Distribution::uniform}, {Distribution::erk}, {Distribution::layer_adaptive}}) {
    FreshMasks masks(inputs);
    const PruneReport report =
        make_masks(inputs, Bitter3{}, {.sparsity = 0.5}, {.scope = {Scope::tensor}, .distribution = distribution},
                   masks.table(), workspace);
    EXPECT_FALSE(report.value);
    std::vector<std::int64_t> dead, share;
    for (const ScoreInputs& tensor : inputs)
      dead.push_back(tensor.numel - count_live({&tensor, 1}, {{tensor.mask}})[0]);
    const Distribution used = distribution.value_or(Distribution::uniform);
    share = allocate(inputs, dead, used, resolve({.sparsity = 0.5}, model.numel()), model.numel(), 0.5);
    Bits expected;
    for (std::size_t t = 0; t < inputs.size(); ++t) {
      const SortOracle alone({scores[t]}, {&inputs[t], 1});
      const std::int64_t rank = share[t] - dead[t];
      expected.push_back(alone.masks(rank, Ties::exact)[0]);
      EXPECT_EQ(report.tensor_pruned[t], share[t]);
      EXPECT_EQ(report.tensor_threshold[t], rank > 0 ? alone.value(rank) : -infinity);
    }
    EXPECT_TRUE(same_masks(expected, masks.bits()));
    EXPECT_EQ(report.k, std::accumulate(share.begin(), share.end(), std::int64_t{0}));
    EXPECT_EQ(report.pruned, report.k);
  }
}

TEST(Prune, ScopeRowAndNOfM) {
  Model model = training_model({40 * 64, 8 * 12 * 9}, mixed, 5);
  model.tensors[0].geometry = matrix(40, 64);
  model.tensors[1].geometry = {8, 12, 9, 108, 9};
  const auto inputs = model.inputs();
  Workspace workspace;
  const auto pruned_by = [&](const Budget& budget, const char* scope, PruneOptions options = {}) {
    options.scope = parse_scope(scope);
    FreshMasks masks(inputs);
    const PruneReport report = make_masks(inputs, Magnitude{}, budget, options, masks.table(), workspace);
    EXPECT_FALSE(report.value);
    EXPECT_EQ(report.pruned, report.k);
    return report.tensor_pruned;
  };
  using Counts = std::vector<std::int64_t>;
  EXPECT_EQ(pruned_by({.sparsity = 0.37}, "row"), (Counts{40 * 24, 8 * 40}));  // of 64: 23.68; of 108: 39.96
  EXPECT_EQ(pruned_by({.sparsity = 0.37}, "row", {.rounding = Rounding::floor}), (Counts{40 * 23, 8 * 39}));
  EXPECT_EQ(pruned_by({}, "2:4"), (Counts{40 * 32, 8 * 54}));
  EXPECT_EQ(pruned_by({.sparsity = 0.25}, "2:4"), (Counts{40 * 16, 8 * 27}));
  EXPECT_EQ(pruned_by({.sparsity = 0.5}, "1:4"), (Counts{40 * 32, 8 * 54}));
  EXPECT_EQ(pruned_by({}, "3:5", {.remainder = Remainder::keep}), (Counts{40 * 24, 8 * 9 * 4}));
  const Counts erk = pruned_by({.sparsity = 0.5}, "row", {.distribution = Distribution::erk});
  EXPECT_EQ(erk[0] + erk[1], (2560 + 864) / 2);
}

// No tensor gives more than its cap; the rest of the budget comes from the others, by one threshold.
TEST(Prune, MaxTensorSparsity) {
  Workspace workspace;
  for (const char* name : {"row_scale", "three_values", "half_zeros"})
    for (const double cap : {0.0, 0.3, 0.7, 1.0})
      for (const bool masked : {false, true}) {
        SCOPED_TRACE(std::string(name) + ", cap " + std::to_string(cap) + (masked ? ", masked" : ""));
        std::vector<Values> values;
        for (const std::int64_t n : {100, 5000, 333, 40000, 0, 1}) {
          values.push_back(values_named(name, n, static_cast<std::uint64_t>(n) + 1));
          for (float& x : values.back()) x *= static_cast<float>(values.size());  // later layers have larger scores
        }
        Model model = model_of(values);
        if (masked) model.set_masks(0.1, 3);
        const auto inputs = model.inputs();
        FreshMasks masks(inputs);
        const PruneReport report =
            make_masks(inputs, Magnitude{}, {.sparsity = 0.5}, {.max_tensor_sparsity = cap}, masks.table(), workspace);
        std::int64_t most_in_all = 0, pruned = 0;
        float highest_pruned = -infinity, lowest_kept = infinity;  // among tensors below their caps
        for (std::size_t t = 0; t < inputs.size(); ++t) {
          const SortOracle alone({values[t]}, {&inputs[t], 1});
          const std::int64_t n = inputs[t].numel, dead = n - alone.live();
          const auto most = std::max(dead, static_cast<std::int64_t>(cap * static_cast<double>(n)));
          const std::int64_t given = report.tensor_pruned[t];
          ASSERT_LE(given, most) << "tensor " << t;
          most_in_all += most;
          pruned += given;
          ASSERT_TRUE(same_words(alone.masks_without(given - dead)[0], masks.bits()[t])) << "tensor " << t;
          if (given == most || alone.live() == 0) continue;
          if (given > dead) highest_pruned = std::max(highest_pruned, alone.value(given - dead));
          lowest_kept = std::min(lowest_kept, alone.value(given - dead + 1));
        }
        EXPECT_EQ(pruned, std::min(report.k, most_in_all));
        EXPECT_EQ(report.pruned, pruned);
        EXPECT_LE(highest_pruned, lowest_kept);
      }
}

// A tensor beyond its range gives exactly the bound, the rest comes from the others, by one threshold.
TEST(Prune, RangesUnderOneThreshold) {
  Workspace workspace;
  for (const char* name : {"row_scale", "three_values", "half_zeros"})
    for (const bool masked : {false, true}) {
      SCOPED_TRACE(std::string(name) + (masked ? ", masked" : ""));
      std::vector<Values> values;
      for (const std::int64_t n : {100, 5000, 333, 40000, 0, 1, 70000}) {
        values.push_back(values_named(name, n, static_cast<std::uint64_t>(n) + 1));
        for (float& x : values.back()) x *= static_cast<float>(values.size());
      }
      Model model = model_of(values);
      if (masked) model.set_masks(0.1, 3);
      const auto inputs = model.inputs();
      FreshMasks masks(inputs);
      PruneOptions options;
      for (const ScoreInputs& tensor : inputs) options.tensor_sparsity.push_back({tensor.numel / 3, tensor.numel / 2});
      options.tensor_sparsity[1] = {700, 700};
      const PruneReport report = make_masks(inputs, Magnitude{}, {.sparsity = 0.4}, options, masks.table(), workspace);
      EXPECT_EQ(report.pruned, report.k);
      for (std::size_t t = 0; t < inputs.size(); ++t) {
        const SortOracle alone({values[t]}, {&inputs[t], 1});
        const std::int64_t given = report.tensor_pruned[t], dead = inputs[t].numel - alone.live();
        EXPECT_GE(given, options.tensor_sparsity[t].least);
        EXPECT_LE(given, options.tensor_sparsity[t].most);
        ASSERT_TRUE(same_words(alone.masks_without(given - dead)[0], masks.bits()[t])) << "tensor " << t;
        if (given < options.tensor_sparsity[t].most) {
          EXPECT_GE(alone.value(given - dead + 1), *report.value);
        }
        if (given > std::max(dead, options.tensor_sparsity[t].least)) {
          EXPECT_LE(alone.value(given - dead), *report.value);
        }
      }
    }
}

TEST(Prune, MaxTensorSparsityHoldsUnderEveryRuleOfTies) {
  const Model model = model_of({Values(100, 1.0f), Values(1000, 2.0f)});
  const auto inputs = model.inputs();
  Workspace workspace;
  for (const Selector& selector : {Selector{Exact{}}, Selector{Streaming{}}})
    for (const Ties ties : {Ties::at_or_below, Ties::below}) {
      FreshMasks masks(inputs);
      const PruneReport report =
          make_masks(inputs, Magnitude{}, {.k = 90}, {.selector = selector, .ties = ties, .max_tensor_sparsity = 0.5},
                     masks.table(), workspace);
      EXPECT_LE(report.tensor_pruned[0], 50) << name_of(selector) << ", ties rule " << static_cast<int>(ties);
      EXPECT_LE(report.tensor_pruned[1], 500) << name_of(selector) << ", ties rule " << static_cast<int>(ties);
    }
}

TEST(Prune, RegrowReopensWeights) {
  Model model = model_of({{5, 4, 3, 2, 1, 0, 0, 0}});
  model.set_masks(0.0, 1);
  for (const std::int64_t i : {0, 1}) bits::clear(model.tensors[0].mask.data(), i);  // dead, but large again
  const auto inputs = model.inputs();
  FreshMasks masks(inputs);
  Workspace workspace;
  PruneReport report = make_masks(inputs, Magnitude{}, {.k = 4}, {.regrow = true}, masks.table(), workspace);
  EXPECT_EQ(masks.bits()[0][0], 0b00001111u);
  EXPECT_EQ(report.churn, 6);
  report = make_masks(inputs, Magnitude{}, {.k = 4}, {}, masks.table(), workspace);
  EXPECT_EQ(masks.bits()[0][0], 0b10011100u);  // of the zeros, the first two
  EXPECT_EQ(report.churn, 2);
}

TEST(Prune, SharesOfSmallSecondMoments) {
  Model model = training_model({1000, 500}, one_type, 7);
  model.set_masks(0.5, 9);
  const auto inputs = model.inputs();
  std::int64_t live = 0, below = 0, zero = 0;
  for (const Tensor& tensor : model.tensors)
    for (std::size_t i = 0; i < tensor.exp_avg_sq.size(); ++i) {
      if (!bits::get(tensor.mask.data(), static_cast<std::int64_t>(i))) continue;
      ++live;
      below += tensor.exp_avg_sq[i] < 1e-8f;
      zero += tensor.exp_avg_sq[i] == 0.0f;
    }
  Workspace workspace;
  const PruneReport report = threshold(inputs, Bitter7{}, {.sparsity = 0.6}, {}, workspace);
  EXPECT_DOUBLE_EQ(*report.v_below_eps, static_cast<double>(below) / static_cast<double>(live));
  EXPECT_DOUBLE_EQ(*report.v_zero, static_cast<double>(zero) / static_cast<double>(live));
  EXPECT_FALSE(threshold(inputs, Bitter3{}, {.sparsity = 0.6}, {}, workspace).v_below_eps);

  // On a large model the shares come from a sample.
  const Model large = training_model({500000}, one_type, 8);
  const PruneReport sampled = threshold(large.inputs(), Bitter7{}, {.sparsity = 0.6}, {}, workspace);
  double exact = 0;
  for (std::size_t i = 0; i < 500000; ++i) exact += large.tensors[0].exp_avg_sq[i] < 1e-8f;
  EXPECT_NEAR(*sampled.v_below_eps, exact / 500000, 0.01);
}

TEST(Prune, ThreadsChangeNothing) {
  const Model model = training_model({900001, 65, 700000}, one_type, 9);
  const auto inputs = model.inputs();
  Workspace workspace;
  std::optional<Bits> first;
  for (const int threads : {1, 2, 5}) {
    set_num_threads(threads);
    EXPECT_EQ(num_threads(), threads);
    FreshMasks masks(inputs);
    make_masks(inputs, Bitter7{}, {.sparsity = 0.8}, {}, masks.table(), workspace);
    if (!first) first = masks.bits();
    EXPECT_TRUE(same_masks(*first, masks.bits())) << threads << " threads";
  }
  set_num_threads(0);
  EXPECT_GE(num_threads(), 1);
}

TEST(Prune, ApplyAndCountOnEveryDtype) {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16})
    for (const std::int64_t n : awkward_sizes) {
      Model model = training_model({n, 33}, {dtype}, 10, n % 2 ? Placement::flush : Placement::offset);
      const auto inputs = model.inputs();
      const Model before = model;
      const Words mask = random_mask(n, 0.5, 11, Placement::flush);
      const std::vector<const std::uint64_t*> masks{mask.data(), nullptr};  // the second tensor has none
      std::int64_t live = 0, wrong = 0;
      for (std::int64_t i = 0; i < n; ++i) {
        const auto at = static_cast<std::size_t>(i);
        live += bits::get(mask.data(), i);
        wrong += !bits::get(mask.data(), i) && before.tensors[0].weight[at] != 0.0f;
        wrong += !bits::get(mask.data(), i) && before.tensors[0].max_exp_avg_sq[at] != 0.0f;
      }
      using Counts = std::vector<std::int64_t>;
      const std::uint32_t which = roles::weight | roles::max_exp_avg_sq;
      EXPECT_EQ(count_live(inputs, masks), (Counts{live, 33}));
      EXPECT_EQ(count_violations(inputs, masks, which), (Counts{wrong, 0}));
      apply_masks(inputs, masks, which);
      EXPECT_EQ(count_violations(inputs, masks, which), (Counts{0, 0}));
      ASSERT_TRUE(model.intact());
      for (std::int64_t i = 0; i < n; ++i) {
        const auto at = static_cast<std::size_t>(i);
        const bool keep = bits::get(mask.data(), i);
        ASSERT_TRUE(same_bits(model.tensors[0].weight[at], keep ? before.tensors[0].weight[at] : 0.0f));
      }
      EXPECT_EQ(model.tensors[0].exp_avg.bytes(), before.tensors[0].exp_avg.bytes());
      EXPECT_EQ(model.tensors[1].weight.bytes(), before.tensors[1].weight.bytes());
    }
}

}  // namespace
}  // namespace bittersweet::test
