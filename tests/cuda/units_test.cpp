// Scope tensor on the emulator: a selection for each tensor, all of them side by side, against the reference flow.
#include "cuda/step_support.hpp"

namespace bittersweet::test {
namespace {

const Scope by_tensor{.kind = Scope::tensor};

void expect_like_flow(const Step& step, std::size_t room = 0) {
  const auto before = step.model.bytes();
  EmulatedCuda engine(step.seed, step.processors);
  engine.force_room(room);
  expect_same_tensors(expected(step), run(step, engine));
  EXPECT_EQ(step.model.bytes(), before) << "a step without `zero` wrote to an input";
  EXPECT_TRUE(step.model.intact());
}

TEST(CudaUnits, DistributionsDeadAndRegrow) {
  std::uint64_t seed = 0;
  for (const std::optional<Distribution>& distribution :
       {std::optional<Distribution>{}, {Distribution::uniform}, {Distribution::erk}, {Distribution::layer_adaptive}})
    for (const double dead : {0.0, 0.3, 0.8})
      for (const bool regrow : {false, true}) {
        if (dead == 0.0 && regrow) continue;
        for (const double sparsity : {0.0, 0.37, 0.7, 1.0}) {
          Step step{.model = training_model({3000, 1, 1024, 0, 31, 5000}, {DType::f32}, ++seed, Placement::flush),
                    .scorer = seed % 2 ? Scorer(Bitter7{}) : Scorer(Bitter9Hybrid{}),
                    .options = {.regrow = regrow, .scope = by_tensor, .distribution = distribution},
                    .seed = seed,
                    .processors = 1 + static_cast<unsigned>(seed % 3),
                    .sparsity = sparsity};
          if (dead > 0) step.model.set_masks(dead, seed);
          if (seed % 3 == 0) {
            step.k = static_cast<std::int64_t>(sparsity * static_cast<double>(step.model.numel()));
            step.sparsity.reset();
          }
          SCOPED_TRACE("distribution " + std::to_string(distribution ? static_cast<int>(*distribution) : -1) +
                       ", dead " + std::to_string(dead) + (regrow ? ", regrow" : "") + ", sparsity " +
                       std::to_string(sparsity));
          expect_like_flow(step);
        }
      }
}

TEST(CudaUnits, EveryScorerAndStorage) {
  std::uint64_t seed = 0;
  for (const Scorer& scorer : all_scorers())
    for (const std::vector<DType>& dtypes : storages()) {
      if (++seed % 3 != 0) continue;  // every scorer, and every storage of many
      Step step{.model = training_model({2100, 31, 1024}, dtypes, seed, Placement::offset),
                .scorer = scorer,
                .options = {.nonfinite = NonFinite::keep, .scope = by_tensor},
                .seed = seed,
                .sparsity = 0.1 * static_cast<double>(1 + seed % 9)};
      SCOPED_TRACE(name_of(scorer) + ", storage " + name_of(dtypes[0]) + " of " + std::to_string(dtypes.size()));
      expect_like_flow(step);
    }
}

TEST(CudaUnits, NastyValuesAndTies) {
  std::uint64_t seed = 0;
  for (const Ties ties : {Ties::exact, Ties::at_or_below, Ties::below})
    for (const double sparsity : {0.02, 0.5, 0.98})
      for (const Scorer& scorer : {Scorer(Magnitude{}), Scorer(Identity{})}) {
        std::vector<Values> values;
        for (const char* name : {"half_normal", "half_zeros", "three_values", "any_number", "all_zero", "denormals",
                                 "signed_zeros", "mostly_zeros", "bf16_rounded"}) {
          ++seed;
          values.push_back(values_named(name, 1500 + static_cast<std::int64_t>(seed % 700), seed));
        }
        values.push_back({});
        values.push_back(Values(2050, 1.0f));
        Step step{.model = model_of(values, DType::f32, Placement::flush),
                  .scorer = scorer,
                  .options = {.ties = ties, .nonfinite = NonFinite::keep, .scope = by_tensor},
                  .seed = seed,
                  .sparsity = sparsity};
        SCOPED_TRACE(name_of(scorer) + ", ties " + std::to_string(static_cast<int>(ties)) + ", sparsity " +
                     std::to_string(sparsity));
        expect_like_flow(step, seed % 2 ? 0 : 300000);  // all at once, and a few at a time
      }
}

TEST(CudaUnits, HundredsOfTinyTensors) {
  Generator random(4);
  std::vector<std::int64_t> sizes;
  for (int t = 0; t < 200; ++t) sizes.push_back(random.below(10) ? random.below(90) : random.below(3));
  Step step{.model = training_model(sizes, {DType::f32}, 3, Placement::flush),
            .scorer = Bitter7{},
            .options = {.scope = by_tensor, .distribution = Distribution::layer_adaptive},
            .sparsity = 0.6};
  step.model.set_masks(0.2, 8);
  expect_like_flow(step, std::size_t{3} << 20);
}

// A bad bracket, or no room, in one unit among others.
TEST(CudaUnits, MissesAndOverflowInOneTensor) {
  std::uint64_t seed = 0;
  std::uint32_t seen = 0;
  for (const char* name : {"half_normal", "half_zeros", "three_values"})
    for (const Scorer& scorer : {Scorer(Magnitude{}), Scorer(Identity{})})
      for (const double from : {0.1, 0.45, 0.8})
        for (const std::int64_t capacity : {std::int64_t{3000}, std::int64_t{20}, std::int64_t{0}}) {
          const Values values = values_named(name, 3000, 11);
          Step step{.model = model_of({values_named(name, 900, 2), values, values_named(name, 1100, 12)}, DType::f32,
                                      Placement::flush),
                    .scorer = scorer,
                    .options = {.ties = seed % 3 == 0 ? Ties::below : Ties::exact, .scope = by_tensor},
                    .sparsity = seed % 2 ? 0.5 : 0.97};
          Values scores = values;
          if (std::holds_alternative<Magnitude>(scorer))
            for (float& score : scores) score = std::fabs(score);
          std::sort(scores.begin(), scores.end());
          EmulatedCuda engine(++seed);
          engine.force_tensor(1);
          engine.force_bracket(scores[static_cast<std::size_t>(from * 2999)],
                               scores[static_cast<std::size_t>((from + 0.1) * 2999)]);
          engine.force_capacity(capacity);
          SCOPED_TRACE(std::string(name) + ", " + name_of(scorer) + ", from " + std::to_string(from) + ", capacity " +
                       std::to_string(capacity));
          const Result got = run(step, engine);
          expect_same_tensors(expected(step), got);
          seen |= got.report.status;
        }
  EXPECT_EQ(seen, cuda::status::overflow | cuda::status::missed);
}

TEST(CudaUnits, OrderOfThreadsNeverShows) {
  Step step{.model = model_of({with_zeros(values_named("bf16_rounded", 1500, 3), 0.4, 4), Values(40, 1.0f),
                               values_named("three_values", 2100, 5)},
                              DType::f32, Placement::flush),
            .scorer = Magnitude{},
            .options = {.scope = by_tensor, .distribution = Distribution::erk},
            .sparsity = 0.55};
  step.model.set_masks(0.1, 2);
  const Expected want = expected(step);
  const Result first = run(step);
  for (std::uint64_t seed = 2; seed < 42; ++seed) {
    step.seed = seed;
    step.processors = 1 + static_cast<unsigned>(seed % 4);
    const Result got = run(step);
    SCOPED_TRACE("seed " + std::to_string(seed));
    expect_same_tensors(want, got);
    EXPECT_EQ(std::memcmp(&first.report, &got.report, sizeof got.report), 0);
  }
}

// A NaN of the last set of launches makes those before it void, too.
TEST(CudaUnits, NaNAndBadBudgetsStopEverything) {
  for (const bool masked : {false, true})
    for (const bool bad_k : {false, true}) {
      Step step{.model = training_model({3000, 1024, 2000}, {DType::f32}, 9, Placement::flush), .scorer = Bitter7{}};
      step.options = {.zero = roles::weight | roles::exp_avg, .scope = by_tensor};
      step.k = bad_k ? 6025 : 3000;
      if (masked) step.model.set_masks(0.3, 4);
      std::vector<std::int64_t> places;
      for (const std::size_t i : {std::size_t{1999}, std::size_t{700}, std::size_t{5}}) {
        if (bad_k) break;
        step.model.tensors[2].weight.set(i, not_a_number);
        if (!masked || bits::get(step.model.tensors[2].mask.data(), static_cast<std::int64_t>(i)))
          places.push_back(4024 + static_cast<std::int64_t>(i));
      }
      const auto before = step.model.bytes();
      EmulatedCuda engine(5);
      engine.force_room(1);  // each tensor by itself
      const Result got = run(step, engine);
      EXPECT_EQ(got.report.status & ~cuda::status::overflow,
                (bad_k ? cuda::status::bad_k : cuda::status::nan) | cuda::status::failed);
      EXPECT_EQ(got.report.nan, static_cast<std::int64_t>(places.size()));
      EXPECT_EQ(got.report.first_nan, places.empty() ? 0 : *std::min_element(places.begin(), places.end()));
      EXPECT_EQ(got.report.pruned, got.report.dead);
      EXPECT_EQ(got.report.churn, 0);
      EXPECT_EQ(step.model.bytes(), before) << "a void step wrote";
      EXPECT_TRUE(same_masks(current(step.model), got.masks)) << "new masks of a void step are the current ones";
      for (const float threshold : got.threshold) EXPECT_TRUE(std::isnan(threshold));
      if (bad_k) continue;
      step.options = {.nonfinite = NonFinite::keep, .scope = by_tensor};
      expect_like_flow(step, 1);
    }
}

TEST(CudaUnits, ZerosInTheSameStep) {
  Step step{.model = training_model({3000, 1024, 31}, {DType::bf16}, 3, Placement::flush),
            .scorer = Bitter0{},
            .options = {.scope = by_tensor},
            .sparsity = 0.6};
  const Expected want = expected(step);
  Model zeroed = step.model;
  std::vector<const std::uint64_t*> masks;
  for (const auto& words : want.masks) masks.push_back(words.data());
  constexpr std::uint32_t which = roles::weight | roles::exp_avg | roles::exp_avg_sq;
  const std::vector<ScoreInputs> inputs = zeroed.inputs();
  ReferenceEngine().apply_mask(inputs, make_chunks(inputs), masks, which);
  step.options.zero = which;
  expect_same_tensors(want, run(step));
  EXPECT_EQ(step.model.bytes(), zeroed.bytes());
}

TEST(CudaUnits, ReplayedWithOtherBudgets) {
  Step step{.model = training_model({3000, 1024, 0, 31}, {DType::f32}, 3, Placement::flush),
            .scorer = Bitter7{},
            .options = {.scope = by_tensor, .distribution = Distribution::erk}};
  const std::vector<ScoreInputs> inputs = step.model.inputs();
  const FreshMasks masks(inputs);
  std::vector<cuda::StepBudget> budgets;
  for (const double sparsity : {0.5, 0.9, 0.0, 0.2})
    budgets.push_back(cuda::step_budget({sparsity, {}}, by_tensor, 4055));
  std::size_t at = 0;
  EmulatedCuda engine(3);
  engine.force_room(200000);
  engine.replay(inputs, step.scorer, budgets, step.options, masks.table(), nullptr,
                [&](const cuda::StepReport& report) {
                  step.sparsity = budgets[at++].sparsity;
                  const Expected want = expected(step);
                  EXPECT_TRUE(same_masks(want.masks, masks.bits()));
                  EXPECT_EQ(report.pruned, want.report.pruned);
                  EXPECT_EQ(report.k, want.report.k);
                });
  EXPECT_EQ(at, budgets.size());
}

// A threshold alone is one over all tensors, whatever the scope (prune.hpp).
TEST(CudaUnits, ThresholdWithoutMasks) {
  Step step{.model = training_model({3000, 2000}, {DType::f32}), .scorer = Bitter7{}, .k = 2500};
  const Expected want = expected(step);
  EmulatedCuda engine(4);
  const cuda::StepReport got = engine.step(step.model.inputs(), step.scorer, {.k = 2500}, {.scope = by_tensor}, {});
  EXPECT_TRUE(same_bits(*want.report.value, got.value));
}

}  // namespace
}  // namespace bittersweet::test
