// The selectors beside exact as whole steps on the emulator: the answer, the counts, the masks and the error of the
// flow over the reference engine, bit for bit, whatever the scores, the ties, the masks or the order of threads.
#include "cuda/search_plan.hpp"
#include "cuda/step_support.hpp"

namespace bittersweet::test {
namespace {

std::string show(const Step& step) {
  return std::string(name_of(step.options.selector)) + ", " + name_of(step.scorer) + ", k " + std::to_string(step.k) +
         " of " + std::to_string(step.model.numel());
}

TEST(CudaSelectors, EveryScorerAndStorage) {
  std::uint64_t seed = 0;
  for (const Scorer& scorer : all_scorers())
    for (const Selector& selector : selectors()) {
      ++seed;
      Step step{.model = training_model({1, 3000, 1024, 31, 5000, 2048}, storages()[seed % storages().size()], seed,
                                        seed % 2 ? Placement::flush : Placement::offset),
                .scorer = scorer,
                .options = {.nonfinite = NonFinite::keep, .seed = seed, .selector = selector},
                .seed = seed,
                .processors = 1 + static_cast<unsigned>(seed % 3)};
      step.k = step.model.numel() * static_cast<std::int64_t>(1 + seed % 9) / 10;
      SCOPED_TRACE(show(step));
      expect_like_reference(step);
    }
}

TEST(CudaSelectors, NamedValuesTiesAndBudgets) {
  std::uint64_t seed = 0;
  for (const NamedValues& named : named_values())
    for (const Selector& selector : selectors()) {
      const bool approximate = is_approximate(selector), sampling = std::holds_alternative<Sampling>(selector);
      ++seed;
      const std::int64_t size = sampling ? 6000 : 1500;
      Step step{.model = model_of({named.make(size, seed), named.make(1, seed), named.make(size + 700, seed + 1)},
                                  DType::f32, seed % 2 ? Placement::offset : Placement::flush),
                .scorer = seed % 3 == 0 ? Scorer(Magnitude{}) : Scorer(Identity{}),
                .options = {.selector = selector},
                .seed = seed};
      const std::int64_t n = step.model.numel(), ks[] = {0, 1, n / 3, n / 2, n - 1, n};
      for (std::size_t i = 0; i < std::size(ks); ++i) {
        step.k = ks[i];
        const Ties rules[] = {Ties::at_or_below, Ties::below, Ties::exact};
        step.options.ties = rules[(seed + i) % (approximate ? 2 : 3)];
        SCOPED_TRACE(std::string(named.name) + ", " + show(step) + ", ties " +
                     std::to_string(static_cast<int>(*step.options.ties)));
        expect_like_reference(step);
      }
    }
}

TEST(CudaSelectors, MasksRegrowthAndModifiers) {
  std::uint64_t seed = 0;
  for (const Selector& selector : selectors())
    for (const double dead : {0.3, 0.9, 1.0})
      for (const bool regrow : {false, true})
        for (const float modifier : {0.05f, 0.0f, -1.0f, not_a_number}) {
          Step step{.model = training_model({6000, 1024, 5777}, {seed % 2 ? DType::f32 : DType::bf16}, ++seed,
                                            seed % 2 ? Placement::flush : Placement::offset),
                    .scorer = seed % 3 == 0   ? Scorer(Bitter7{})
                              : seed % 3 == 1 ? Scorer(Bitter5{})
                                              : Scorer(Magnitude{}),
                    .options = {.nonfinite = NonFinite::keep, .seed = seed, .regrow = regrow, .selector = selector},
                    .seed = seed};
          step.model.set_masks(dead, seed);
          step.model.tensors[1].masked = seed % 4 == 0;
          step.model.tensors[2].modifier = modifier;
          step.k = step.model.numel() * static_cast<std::int64_t>(1 + seed % 10) / 10;
          SCOPED_TRACE(show(step) + ", dead " + std::to_string(dead) + ", modifier " + std::to_string(modifier) +
                       (regrow ? ", regrow" : ""));
          expect_like_reference(step);
        }
}

TEST(CudaSelectors, ExtremeInputs) {
  std::uint64_t seed = 0;
  for (const Selector& selector : selectors())
    for (const Scorer& scorer : {Scorer(Magnitude{}), Scorer(Bitter7{}), Scorer(Bitter9Hybrid{}), Scorer(Taylor{})}) {
      Step step{.model = training_model({8192, 2048}, {DType::f32}, ++seed, Placement::flush),
                .scorer = scorer,
                .options = {.nonfinite = NonFinite::keep, .selector = selector},
                .seed = seed};
      Generator random(seed);
      for (Tensor& tensor : step.model.tensors)
        for (Array* array : {&tensor.weight, &tensor.exp_avg, &tensor.exp_avg_sq, &tensor.grad})
          for (std::size_t i = 0; i < array->size(); ++i) {
            const std::int64_t kind = random.below(8);
            if (kind == 0) array->set(i, random.any_float());
            if (kind == 1) array->set(i, 0.0f);
            if (kind == 2) array->set(i, tiniest * static_cast<float>(random.below(1000)));
            if (kind == 3 && random.below(20) == 0) array->set(i, infinity);
          }
      for (const double sparsity : {0.05, 0.2, 0.6}) {
        step.k = static_cast<std::int64_t>(sparsity * static_cast<double>(step.model.numel()));
        SCOPED_TRACE(show(step));
        expect_like_reference(step);
      }
    }
}

TEST(CudaSelectors, AwkwardSizes) {
  for (const Selector& selector : selectors()) {
    for (const std::int64_t n : {0, 1, 2, 31, 33, 1025, 4095, 4097, 10000, 10001}) {
      Step step{.model = training_model({n}, {DType::f32}, static_cast<std::uint64_t>(n) + 1),
                .scorer = Bitter7{},
                .k = (n + 1) / 2,
                .options = {.selector = selector},
                .seed = static_cast<std::uint64_t>(n)};
      SCOPED_TRACE(show(step));
      expect_like_reference(step);
    }
    Step none{.model = {}, .options = {.selector = selector}};
    expect_like_reference(none);
    Step empty{.model = training_model({0, 9000, 0, 0, 4096, 0, 33, 1}, {DType::f32}),
               .scorer = Bitter7{},
               .k = 6000,
               .options = {.selector = selector}};
    SCOPED_TRACE(show(empty));
    expect_like_reference(empty);
  }
}

// Sums of many blocks, whose order shows in the guess, and with it in what is counted.
TEST(CudaSelectors, MomentsAreTheCpus) {
  for (const char* name : {"normal", "student_t", "bitter7_like"})
    for (const double tolerance : {0.05, 1e-3}) {
      Step step{
          .model = model_of({values_named(name, 70000, 1), values_named(name, 5000, 2), values_named(name, 40001, 3)},
                            DType::f32, Placement::flush),
          .options = {.selector = Streaming{.tolerance = tolerance}}};
      step.model.set_masks(0.2, 4);
      step.k = step.model.numel() * 6 / 10;
      SCOPED_TRACE(name);
      expect_like_reference(step);
    }
}

// A sample that meets nothing alive: the answer is exact all the same.
TEST(CudaSelectors, AlmostEverythingDead) {
  for (const Sampling::By by : {Sampling::By::line, Sampling::By::element})
    for (const std::int64_t alive : {0, 3}) {
      Step step{.model = model_of({values_named("normal", 40000, 1)}, DType::f32, Placement::flush),
                .options = {.selector = Sampling{.by = by}}};
      step.model.set_masks(1.0, 1);
      std::uint64_t* const mask = step.model.tensors[0].mask.data();
      // Three neighbours: a sample of a quarter most likely has none of them.
      for (std::int64_t i = 0; i < alive; ++i) bits::set(mask, 17 + i);
      step.k = step.model.numel() - 1;
      std::int64_t fell_back = 0;
      for (std::uint64_t seed = 0; seed < 4; ++seed) {
        step.options.seed = seed;
        const Expected want = expected(step);
        fell_back += !want.report.standard_error;
        expect_same(want, run(step));
      }
      EXPECT_GT(fell_back, 0);
    }
}

TEST(CudaSelectors, ThresholdWithoutMasks) {
  for (const Selector& selector : selectors())
    for (const double share : {0.0, 0.3, 1.0}) {
      Step step{
          .model = training_model({9000, 4000}, {DType::f32}), .scorer = Bitter7{}, .options = {.selector = selector}};
      step.model.set_masks(0.2, 3);
      step.k = static_cast<std::int64_t>(share * static_cast<double>(step.model.numel()));
      const std::vector<ScoreInputs> inputs = step.model.inputs();
      ReferenceEngine reference;
      Workspace workspace;
      const PruneReport want =
          flow::threshold(reference, inputs, step.scorer, {.k = step.k}, cuda::prune_options(step.options), workspace);
      const cuda::StepReport got = EmulatedCuda(3).step(inputs, step.scorer, {.k = step.k}, step.options, {});
      SCOPED_TRACE(show(step));
      EXPECT_TRUE(same_bits(*want.value, got.value));
      EXPECT_EQ(got.below, want.count_below);
      EXPECT_EQ(got.equal, want.count_equal);
      EXPECT_EQ(got.pruned, want.pruned);
      EXPECT_EQ(std::isnan(got.standard_error), !want.standard_error);
    }
}

TEST(CudaSelectors, AlmostEverythingNaN) {  // a sample without a number, in which NaN count once
  for (const Sampling::By by : {Sampling::By::line, Sampling::By::element})
    for (const std::int64_t numbers : {0, 3})
      for (std::uint64_t seed = 0; seed < 4; ++seed) {
        Step step{.model = model_of({values_named("normal", 40000, 1)}, DType::f32, Placement::flush),
                  .k = 2,
                  .options = {.nonfinite = NonFinite::keep, .seed = seed, .selector = Sampling{.by = by}}};
        for (std::int64_t i = 0; i < step.model.numel(); ++i)
          if (i < 17 || i >= 17 + numbers) step.model.tensors[0].scores.set(static_cast<std::size_t>(i), not_a_number);
        SCOPED_TRACE(show(step));
        expect_same(expected(step), run(step));
      }
}

TEST(CudaSelectors, NaNVoidsAStep) {
  for (const Selector& selector : selectors()) {
    Step step{.model = training_model({9000, 4000}, {DType::f32}, 2, Placement::flush),
              .scorer = Bitter7{},
              .k = 6000,
              .options = {.zero = roles::weight, .selector = selector}};
    step.model.set_masks(0.2, 3);
    Tensor& tensor = step.model.tensors[1];
    for (const std::size_t i : {std::size_t{3000}, std::size_t{77}}) {
      tensor.weight.set(i, not_a_number);
      bits::set(tensor.mask.data(), static_cast<std::int64_t>(i));
    }
    const auto before = step.model.bytes();
    const Result got = run(step);
    SCOPED_TRACE(show(step));
    EXPECT_EQ(got.report.status, cuda::status::nan | cuda::status::failed);
    EXPECT_EQ(got.report.nan, 2);
    EXPECT_EQ(got.report.first_nan, 9077);
    EXPECT_EQ(step.model.bytes(), before);
    for (std::size_t t = 0; t < 2; ++t)
      for (std::int64_t i = 0; i < step.model.tensors[t].numel; ++i)
        ASSERT_EQ(bits::get(got.masks[t].data(), i), bits::get(step.model.tensors[t].mask.data(), i));
  }
}

TEST(CudaSelectors, BudgetsOutOfRangeVoidAStep) {
  for (const Selector& selector : selectors())
    for (const std::int64_t k : {-1, 13001}) {
      const Step step{.model = training_model({9000, 4000}, {DType::f32}),
                      .scorer = Bitter7{},
                      .k = k,
                      .options = {.zero = roles::weight, .selector = selector}};
      const auto before = step.model.bytes();
      const Result got = run(step);
      EXPECT_EQ(got.report.status, cuda::status::bad_k | cuda::status::failed) << show(step);
      EXPECT_EQ(step.model.bytes(), before) << show(step);
    }
}

TEST(CudaSelectors, ZerosAreWritten) {
  for (const Selector& selector : selectors()) {
    Step step{.model = training_model({9000, 4000}, {DType::f32}),
              .scorer = Bitter7{},
              .k = 6500,
              .options = {.zero = roles::weight | roles::exp_avg_sq, .selector = selector}};
    const Expected want = expected(step);
    expect_same(want, run(step));
    const std::vector<ScoreInputs> inputs = step.model.inputs();
    for (std::size_t t = 0; t < inputs.size(); ++t)
      for (std::int64_t i = 0; i < inputs[t].numel; ++i)
        if (!bits::get(want.masks[t].data(), i)) {
          ASSERT_EQ(load_as_float(inputs[t].weight.data, inputs[t].weight.dtype, i), 0.0f);
        }
  }
}

// What a captured step does: the same launches with another budget, none of which knows of the one before.
TEST(CudaSelectors, ReplaysWithAnotherBudget) {
  for (const Selector& selector : selectors()) {
    Step step{
        .model = training_model({9000, 4000}, {DType::f32}), .scorer = Bitter7{}, .options = {.selector = selector}};
    const std::vector<ScoreInputs> inputs = step.model.inputs();
    const FreshMasks masks(inputs);
    const std::vector<cuda::StepBudget> budgets{{.k = 9000}, {.k = 0}, {.k = 99999}, {.k = 13000}, {.k = 4000}};
    EmulatedCuda engine(5);
    std::vector<std::int64_t> pruned;
    const auto reports = engine.replay(inputs, step.scorer, budgets, step.options, masks.table(), &pruned);
    for (std::size_t i = 0; i < budgets.size(); ++i) {
      step.k = budgets[i].k;
      SCOPED_TRACE(show(step));
      if (step.k > 13000) {
        EXPECT_EQ(reports[i].status, cuda::status::bad_k | cuda::status::failed);
        continue;
      }
      const Expected want = expected(step);
      EXPECT_TRUE(same_bits(*want.report.value, reports[i].value));
      EXPECT_EQ(reports[i].pruned, want.report.pruned);
      EXPECT_EQ(reports[i].passes > 0, step.k > 0);
      if (i + 1 == budgets.size()) {
        EXPECT_TRUE(same_masks(want.masks, masks.bits()));
        EXPECT_EQ(pruned, want.report.tensor_pruned);
      }
    }
  }
}

TEST(CudaSelectors, OrderOfThreadsNeverShows) {
  const Values ties = with_zeros(values_named("bf16_rounded", 6000, 3), 0.4, 4);
  for (const Selector& selector : selectors()) {
    Step step{.model = model_of({ties, ties}, DType::f32, Placement::flush),
              .scorer = Magnitude{},
              .k = 5000,
              .options = {.selector = selector}};
    const Expected want = expected(step);
    const Result first = run(step);
    for (std::uint64_t seed = 2; seed < 42; ++seed) {
      step.seed = seed;
      step.processors = 1 + static_cast<unsigned>(seed % 4);
      const Result got = run(step);
      SCOPED_TRACE(show(step) + ", seed " + std::to_string(seed));
      expect_same(want, got);
      EXPECT_EQ(std::memcmp(&first.report, &got.report, sizeof got.report), 0);
    }
  }
}

// Beside what is sampled, or written by kthvalue, at most 2 % of an array of scores.
TEST(CudaSelectors, Memory) {
  const std::int64_t n = std::int64_t{400} << 20;
  const ScoreInputs tensor{.numel = n, .geometry = flat(n)};
  const auto bytes = [&](const Selector& selector) {
    return static_cast<double>(cuda::make_layout({&tensor, 1}, true, {.selector = selector}).bytes) /
           (4.0 * static_cast<double>(n));
  };
  EXPECT_LT(bytes(Exact{}), 0.02);
  EXPECT_LT(bytes(Histogram{}), 0.004);
  EXPECT_LT(bytes(Streaming{}), 0.005);
  EXPECT_LT(bytes(Sampling{.fraction = 0.016}), 0.02);
  EXPECT_LT(bytes(Sampling{}), 0.02 + 0.004);
  EXPECT_LT(bytes(KthValue{}), 1.004);
}

}  // namespace
}  // namespace bittersweet::test
