// Scope tensor by the selectors beside exact, and bounds of tensors by every selector and rule of ties, on the
// emulator: the masks, thresholds, counts and errors of the reference flow, bit for bit.
#include "cuda/search_plan.hpp"
#include "cuda/step_support.hpp"

namespace bittersweet::test {
namespace {

const Scope by_tensor{.kind = Scope::tensor};

std::string show(const Step& step) {
  return std::string(name_of(step.options.selector)) + ", " + name_of(step.scorer) + ", sparsity " +
         std::to_string(step.sparsity.value_or(-1)) + ", ties " +
         std::to_string(step.options.ties ? static_cast<int>(*step.options.ties) : -1);
}

// Ties that are pruned, in the tensors for which the threshold decides.
std::int64_t ties_of(const Step& step, const PruneReport& want) {
  if (want.count_below < 0) return -1;
  const std::vector<ScoreInputs> inputs = step.model.inputs();
  std::int64_t ties = -want.count_below;
  for (std::size_t t = 0; t < inputs.size(); ++t) {
    if (!want.tensor_threshold[t]) continue;
    ties += want.tensor_pruned[t];
    for (std::int64_t i = 0; !step.options.regrow && i < inputs[t].numel; ++i) ties -= !is_live(inputs[t], i);
  }
  return ties;
}

void expect_like_flow(const Step& step) {
  SCOPED_TRACE(show(step));
  const auto before = step.model.bytes();
  const Expected want = expected(step);
  const Result got = run(step);
  expect_same_tensors(want, got);
  EXPECT_EQ(got.report.ties, ties_of(step, want.report));
  EXPECT_EQ(step.model.bytes(), before) << "a step without `zero` wrote to an input";
  EXPECT_TRUE(step.model.intact());
}

// Two that are sampled, and what is looked at whole.
const std::vector<std::int64_t> sizes{12000, 1, 3000, 0, 10500, 1024, 31};

TEST(CudaSelectorScopes, DistributionsDeadAndRegrow) {
  std::uint64_t seed = 0;
  const std::optional<Distribution> distributions[] = {
      {}, {Distribution::uniform}, {Distribution::erk}, {Distribution::layer_adaptive}};
  for (const Selector& selector : selectors())
    for (const double dead : {0.0, 0.5, 1.0})
      for (const double sparsity : {0.0, 0.37, 0.7, 1.0}) {
        ++seed;
        Step step{.model = training_model(sizes, storages()[seed % storages().size()], seed,
                                          seed % 2 ? Placement::flush : Placement::offset),
                  .scorer = seed % 3 == 0   ? Scorer(Bitter7{})
                            : seed % 3 == 1 ? Scorer(Bitter9Hybrid{})
                                            : Scorer(Random{.seed = seed}),
                  .options = {.seed = seed,
                              .regrow = seed % 4 == 0,
                              .selector = selector,
                              .scope = by_tensor,
                              .distribution = distributions[seed % 4]},
                  .seed = seed,
                  .processors = 1 + static_cast<unsigned>(seed % 3),
                  .sparsity = sparsity};
        if (dead > 0) step.model.set_masks(dead, seed);
        step.model.tensors[2].masked = dead == 0.5 && seed % 2 == 0;
        step.model.tensors[4].modifier = seed % 5 == 0 ? -1.0f : 0.3f;
        if (seed % 3 == 0) {
          step.k = static_cast<std::int64_t>(sparsity * static_cast<double>(step.model.numel()));
          step.sparsity.reset();
        }
        expect_like_flow(step);
      }
}

TEST(CudaSelectorScopes, NastyValuesAndTies) {
  std::uint64_t seed = 0;
  for (const Selector& selector : selectors())
    for (const double sparsity : {0.02, 0.5, 0.98}) {
      const bool approximate = is_approximate(selector);
      const std::int64_t size = std::holds_alternative<Sampling>(selector) ? 10050 : 1100;
      std::vector<Values> values;
      for (const char* name : {"half_zeros", "three_values", "any_number", "signed_zeros", "denormals"})
        values.push_back(values_named(name, size + static_cast<std::int64_t>(seed % 70), seed + 1)), ++seed;
      values.push_back(Values(40, not_a_number));
      values.push_back({});
      values.push_back(Values(static_cast<std::size_t>(size), not_a_number));
      values.push_back(Values(2050, 1.0f));
      const Ties rules[] = {Ties::at_or_below, Ties::below, Ties::exact};
      expect_like_flow({.model = model_of(values, DType::f32, Placement::flush),
                        .scorer = seed % 2 ? Scorer(Magnitude{}) : Scorer(Identity{}),
                        .options = {.ties = rules[seed / 5 % (approximate ? 2 : 3)],
                                    .nonfinite = NonFinite::keep,
                                    .seed = seed,
                                    .selector = selector,
                                    .scope = by_tensor},
                        .seed = seed,
                        .sparsity = sparsity});
    }
}

TEST(CudaSelectorScopes, VoidStepsAndZeros) {
  for (const Selector& selector : selectors())
    for (const bool bad_k : {false, true}) {
      Step step{.model = training_model({11000, 1024, 2000}, {DType::f32}, 9, Placement::flush), .scorer = Bitter7{}};
      step.options = {.zero = roles::weight | roles::exp_avg_sq, .selector = selector, .scope = by_tensor};
      step.model.set_masks(0.3, 4);
      step.k = bad_k ? 14025 : 8000;
      SCOPED_TRACE(show(step));
      const Step sound = step;
      for (const std::size_t i : {std::size_t{1999}, std::size_t{700}}) {
        if (bad_k) break;
        step.model.tensors[2].weight.set(i, not_a_number);
        bits::set(step.model.tensors[2].mask.data(), static_cast<std::int64_t>(i));
      }
      const auto before = step.model.bytes();
      const Result got = run(step);
      EXPECT_EQ(got.report.status, (bad_k ? cuda::status::bad_k : cuda::status::nan) | cuda::status::failed);
      EXPECT_EQ(got.report.nan, bad_k ? 0 : 2);
      EXPECT_EQ(got.report.first_nan, bad_k ? 0 : 12724);
      EXPECT_EQ(got.report.pruned, got.report.dead);
      EXPECT_EQ(got.report.churn, 0);
      EXPECT_EQ(step.model.bytes(), before) << "a void step wrote";
      EXPECT_TRUE(same_masks(current(step.model), got.masks));
      for (const float threshold : got.threshold) EXPECT_TRUE(std::isnan(threshold));
      if (bad_k) continue;
      const Expected want = expected(sound);
      expect_same_tensors(want, run(sound));
      const std::vector<ScoreInputs> inputs = sound.model.inputs();
      for (std::size_t t = 0; t < inputs.size(); ++t)
        for (std::int64_t i = 0; i < inputs[t].numel; ++i)
          if (!bits::get(want.masks[t].data(), i)) {
            ASSERT_EQ(load_as_float(inputs[t].weight.data, inputs[t].weight.dtype, i), 0.0f);
          }
    }
}

// Launches that know nothing of the ones before: whatever their order, whatever the budget.
TEST(CudaSelectorScopes, ReplaysAndOrdersOfThreads) {
  const Values ties = with_zeros(values_named("bf16_rounded", 10100, 3), 0.4, 4);
  for (const Selector& selector : selectors())
    for (const bool capped : {false, true}) {
      Step step{.model = model_of({ties, values_named("three_values", 1500, 5), ties}, DType::f32, Placement::flush),
                .scorer = Magnitude{},
                .options = {.selector = selector}};
      if (capped)
        step.options.max_tensor_sparsity = 0.7;
      else
        step.options.scope = by_tensor;
      step.model.set_masks(0.1, 2);
      std::vector<cuda::StepBudget> budgets;
      for (const double sparsity : {0.5, 0.9, 0.0, 0.65})
        budgets.push_back(cuda::step_budget({sparsity, {}}, step.options.scope, step.model.numel()));
      std::size_t at = 0;
      const FreshMasks masks(step.model.inputs());
      EmulatedCuda(3).replay(step.model.inputs(), step.scorer, budgets, step.options, masks.table(), nullptr,
                             [&](const cuda::StepReport& report) {
                               step.sparsity = budgets[at++].sparsity;
                               SCOPED_TRACE(show(step) + (capped ? ", capped" : ""));
                               const Expected want = expected(step);
                               EXPECT_TRUE(same_masks(want.masks, masks.bits()));
                               EXPECT_EQ(report.pruned, want.report.pruned);
                               EXPECT_EQ(report.k, want.report.k);
                             });
      EXPECT_EQ(at, budgets.size());
      const Result first = run(step);
      for (std::uint64_t seed = 2; seed < 8; ++seed) {
        step.seed = seed;
        step.processors = 1 + static_cast<unsigned>(seed % 4);
        const Result got = run(step);
        SCOPED_TRACE(show(step) + ", seed " + std::to_string(seed));
        EXPECT_TRUE(same_masks(first.masks, got.masks));
        EXPECT_EQ(std::memcmp(&first.report, &got.report, sizeof got.report), 0);
        EXPECT_TRUE(same_floats(first.threshold, got.threshold));
      }
    }
}

// ---- bounds ----

Model uneven(std::uint64_t seed, bool large) {  // a threshold over all takes most of some tensors, nothing of others
  Model model = training_model({large ? 11000 : 1300, 900, 1, large ? 10400 : 1100, 0, 31, 400}, {DType::f32}, seed,
                               Placement::flush);
  for (std::size_t t = 0; t < model.tensors.size(); ++t)
    for (std::size_t i = 0; i < static_cast<std::size_t>(model.tensors[t].numel); ++i) {
      Array& weight = model.tensors[t].weight;
      const float scaled = weight[i] * (t == 1 ? 0.05f : t == 0 ? 0.4f : t == 6 ? 0.3f : 1.0f);
      weight.set(i, t % 3 == 0 && i % 3 == 0 ? std::round(scaled * 4.0f) / 4.0f : scaled);  // ties, and zeros
    }
  return model;
}

std::vector<Selector> with_exact() {
  std::vector<Selector> all = selectors();
  all.push_back(Exact{});
  return all;
}

// Counts other than those asked for: the very rounds of the flow.
TEST(CudaSelectorScopes, CapsInRounds) {
  std::uint64_t seed = 0;
  int moved = 0, all = 0;
  for (const Selector& selector : with_exact())
    for (const Ties ties : {Ties::at_or_below, Ties::below})
      for (const double cap : {0.3, 0.62, 0.9})
        for (const double sparsity : {0.25, seed % 3 == 0 ? 1.0 : 0.6}) {
          ++seed;
          Step step{.model = uneven(seed, !std::holds_alternative<Exact>(selector) || seed % 5 == 0),
                    .scorer = seed % 3 == 0 ? Scorer(Bitter7{}) : Scorer(Magnitude{}),
                    .options = {.ties = ties,
                                .nonfinite = seed % 4 == 0 ? NonFinite::keep : NonFinite::error,
                                .seed = seed,
                                .regrow = seed % 7 == 0,
                                .selector = selector,
                                .max_tensor_sparsity = cap},
                    .seed = seed,
                    .processors = 1 + static_cast<unsigned>(seed % 3),
                    .sparsity = sparsity};
          if (seed % 2) step.model.set_masks(0.4, seed);
          if (seed % 4 == 0)
            for (std::size_t i = 0; i < 900; i += 1 + i % 5) step.model.tensors[1].weight.set(i, not_a_number);
          SCOPED_TRACE("cap " + std::to_string(cap) + ", seed " + std::to_string(seed));
          expect_like_flow(step);
          const auto thresholds = expected(step).report.tensor_threshold;
          moved += std::ranges::any_of(thresholds, [](const auto& threshold) { return !threshold; });
          ++all;
        }
  EXPECT_GT(moved, all / 4);
  EXPECT_LT(moved, all);
}

// One tensor leaves a round.
TEST(CudaSelectorScopes, AsManyRoundsAsTensors) {
  std::vector<Values> values;
  for (int t = 0; t < 9; ++t) {  // each below those behind it, and twice as large as the next
    values.emplace_back();
    for (int i = 0; i < 1 << (10 - t); ++i)
      values.back().push_back(static_cast<float>(t) + (i % 3 == 0 ? 0.25f : 0.5f));
  }
  for (const Ties ties : {Ties::at_or_below, Ties::below})
    for (const Selector& selector : {Selector(Exact{}), Selector(KthValue{}), Selector(Streaming{.tolerance = 0})})
      for (const double sparsity : {0.1, 0.5, 0.55}) {
        expect_like_flow({.model = model_of(values, DType::f32, Placement::flush),
                          .options = {.ties = ties, .selector = selector, .max_tensor_sparsity = 0.5},
                          .sparsity = sparsity});
      }
}

// Counts as they are asked for: what exact finds.
TEST(CudaSelectorScopes, ExactCountsWithinBounds) {
  Generator random(3);
  for (std::uint64_t round = 0; round < 24; ++round) {
    Step step{.model = uneven(round, false),
              .scorer = round % 3 == 0 ? Scorer(Bitter7{}) : Scorer(Magnitude{}),
              .options = {.selector = round % 2 ? Selector(Histogram{}) : Selector(KthValue{})},
              .seed = round};
    if (round % 4 == 0) step.model.set_masks(0.3, round);
    step.model.tensors[6].modifier = round % 5 == 0 ? 0.01f : 1.0f;
    std::vector<CountRange> ranges;
    std::int64_t least = 0, most = 0;
    for (const ScoreInputs& tensor : step.model.inputs()) {
      std::int64_t dead = 0;
      for (std::int64_t i = 0; i < tensor.numel; ++i) dead += !is_live(tensor, i);
      const std::int64_t a = random.below(tensor.numel + 1), b = random.below(tensor.numel + 1);
      ranges.push_back({std::min(a, b), std::max(a, b)});
      least += std::max(std::min(a, b), dead);
      most += std::max(std::max(a, b), dead);
    }
    step.k = least + random.below(most - least + 1);
    if (round % 3 == 2)
      step.options.max_tensor_sparsity = 0.7;
    else
      step.options.tensor_sparsity = ranges;
    SCOPED_TRACE("round " + std::to_string(round));
    const Expected want = expected(step);
    const Result got = run(step);
    EXPECT_TRUE(same_masks(want.masks, got.masks));
    EXPECT_EQ(got.tensor_pruned, want.report.tensor_pruned);
    step.options.selector = Exact{};
    Result exact = run(step);
    EXPECT_TRUE(same_floats(exact.threshold, got.threshold));
    exact.report.passes = got.report.passes;
    exact.report.place = got.report.place;
    exact.report.status = got.report.status;
    EXPECT_EQ(std::memcmp(&exact.report, &got.report, sizeof got.report), 0);
  }
}

TEST(CudaSelectorScopes, CappedVoidSteps) {
  for (const Selector& selector : with_exact())
    for (const bool bad_k : {false, true}) {
      Step step{.model = uneven(3, true), .scorer = Bitter7{}};
      step.options = {.ties = Ties::below, .zero = roles::weight, .selector = selector, .max_tensor_sparsity = 0.6};
      step.k = bad_k ? step.model.numel() + 1 : step.model.numel() / 2;
      if (!bad_k) step.model.tensors[3].weight.set(77, not_a_number);
      SCOPED_TRACE(show(step));
      const auto before = step.model.bytes();
      const Result got = run(step);
      EXPECT_EQ(got.report.status & ~cuda::status::missed,
                (bad_k ? cuda::status::bad_k : cuda::status::nan) | cuda::status::failed);
      EXPECT_EQ(got.report.first_nan, bad_k ? 0 : 11000 + 900 + 1 + 77);
      EXPECT_EQ(got.report.churn, 0);
      EXPECT_EQ(step.model.bytes(), before) << "a void step wrote";
      EXPECT_TRUE(same_masks(current(step.model), got.masks));
      for (const float threshold : got.threshold) EXPECT_TRUE(std::isnan(threshold));
    }
}

// The room for a sample is enough for whichever tensors are left.
TEST(CudaSelectorScopes, RoomForSamplesOfWhatIsLeft) {
  Generator random(8);
  int more = 0;
  for (int round = 0; round < 300; ++round) {
    std::vector<ScoreInputs> all, left;
    const std::int64_t kinds[] = {1, 33, 90, 5000, 40000, 700000};
    const std::int64_t tensors = 500 + random.below(2000);
    for (std::int64_t t = 0; t < tensors; ++t) {
      const std::int64_t numel = random.below(kinds[random.below(2 + round % 5)]) + 1;
      all.push_back({.numel = numel, .geometry = flat(numel)});
      if (random.below(1 + round % 3) == 0 && (round % 2 == 0 || numel <= 90)) left.push_back(all.back());
    }
    const Sampling sampling{.fraction = 0.001 * static_cast<double>(1 + random.below(round % 2 == 0 ? 900 : 20))};
    if (cuda::elements_of(left) <= Sampling::smallest) continue;
    EXPECT_LE(cuda::sampled_places(sampling, left), cuda::most_sampled_places(sampling, all)) << round;
    more += cuda::sampled_places(sampling, left) > cuda::sampled_places(sampling, all);
  }
  EXPECT_GT(more, 10);
  const ScoreInputs one{.numel = std::int64_t{1} << 31, .geometry = flat(std::int64_t{1} << 31)};
  EXPECT_EQ(cuda::sampled_places({}, {&one, 1}), cuda::most_sampled_places({}, {&one, 1}));
}

// A tensor's step takes no more than one over all of them would, whatever the number of tensors.
TEST(CudaSelectorScopes, Memory) {
  const std::int64_t n = std::int64_t{4} << 20;
  const std::vector<ScoreInputs> tensors(100, {.numel = n, .geometry = flat(n)});
  for (const Selector& selector : selectors()) {
    const cuda::StepOptions together{.selector = selector}, each{.selector = selector, .scope = by_tensor};
    EXPECT_LT(cuda::step_bytes(tensors, each, true), cuda::step_bytes(tensors, together, true) / 4)
        << name_of(selector);
  }
}

}  // namespace
}  // namespace bittersweet::test
