// Steps over tensors in other orders of memory than row-major: the threshold, the counts, the masks and the first NaN
// of the same tensors in row-major memory, whose masks the reference engine makes.
#include "support/orders.hpp"
#include "cuda/step_support.hpp"

namespace bittersweet::test {
namespace {

// The step over the same tensors, each in some order of its own: by the emulator, with its masks by logical index.
Result in_orders(const Step& step, EmulatedCuda& engine) {
  Step moved = step;
  moved.model = ordered(step.model);
  const std::vector<std::vector<unsigned char>> before = moved.model.bytes();
  Result found = run(moved, engine);
  EXPECT_EQ(moved.model.bytes(), before) << "a step without `zero` wrote to an input";
  EXPECT_TRUE(moved.model.intact());
  found.masks = logical_bits(found.masks, moved.model.inputs());
  return found;
}

void expect_like_row_major(const Step& step, EmulatedCuda engine) {
  const Result found = in_orders(step, engine);
  expect_same(expected(step), found);
  EXPECT_EQ(found.report.first_nan, run(step).report.first_nan);
}

void expect_like_row_major(const Step& step) { expect_like_row_major(step, EmulatedCuda(step.seed, step.processors)); }

TEST(CudaOrders, EveryScorerAndStorage) {
  std::uint64_t seed = 0;
  for (const Scorer& scorer : all_scorers())
    for (const std::vector<DType>& dtypes : storages()) {
      if (++seed % 2 != 0) continue;
      Step step{.model = training_model({1, 3000, 1024, 33, 5040}, dtypes, seed, Placement::flush),
                .scorer = scorer,
                .options = {.nonfinite = NonFinite::keep, .seed = seed},
                .seed = seed};
      if (seed % 3 == 0) step.model.set_masks(0.4, seed);
      step.k = step.model.numel() * static_cast<std::int64_t>(5 + seed % 5) / 10;
      SCOPED_TRACE(name_of(scorer) + ", storage " + name_of(dtypes[0]) + " of " + std::to_string(dtypes.size()));
      expect_like_row_major(step);
    }
}

// Ties that are split inside, at either end, among zeros, and after a bracket that missed or had no room.
TEST(CudaOrders, TiesWhereverTheyAreSplit) {
  std::uint64_t seed = 0;
  for (const char* name : {"three_values", "half_zeros", "all_zero", "signed_zeros", "bf16_rounded"})
    for (const Ties ties : {Ties::exact, Ties::at_or_below, Ties::below})
      for (const Scorer& scorer : {Scorer(Magnitude{}), Scorer(Identity{})}) {
        ++seed;
        Step step{.model = model_of({values_named(name, 3 * 1024, seed), values_named(name, 60, seed + 1),
                                     values_named(name, 4500, seed + 2)},
                                    seed % 2 ? DType::f32 : DType::bf16, Placement::flush),
                  .scorer = scorer,
                  .options = {.ties = ties},
                  .seed = seed};
        if (seed % 4 == 0) step.model.set_masks(0.3, seed);
        const std::int64_t n = step.model.numel();
        for (const std::int64_t k : {std::int64_t{1}, n / 3, n / 2, 6 * n / 7}) {
          step.k = k;
          SCOPED_TRACE(std::string(name) + ", ties " + std::to_string(static_cast<int>(ties)) + ", k " +
                       std::to_string(k));
          expect_like_row_major(step);
          if (ties != Ties::exact || k == 1) continue;
          EmulatedCuda engine(seed);
          const float value = expected(step).report.value.value_or(0.0f);
          if (seed % 3 == 0) {
            engine.force_bracket(value, infinity);  // at its low end
          } else if (seed % 3 == 1) {
            engine.force_bracket(step.scorer.index() == Scorer(Identity{}).index() ? -infinity : 0.0f, value);
          } else {
            engine.force_bracket(value + 1.0f, infinity);  // missed
            engine.force_capacity(7);
          }
          expect_like_row_major(step, engine);
        }
      }
}

TEST(CudaOrders, EveryTensorASelectionOfItsOwnAndBounds) {
  std::uint64_t seed = 0;
  for (const bool bounded : {false, true})
    for (const char* name : {"half_normal", "three_values", "mostly_zeros"})
      for (const double sparsity : {0.1, 0.5, 0.8}) {
        ++seed;
        Step step{.model = model_of({values_named(name, 3000, seed), values_named(name, 1, seed),
                                     values_named(name, 2048, seed + 2), values_named(name, 600, seed + 3)},
                                    DType::f32, Placement::flush),
                  .scorer = Magnitude{},
                  .seed = seed,
                  .sparsity = sparsity};
        if (bounded)
          step.options.max_tensor_sparsity = 0.85;
        else
          step.options.scope = {.kind = Scope::tensor};
        if (seed % 2 == 0) step.model.set_masks(0.2, seed);
        SCOPED_TRACE(std::string(name) + ", sparsity " + std::to_string(sparsity) + (bounded ? ", bounded" : ""));
        EmulatedCuda engine(step.seed, step.processors);
        const Result found = in_orders(step, engine), other = run(step);
        if (!bounded) expect_same(expected(step), found);
        EXPECT_TRUE(same_masks(expected(step).masks, found.masks));
        EXPECT_EQ(found.tensor_pruned, other.tensor_pruned);
        EXPECT_TRUE(same_bits(found.report.value, other.report.value));
        EXPECT_EQ(found.report.below, other.report.below);
        EXPECT_EQ(found.report.equal, other.report.equal);
        EXPECT_EQ(found.report.ties, other.report.ties);
      }
}

// What looks at memory as it lies, and so may stop elsewhere than in row-major memory: the flow over the same memory.
TEST(CudaOrders, EverySelector) {
  std::uint64_t seed = 0;
  for (const Selector& selector :
       {Selector(Histogram{}), Selector(KthValue{}), Selector(Streaming{}), Selector(Streaming{.tolerance = 0}),
        Selector(Sampling{}), Selector(Sampling{.fraction = 0.5, .verify = true, .by = Sampling::By::element})})
    for (const bool nan : {false, true})
      for (const char* name : {"half_normal", "three_values", "half_zeros"}) {
        ++seed;
        Step step{.model = model_of({values_named(name, 3000, seed), values_named(name, 5040, seed + 1)}, DType::f32,
                                    Placement::flush),
                  .scorer = Magnitude{},
                  .options = {.nonfinite = NonFinite::keep, .seed = seed, .selector = selector},
                  .seed = seed};
        if (nan)
          for (const std::size_t at : {2001u, 77u, 1500u}) step.model.tensors[seed % 2].weight.set(at, not_a_number);
        step.k = step.model.numel() * static_cast<std::int64_t>(1 + seed % 8) / 10;
        SCOPED_TRACE(std::string(name_of(selector)) + ", " + name + ", k " + std::to_string(step.k));
        const bool as_it_lies =
            std::holds_alternative<Streaming>(selector) ||
            (std::holds_alternative<Sampling>(selector) && std::get<Sampling>(selector).by == Sampling::By::line);
        if (!as_it_lies) {
          expect_like_row_major(step);
          continue;
        }
        step.model = ordered(step.model);
        expect_like_reference(step);
        if (nan) {
          EmulatedCuda engine(seed);
          EXPECT_EQ(run(step, engine).report.first_nan, (seed % 2 ? 3000 : 0) + 77);
        }
      }
}

// One tensor after another, and round after round: the flow over the same memory.
TEST(CudaOrders, EverySelectorByTensorAndUnderCaps) {
  std::uint64_t seed = 0;
  for (const Selector& selector : selectors())
    for (const bool capped : {false, true}) {
      ++seed;
      Step step{.model = model_of({values_named("three_values", 3000, seed), values_named("half_normal", 10080, seed),
                                   values_named("half_zeros", 12 * 1024, seed)},
                                  DType::f32, Placement::flush),
                .scorer = Magnitude{},
                .options = {.nonfinite = NonFinite::keep, .seed = seed, .selector = selector},
                .seed = seed,
                .sparsity = 0.55};
      if (capped) {
        step.options.ties = seed % 4 == 0 ? Ties::below : Ties::at_or_below;
        step.options.max_tensor_sparsity = 0.6;
      } else {
        step.options.scope = {.kind = Scope::tensor};
      }
      step.model.tensors[1].weight.set(77, not_a_number);
      if (seed % 3 == 0) step.model.set_masks(0.2, seed);
      step.model = ordered(step.model);
      SCOPED_TRACE(std::string(name_of(selector)) + (capped ? ", capped" : ""));
      expect_same_tensors(expected(step), run(step));
    }
}

TEST(CudaOrders, TheFirstNaNByLogicalIndexAndVoidSteps) {
  for (std::uint64_t seed = 1; seed <= 6; ++seed)
    for (const bool by_tensor : {false, true}) {
      Step step{.model = training_model({40, 3000, 5040}, {DType::f32}, seed,
                                        seed % 2 ? Placement::flush : Placement::offset),
                .scorer = Bitter7{},
                .k = 6000,
                .options = {.nonfinite = seed % 3 == 0 ? NonFinite::error : NonFinite::keep},
                .seed = seed};
      if (by_tensor) step.options.scope = {.kind = Scope::tensor};
      if (seed % 2 == 0) step.model.set_masks(0.5, seed);
      Tensor& tensor = step.model.tensors[1 + seed % 2];
      std::int64_t first = -1;
      for (std::int64_t at : {2999, 55, 54, 2000, 1023}) {
        tensor.weight.set(static_cast<std::size_t>(at), not_a_number);
        if (!tensor.masked || bits::get(tensor.mask.data(), at)) first = first < 0 ? at : std::min(first, at);
      }
      ASSERT_GE(first, 0);
      EmulatedCuda engine(seed);
      const Result found = in_orders(step, engine);
      EXPECT_EQ(found.report.first_nan, first + 40 + (seed % 2 ? 3000 : 0));
      if (step.options.nonfinite == NonFinite::keep)
        expect_same(expected(step), found);
      else
        EXPECT_NE(found.report.status & cuda::status::failed, 0u);
    }
}

TEST(CudaOrders, ZerosReplaysAndAnyOrderOfThreads) {
  Model row_major = model_of({values_named("three_values", 3000, 4), values_named("three_values", 2520, 5)}, DType::f32,
                             Placement::flush);
  const std::int64_t n = row_major.numel();
  const std::vector<cuda::StepBudget> budgets{{.k = n / 2}, {.k = n / 9}, {.k = 8 * n / 9}, {.k = n / 2}};
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    Model model = ordered(row_major);
    const std::vector<ScoreInputs> inputs = model.inputs();
    const FreshMasks masks(inputs);
    EmulatedCuda engine(seed, 1 + static_cast<unsigned>(seed % 3));
    std::size_t at = 0;
    engine.replay(inputs, Magnitude{}, budgets, {}, masks.table(), nullptr, [&](const cuda::StepReport& report) {
      const Step step{.model = row_major, .scorer = Magnitude{}, .k = budgets[at++].k};
      EXPECT_EQ(report.pruned, step.k);
      EXPECT_TRUE(same_masks(expected(step).masks, logical_bits(masks.bits(), inputs)));
    });
    EXPECT_EQ(at, budgets.size());
    engine.step(inputs, Magnitude{}, {.k = n / 3}, {.zero = roles::weight}, masks.table());
    for (std::size_t t = 0; t < inputs.size(); ++t)
      for (std::int64_t i = 0; i < inputs[t].numel; ++i)
        ASSERT_TRUE(bits::get(masks.bits()[t].data(), i) || model.tensors[t].weight[static_cast<std::size_t>(i)] == 0);
  }
}

}  // namespace
}  // namespace bittersweet::test
