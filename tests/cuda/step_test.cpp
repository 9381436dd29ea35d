// The engine of cuda/ as a whole, on the emulator: what it answers is what the reference engine answers, for every
// scorer, storage, rule of ties, budget and mask, whatever the grid or the order of threads. bitter8 is compared, too:
// the emulator's reciprocal roots are IEEE, as on the CPU. (On a device they are approximate; score/bitter8.hpp.)
#include "cuda/step_support.hpp"

namespace bittersweet::test {
namespace {

TEST(CudaStep, EveryScorerAndStorage) {
  std::uint64_t seed = 0;
  for (const Scorer& scorer : all_scorers())
    for (const std::vector<DType>& dtypes : storages())
      for (const Placement placement : {Placement::flush, Placement::offset}) {
        Step step{.model = training_model({1, 3000, 1024, 31, 5000, 2048}, dtypes, ++seed, placement),
                  .scorer = scorer,
                  .options = {.nonfinite = NonFinite::keep},
                  .seed = seed,
                  .processors = 1 + static_cast<unsigned>(seed % 3)};
        step.k = step.model.numel() * static_cast<std::int64_t>(1 + seed % 9) / 10;
        SCOPED_TRACE(name_of(scorer) + ", storage " + name_of(dtypes[0]) + " of " + std::to_string(dtypes.size()) +
                     ", k " + std::to_string(step.k));
        expect_like_reference(step);
      }
}

TEST(CudaStep, NamedValuesTiesAndBudgets) {
  std::uint64_t seed = 0;
  for (const NamedValues& named : named_values())
    for (const Scorer& scorer : {Scorer(Identity{}), Scorer(Magnitude{})})
      for (const Ties ties : {Ties::exact, Ties::at_or_below, Ties::below}) {
        ++seed;
        Step step{
            .model = model_of({named.make(1500, seed), named.make(1, seed), named.make(2100, seed + 1)},
                              seed % 3 ? DType::f32 : DType::bf16, seed % 2 ? Placement::offset : Placement::flush),
            .scorer = scorer,
            .options = {.ties = ties},
            .seed = seed};
        const std::int64_t n = step.model.numel();
        for (const std::int64_t k : {std::int64_t{0}, std::int64_t{1}, n / 3, n / 2, n * 9 / 10, n - 1, n}) {
          step.k = k;
          SCOPED_TRACE(std::string(named.name) + ", " + name_of(scorer) + ", ties " +
                       std::to_string(static_cast<int>(ties)) + ", k " + std::to_string(k));
          expect_like_reference(step);
        }
      }
}

TEST(CudaStep, AwkwardSizes) {
  for (const std::int64_t n : {0, 1, 2, 31, 32, 33, 63, 64, 65, 127, 1023, 1024, 1025, 2047, 2049, 65535, 66561})
    for (const Placement placement : {Placement::flush, Placement::offset})
      for (const DType dtype : {DType::f32, DType::f16}) {
        Step step{.model = training_model({n}, {dtype}, static_cast<std::uint64_t>(n) + 1, placement),
                  .scorer = Bitter7{},
                  .k = n / 2,
                  .seed = static_cast<std::uint64_t>(n)};
        SCOPED_TRACE(std::to_string(n) + " of " + name_of(dtype));
        expect_like_reference(step);
      }
  Step none{};  // no tensors at all
  expect_like_reference(none);
  Step empty{.model = training_model({0, 500, 0, 0, 700, 0}, {DType::f32}), .scorer = Bitter7{}, .k = 600};
  expect_like_reference(empty);
}

TEST(CudaStep, MoreTensorsThanOneUploadHolds) {
  std::vector<std::int64_t> sizes;
  for (std::int64_t t = 0; t < 1000; ++t) sizes.push_back(t * 37 % 90);
  Step step{.model = training_model(sizes, {DType::f32, DType::bf16}), .scorer = Bitter3{}};
  step.k = step.model.numel() / 2;
  step.options.zero = roles::weight | roles::exp_avg;
  const Expected want = expected(step);
  expect_same(want, run(step));
  const std::vector<ScoreInputs> inputs = step.model.inputs();
  for (std::size_t t = 0; t < inputs.size(); ++t)
    for (std::int64_t i = 0; i < inputs[t].numel; ++i)
      if (!bits::get(want.masks[t].data(), i)) {
        ASSERT_EQ(load_as_float(inputs[t].weight.data, inputs[t].weight.dtype, i), 0.0f);
      }
}

TEST(CudaStep, CurrentMasks) {
  std::uint64_t seed = 0;
  for (const double dead : {0.3, 0.9, 1.0})
    for (const bool regrow : {false, true})
      for (const double sparsity : {0.1, 0.5, 0.95})
        for (const Scorer& scorer : {Scorer(Bitter7{}), Scorer(Bitter5{}), Scorer(Magnitude{})})
          for (const DType dtype : {DType::f32, DType::bf16}) {
            Step step{.model = training_model({3000, 1024, 777}, {dtype}, ++seed,
                                              seed % 2 ? Placement::flush : Placement::offset),
                      .scorer = scorer,
                      .options = {.nonfinite = NonFinite::keep, .regrow = regrow},
                      .seed = seed};
            step.model.set_masks(dead, seed);
            step.model.tensors[1].masked = false;
            step.k = static_cast<std::int64_t>(sparsity * static_cast<double>(step.model.numel()));
            SCOPED_TRACE(name_of(scorer) + " of " + name_of(dtype) + ", dead " + std::to_string(dead) + ", sparsity " +
                         std::to_string(sparsity) + (regrow ? ", regrow" : ""));
            expect_like_reference(step);
          }
}

TEST(CudaStep, RowsThatBecomeEmpty) {
  Step step{.model = training_model({48 * 40, 30 * 7 * 9, 64 * 50, 36 * 5, 30 * 7 * 9, 3 * 24 * 50, 4 * 9 * 6 * 5},
                                    {DType::f32}),
            .scorer = Wanda{}};
  const auto shape = [&](std::size_t t, Geometry geometry) {
    step.model.tensors[t].geometry = geometry;
    step.model.tensors[t].input_norm = Array(half_normal(geometry.features(), t), DType::f32);
  };
  shape(0, matrix(48, 40));
  shape(1, {30, 7, 9, 63, 9});
  shape(2, {64, 50, 1, 1, 64});          // transposed
  shape(3, {6, 6, 5, 5, 30});            // transposed, with runs
  shape(4, {30, 7, 9, 63, 9, 5});        // a conv in groups
  shape(5, {3 * 24, 50, 1, 1, 24, 3});   // experts, inputs first
  shape(6, {4 * 9, 6, 5, 5, 9 * 5, 4});  // a transposed conv in groups
  for (Tensor& tensor : step.model.tensors)
    for (std::size_t i = 0; i < static_cast<std::size_t>(tensor.numel); ++i)
      if (i / 40 % 5 == 0 || i % 64 < 9) tensor.weight.set(i, 0.0f);
  for (const bool masked : {false, true}) {
    if (masked) step.model.set_masks(0.9, 5);
    for (const double sparsity : {0.5, 0.93, 0.99, 1.0}) {
      step.k = static_cast<std::int64_t>(sparsity * static_cast<double>(step.model.numel()));
      SCOPED_TRACE(sparsity);
      expect_like_reference(step);
    }
  }
}

TEST(CudaStep, Modifiers) {
  std::uint64_t seed = 0;
  for (const float modifier : {0.05f, 1e-9f, 1e12f, 0.0f, -0.0f, -1.0f, not_a_number})
    for (const Scorer& scorer : {Scorer(Bitter3{}), Scorer(Bitter7{}), Scorer(Bitter8{}), Scorer(Magnitude{}),
                                 Scorer(Bitter9Hybrid{}), Scorer(Random{.seed = 7})})
      for (const DType dtype : {DType::f32, DType::f16}) {
        Step step{.model = training_model({2000, 1500, 1024}, {dtype}, ++seed, Placement::flush),
                  .scorer = scorer,
                  .options = {.nonfinite = NonFinite::keep},
                  .seed = seed};
        step.model.tensors[1].modifier = modifier;
        step.model.tensors[2].modifier = 1.25f;
        step.k = step.model.numel() / 2;
        SCOPED_TRACE(name_of(scorer) + " of " + name_of(dtype) + " times " + std::to_string(modifier));
        expect_like_reference(step);
      }
}

// Every exponent, zeros of both signs, infinities and NaN, in every array.
TEST(CudaStep, ExtremeInputs) {
  std::uint64_t seed = 0;
  for (const Scorer& scorer : all_scorers())
    for (const DType dtype : {DType::f32, DType::bf16}) {
      Step step{.model = training_model({4096, 1024}, {dtype}, ++seed, Placement::flush),
                .scorer = scorer,
                .options = {.nonfinite = NonFinite::keep},
                .seed = seed};
      Generator random(seed);
      for (Tensor& tensor : step.model.tensors)
        for (Array* array : {&tensor.weight, &tensor.exp_avg, &tensor.exp_avg_sq, &tensor.grad, &tensor.scores})
          for (std::size_t i = 0; i < array->size(); ++i) {
            const std::int64_t kind = random.below(12);
            if (kind == 0) array->set(i, random.any_float());
            if (kind == 1) array->set(i, 0.0f);
            if (kind == 2) array->set(i, tiniest * static_cast<float>(random.below(1000)));
            if (kind == 3 && random.below(20) == 0) array->set(i, infinity);
          }
      for (const double sparsity : {0.05, 0.2, 0.6}) {
        step.k = static_cast<std::int64_t>(sparsity * static_cast<double>(step.model.numel()));
        SCOPED_TRACE(name_of(scorer) + " of " + name_of(dtype) + ", sparsity " + std::to_string(sparsity));
        expect_like_reference(step);
      }
    }
}

TEST(CudaStep, ThresholdWithoutMasks) {
  for (const std::int64_t k : {0, 1, 2500, 5000}) {
    const Step step{.model = training_model({3000, 2000}, {DType::f32}), .scorer = Bitter7{}, .k = k};
    const Expected want = expected(step);
    EmulatedCuda engine(static_cast<std::uint64_t>(k));
    const cuda::StepReport got = engine.step(step.model.inputs(), step.scorer, {.k = k}, step.options, {});
    EXPECT_TRUE(same_bits(*want.report.value, got.value));
    EXPECT_EQ(got.below, want.report.count_below);
    EXPECT_EQ(got.equal, want.report.count_equal);
    EXPECT_EQ(got.pruned, want.report.pruned);
  }
}

// The same bits and the same report under 60 orders of threads and several grids.
TEST(CudaStep, OrderOfThreadsNeverShows) {
  const Values zeros_and_ties = with_zeros(values_named("bf16_rounded", 3000, 3), 0.4, 4);
  for (const bool ties : {false, true}) {
    Step step{.model = ties ? model_of({zeros_and_ties, zeros_and_ties}, DType::f32, Placement::flush)
                            : training_model({3000, 3000}, {DType::f32}, 3, Placement::flush),
              .scorer = ties ? Scorer(Magnitude{}) : Scorer(Bitter7{})};
    step.k = ties ? 1000 : 3000;
    const Expected want = expected(step);
    const Result first = run(step);
    for (std::uint64_t seed = 2; seed < 62; ++seed) {
      step.seed = seed;
      step.processors = 1 + static_cast<unsigned>(seed % 4);
      const Result got = run(step);
      SCOPED_TRACE("seed " + std::to_string(seed));
      expect_same(want, got);
      EXPECT_EQ(std::memcmp(&first.report, &got.report, sizeof got.report), 0);
    }
  }
}

}  // namespace
}  // namespace bittersweet::test
