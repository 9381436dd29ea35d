// Bounds of tensors on the emulator: one cut through all scores with every tensor's count brought within its bounds
// (bounds.hpp), against the rounds of the reference flow, and against that cut as brute force finds it.
#include "bittersweet/radix_key.hpp"
#include "cuda/step_support.hpp"

namespace bittersweet::test {
namespace {

// The cut by brute force: every number by (score, tensor, index), one after another.
struct BruteCut {
  std::vector<std::int64_t> pruned;
  std::vector<bool> free;  // within its bounds by the cut itself
  bool moved = false;      // is it another than that of the step without bounds?
  bool beyond = false;     // is the budget more than all bounds allow?
  float value = minus_infinity;
  std::int64_t below = 0, equal = 0;
};

BruteCut brute_cut(const Step& step) {
  std::vector<ScoreInputs> inputs = step.model.inputs();
  if (step.options.regrow)
    for (ScoreInputs& tensor : inputs) tensor.mask = nullptr;
  const std::size_t count = inputs.size();
  const ScoreView view = make_view(inputs, step.scorer);
  struct Element {
    std::uint32_t key;
    std::size_t t;
  };
  std::vector<Element> order;
  std::vector<std::int64_t> numels(count), dead(count), nan(count);
  std::int64_t all_dead = 0;
  for (std::size_t t = 0; t < count; ++t) {
    numels[t] = inputs[t].numel;
    for (std::int64_t i = 0; i < numels[t]; ++i) {
      if (!is_live(inputs[t], i)) {
        ++dead[t];
        continue;
      }
      const float score =
          std::visit([&](const auto& scorer) { return score_element(scorer, view, t, i); }, view.scorer);
      if (std::isnan(score))
        ++nan[t];
      else
        order.push_back({key_of(score), t});
    }
    all_dead += dead[t];
  }
  std::stable_sort(order.begin(), order.end(), [](const Element& a, const Element& b) { return a.key < b.key; });
  std::vector<CountRange> given(step.options.tensor_sparsity.begin(), step.options.tensor_sparsity.end());
  std::vector<CountRange> ranges = ranges_of(given, step.options.max_tensor_sparsity, numels, dead);
  if (!given.empty()) leave_nan(ranges, numels, nan);

  const std::int64_t k = std::max(resolve(step.budget(), step.model.numel()), all_dead);
  BruteCut cut{dead, std::vector<bool>(count, true)};
  for (std::size_t e = 0; e < order.size() && static_cast<std::int64_t>(e) < k - all_dead; ++e)
    ++cut.pruned[order[e].t];
  for (std::size_t t = 0; t < count; ++t)
    cut.moved |= cut.pruned[t] < ranges[t].least || cut.pruned[t] > ranges[t].most;
  std::int64_t most = 0;
  for (const CountRange& range : ranges) most += range.most;
  cut.beyond = k > most;
  std::vector<std::int64_t> reached = dead;
  std::uint32_t key = 0;
  const auto clamped = [&](std::size_t t) { return std::clamp(reached[t], ranges[t].least, ranges[t].most); };
  std::int64_t sum = 0;
  for (std::size_t t = 0; t < count; ++t) sum += clamped(t);
  std::vector<std::int64_t> at_value = reached;
  for (std::size_t e = 0; sum < k && e < order.size(); ++e) {
    const std::size_t t = order[e].t;
    const std::int64_t before = clamped(t);
    ++reached[t];
    if (clamped(t) > before) {
      ++sum;
      key = order[e].key;
      at_value = reached;
    }
  }
  reached = at_value;  // no further than the last that moved the sum
  for (std::size_t t = 0; t < count; ++t) {
    cut.pruned[t] = clamped(t);
    cut.free[t] = reached[t] >= ranges[t].least && reached[t] <= ranges[t].most;
  }
  if (key == 0) return cut;
  for (const Element& element : order) {
    if (!cut.free[element.t]) continue;
    cut.below += element.key < key;
    cut.equal += element.key == key;
  }
  cut.value = score_of(key);
  return cut;
}

// 1: the bounds moved something.
int expect_cut(const Step& step, EmulatedCuda& engine) {
  const auto before = step.model.bytes();
  const Expected want = expected(step);
  const Result got = run(step, engine);
  const BruteCut cut = brute_cut(step);
  EXPECT_TRUE(same_masks(want.masks, got.masks));
  EXPECT_EQ(want.report.tensor_pruned, cut.pruned) << "the rounds of the reference flow are not that cut";
  EXPECT_EQ(got.tensor_pruned, cut.pruned);
  EXPECT_EQ(got.report.k, want.report.k);
  EXPECT_EQ(got.report.total, want.report.total);
  EXPECT_EQ(got.report.dead, want.report.dead);
  EXPECT_EQ(got.report.nan, want.report.nonfinite);
  EXPECT_EQ(got.report.pruned, want.report.pruned);
  EXPECT_EQ(got.report.churn, want.report.churn);
  EXPECT_EQ(got.report.empty_rows, want.report.empty_rows);
  const bool as_rounds = !cut.moved || cut.beyond;  // which of the tensors at their bounds hold the cut is then told
  const float value = as_rounds ? *want.report.value : cut.value;
  EXPECT_TRUE(same_bits(value, got.report.value)) << show(value) << " expected, found " << show(got.report.value);
  EXPECT_EQ(got.report.below, as_rounds ? want.report.count_below : cut.below);
  EXPECT_EQ(got.report.equal, as_rounds ? want.report.count_equal : cut.equal);
  for (std::size_t t = 0; t < got.threshold.size(); ++t) {
    const float threshold = as_rounds     ? want.report.tensor_threshold[t].value_or(not_a_number)
                            : cut.free[t] ? value
                                          : not_a_number;
    EXPECT_TRUE(same_bits(threshold, got.threshold[t]))
        << show(threshold) << " expected of tensor " << t << ", found " << show(got.threshold[t]);
  }
  EXPECT_EQ(step.model.bytes(), before) << "a step without `zero` wrote to an input";
  EXPECT_TRUE(step.model.intact());
  return cut.moved;
}

int expect_cut(const Step& step) {
  EmulatedCuda engine(step.seed, step.processors);
  return expect_cut(step, engine);
}

Model uneven(std::uint64_t seed) {  // tensors whose scores differ in size, so that one threshold empties some
  Model model = training_model({2000, 900, 1, 1100, 0, 31}, {DType::f32}, seed, Placement::flush);
  for (std::size_t t = 0; t < model.tensors.size(); ++t)
    for (std::int64_t i = 0; i < model.tensors[t].numel; ++i) {
      Array& weight = model.tensors[t].weight;
      const auto at = static_cast<std::size_t>(i);
      weight.set(at, weight[at] * (t == 1 ? 0.05f : t == 3 ? 4.0f : 1.0f));
    }
  return model;
}

TEST(CudaBounds, CapsOfEveryShare) {
  std::uint64_t seed = 0;
  int moved = 0, all = 0;
  for (const double cap : {0.0, 0.3, 0.6, 0.95, 1.0})
    for (const double sparsity : {0.0, 0.25, 0.5, 0.8, 1.0})
      for (const int kind : {0, 1, 2}) {
        Step step{.model = uneven(++seed),
                  .scorer = seed % 2 ? Scorer(Bitter7{}) : Scorer(Identity{}),
                  .options = {.regrow = kind == 2, .max_tensor_sparsity = cap},
                  .seed = seed,
                  .processors = 1 + static_cast<unsigned>(seed % 3),
                  .sparsity = sparsity};
        if (kind > 0) step.model.set_masks(0.4, seed);
        SCOPED_TRACE("cap " + std::to_string(cap) + ", sparsity " + std::to_string(sparsity) + ", kind " +
                     std::to_string(kind));
        moved += expect_cut(step);
        ++all;
      }
  EXPECT_GT(moved, 20);
  EXPECT_LT(moved, all);
}

// Random ranges that the budget can meet, on both sides, over scores that tie by the hundred.
TEST(CudaBounds, RangesOnBothSides) {
  Generator random(3);
  int moved = 0;
  for (std::uint64_t round = 0; round < 40; ++round) {
    std::vector<Values> values;
    const std::int64_t tensors = 1 + random.below(7);
    for (std::int64_t t = 0; t < tensors; ++t) {
      const char* const names[] = {"three_values", "half_zeros", "half_normal", "bf16_rounded", "signed_zeros"};
      values.push_back(
          values_named(names[random.below(5)], 1 + random.below(500), round * 10 + static_cast<std::uint64_t>(t)));
    }
    Step step{.model = model_of(values, DType::f32, Placement::flush),
              .scorer = round % 2 ? Scorer(Magnitude{}) : Scorer(Identity{}),
              .seed = round};
    if (round % 3 == 0) step.model.set_masks(0.3, round);
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
    step.options.tensor_sparsity = ranges;
    SCOPED_TRACE("round " + std::to_string(round));
    EmulatedCuda engine(round);
    if (round % 2) engine.force_bits(8);
    moved += expect_cut(step, engine);
  }
  EXPECT_GT(moved, 20);
}

TEST(CudaBounds, NaNThatAreKept) {
  for (const double cap : {0.0, 0.5, 0.9}) {
    Step step{.model = uneven(7), .scorer = Bitter7{}, .options = {.nonfinite = NonFinite::keep}};
    for (std::size_t i = 0; i < 1100; i += 1 + i % 3) step.model.tensors[3].weight.set(i, not_a_number);
    step.model.tensors[2].weight.set(0, not_a_number);
    step.sparsity = 0.5;
    std::vector<CountRange> ranges{{0, 2000}, {0, 400}, {1, 1}, {300, 1100}, {0, 0}, {20, 25}};
    if (cap > 0)
      step.options.max_tensor_sparsity = cap;
    else
      step.options.tensor_sparsity = ranges;
    EXPECT_EQ(expect_cut(step), 1);
  }
  // What a range asks of NaN cannot be had, and then nobody is beyond his.
  Step step{.model = model_of({Values(40, not_a_number), values_named("half_normal", 200, 3)}),
            .options = {.nonfinite = NonFinite::keep}};
  const std::vector<CountRange> ranges{{10, 40}, {0, 200}};
  step.options.tensor_sparsity = ranges;
  step.k = 100;
  EXPECT_EQ(expect_cut(step), 0);
}

// More than all caps together: the threshold is that of the tensors that give everything, or there is none.
TEST(CudaBounds, BudgetsBeyondAllCaps) {
  for (const bool all_held : {false, true})
    for (const int nan : {0, 1, 2})
      for (const double cap : {0.0, 0.4, 0.75}) {
        std::vector<Values> values{values_named("half_normal", 500, 1), {}, values_named("three_values", 90, 2)};
        if (!all_held) values.push_back(Values(40, 0.25f));  // what is left alive of it gives all
        values.push_back(values_named("normal", 300, 3));
        if (nan > 0) {  // numbers that no cap of 0.75 holds, and none at all
          std::fill_n(values[2].begin(), 60, not_a_number);
          values.push_back(Values(30, not_a_number));
        }
        Step step{.model = model_of(values, DType::f32, Placement::flush),
                  .scorer = Identity{},
                  .options = {.nonfinite = NonFinite::keep, .max_tensor_sparsity = cap},
                  .sparsity = 0.9};
        if (nan == 2) step.model.set_masks(0.5, 8);
        SCOPED_TRACE("cap " + std::to_string(cap) + (all_held ? ", all held" : "") + ", NaN " + std::to_string(nan));
        EXPECT_EQ(expect_cut(step), 1);
      }
}

TEST(CudaBounds, ManyTensorsAtAFewAtATime) {
  Generator random(4);
  std::vector<std::int64_t> sizes;
  for (int t = 0; t < 120; ++t) sizes.push_back(random.below(10) ? random.below(60) : random.below(3));
  Step step{.model = training_model(sizes, {DType::f32}, 3, Placement::flush),
            .scorer = Bitter7{},
            .options = {.max_tensor_sparsity = 0.6},
            .sparsity = 0.55};
  EmulatedCuda engine(2);
  engine.force_room(std::size_t{2} << 20);
  EXPECT_EQ(expect_cut(step, engine), 1);
}

TEST(CudaBounds, OrderOfThreadsNeverShows) {
  Step step{.model = model_of({with_zeros(values_named("bf16_rounded", 900, 3), 0.4, 4), Values(40, 1.0f),
                               values_named("three_values", 1100, 5)},
                              DType::f32, Placement::flush),
            .scorer = Magnitude{},
            .options = {.max_tensor_sparsity = 0.6},
            .sparsity = 0.5};
  const Expected want = expected(step);
  const Result first = run(step);
  for (std::uint64_t seed = 2; seed < 42; ++seed) {
    step.seed = seed;
    step.processors = 1 + static_cast<unsigned>(seed % 4);
    const Result got = run(step);
    SCOPED_TRACE("seed " + std::to_string(seed));
    EXPECT_TRUE(same_masks(want.masks, got.masks));
    EXPECT_EQ(std::memcmp(&first.report, &got.report, sizeof got.report), 0);
    EXPECT_TRUE(same_floats(first.threshold, got.threshold));
  }
  EXPECT_EQ(expect_cut(step), 1);
}

// A budget outside the ranges is seen on the device; NaN that are an error stop all that follows.
TEST(CudaBounds, VoidSteps) {
  const std::vector<CountRange> ranges{{0, 100}, {50, 60}, {0, 1}, {0, 0}, {0, 0}, {0, 31}};
  for (const std::int64_t k : {40, 193, 100}) {
    Step step{.model = uneven(3), .scorer = Bitter7{}, .k = k};
    step.options = {.zero = roles::weight, .tensor_sparsity = ranges};
    if (k == 100) step.model.tensors[0].weight.set(7, not_a_number);
    const auto before = step.model.bytes();
    const Result got = run(step);
    EXPECT_EQ(got.report.status & ~cuda::status::missed,
              (k == 100 ? cuda::status::nan : cuda::status::bad_k) | cuda::status::failed);
    EXPECT_EQ(got.report.churn, 0);
    if (k != 100) {  // what the ranges allow
      EXPECT_EQ(got.report.below, 50);
      EXPECT_EQ(got.report.equal, 192);
    }
    EXPECT_EQ(step.model.bytes(), before) << "a void step wrote";
    for (const float threshold : got.threshold) EXPECT_TRUE(std::isnan(threshold));
  }
}

TEST(CudaBounds, ZerosAndReplaysWithOtherBudgets) {
  Step step{.model = uneven(5), .scorer = Bitter7{}, .options = {.max_tensor_sparsity = 0.7}, .sparsity = 0.6};
  const std::vector<ScoreInputs> inputs = step.model.inputs();
  const FreshMasks masks(inputs);
  std::vector<cuda::StepBudget> budgets;
  const double shares[] = {0.6, 0.1, 0.69, 0.0, 0.5};
  for (const double share : shares) budgets.push_back(cuda::step_budget({share, {}}, {}, step.model.numel()));
  std::size_t at = 0;
  EmulatedCuda engine(3);
  engine.replay(inputs, step.scorer, budgets, step.options, masks.table(), nullptr,
                [&](const cuda::StepReport& report) {
                  step.sparsity = shares[at++];
                  const Expected want = expected(step);
                  EXPECT_TRUE(same_masks(want.masks, masks.bits())) << shares[at - 1];
                  EXPECT_EQ(report.pruned, want.report.pruned);
                });
  EXPECT_EQ(at, budgets.size());
  step.sparsity = 0.6;
  const Expected want = expected(step);
  Model zeroed = step.model;
  std::vector<const std::uint64_t*> words;
  for (const auto& mask : want.masks) words.push_back(mask.data());
  const std::vector<ScoreInputs> changed = zeroed.inputs();
  ReferenceEngine().apply_mask(changed, make_chunks(changed), words, roles::weight);
  step.options.zero = roles::weight;
  EXPECT_TRUE(same_masks(want.masks, run(step).masks));
  EXPECT_EQ(step.model.bytes(), zeroed.bytes());
}

TEST(CudaBounds, ArgumentsAreCheckedFirst) {
  const Step step{.model = training_model({100}, {DType::f32}), .scorer = Bitter7{}};
  const std::vector<ScoreInputs> inputs = step.model.inputs();
  const FreshMasks masks(inputs);
  EmulatedCuda engine;
  const std::vector<CountRange> two{{0, 1}, {0, 1}}, turned{{5, 3}};
  EXPECT_THROW(engine.step(inputs, step.scorer, {.k = 5}, {.tensor_sparsity = two}, masks.table()), ArgumentError);
  EXPECT_THROW(engine.step(inputs, step.scorer, {.k = 5}, {.tensor_sparsity = turned}, masks.table()), ArgumentError);
  EXPECT_THROW(engine.step(inputs, step.scorer, {.k = 5}, {.tensor_sparsity = turned}, {}), ArgumentError);
  EXPECT_THROW(engine.step(inputs, step.scorer, {.k = 5}, {.max_tensor_sparsity = 1.5}, masks.table()), ArgumentError);
  const std::vector<CountRange> one{{0, 100}};  // counts are promised: not with what may prune others
  for (const Selector& selector : {Selector(Sampling{}), Selector(Streaming{})})
    EXPECT_THROW(
        engine.step(inputs, step.scorer, {.k = 5}, {.selector = selector, .tensor_sparsity = one}, masks.table()),
        ArgumentError);
  EXPECT_THROW(engine.step(inputs, step.scorer, {.k = 5}, {.ties = Ties::below, .tensor_sparsity = one}, masks.table()),
               ArgumentError);
}

}  // namespace
}  // namespace bittersweet::test
