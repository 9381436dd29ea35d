// The ways in which a step can go wrong or take the long way round, forced one by one.
#include "cuda/step_support.hpp"

namespace bittersweet::test {
namespace {

// A bracket from outside, wherever the wanted rank lies against it; with room for all candidates, a few, or none.
TEST(CudaFaults, MissedBracketsAndOverflow) {
  std::uint64_t seed = 0;
  std::uint32_t seen = 0;
  for (const char* name : {"half_normal", "half_zeros", "three_values", "any_number"})
    for (const Scorer& scorer : {Scorer(Magnitude{}), Scorer(Identity{})}) {
      const Values values = values_named(name, 3000, 11);
      Step step{.model = model_of({values, values_named(name, 1100, 12)}, DType::f32, Placement::flush),
                .scorer = scorer};
      std::vector<float> scores(values);
      if (std::holds_alternative<Magnitude>(scorer))
        for (float& score : scores) score = std::fabs(score);
      std::sort(scores.begin(), scores.end());
      for (const auto& [from, to] : {std::pair{0.1, 0.2}, {0.4, 0.6}, {0.5, 0.5}, {0.8, 0.9}})
        for (const std::int64_t capacity : {std::int64_t{4100}, std::int64_t{20}, std::int64_t{0}})
          for (const double sparsity : {0.02, 0.5, 0.98}) {
            step.k = static_cast<std::int64_t>(sparsity * static_cast<double>(step.model.numel()));
            step.options.ties = seed % 4 == 0 ? Ties::below : seed % 4 == 1 ? Ties::at_or_below : Ties::exact;
            EmulatedCuda engine(++seed);
            engine.force_bracket(scores[static_cast<std::size_t>(from * 2999)],
                                 scores[static_cast<std::size_t>(to * 2999)]);
            engine.force_capacity(capacity);
            const Result got = run(step, engine);
            SCOPED_TRACE(std::string(name) + ", " + name_of(scorer) + ", bracket from " + std::to_string(from) +
                         ", capacity " + std::to_string(capacity) + ", sparsity " + std::to_string(sparsity));
            expect_same(expected(step), got);
            seen |= got.report.status;
            if (got.report.status != 0) {
              EXPECT_GE(got.report.passes, 2.0f);
            }
          }
    }
  EXPECT_EQ(seen, cuda::status::overflow | cuda::status::missed);
}

// The answer at an end of the bracket that many elements share: rough scores are a little off there, to either side.
TEST(CudaFaults, RoughScoresAtTheEnds) {
  for (const Scorer& scorer : {Scorer(Bitter3{}), Scorer(Bitter7{}), Scorer(Bitter8{})}) {
    Step step{.model = training_model({4096}, {DType::f32}, 5, Placement::flush), .scorer = scorer};
    Tensor& tensor = step.model.tensors[0];
    for (std::size_t i = 0; i < 4096; ++i)
      for (Array* array : {&tensor.weight, &tensor.exp_avg, &tensor.exp_avg_sq}) array->set(i, (*array)[i % 61]);
    const std::vector<ScoreInputs> inputs = step.model.inputs();
    Values scores(4096);
    float* const to[] = {scores.data()};
    ReferenceEngine().write_scores(make_view(inputs, scorer), {}, to);
    std::sort(scores.begin(), scores.end());
    for (std::size_t at = 700; at < 3000; at += 67)
      for (const bool at_low : {false, true}) {
        step.k = static_cast<std::int64_t>(at) + 1;
        EmulatedCuda engine(at);
        engine.force_bracket(at_low ? scores[at] : 0x1p-90f, at_low ? 0x1p90f : scores[at]);
        SCOPED_TRACE(name_of(scorer) + " at " + show(scores[at]));
        expect_same(expected(step), run(step, engine));
      }
  }
}

// Zero is where brackets of non-negative scores end; above it, the smallest positive number.
TEST(CudaFaults, BracketsThatEndAtZero) {
  std::uint64_t seed = 0;
  for (const char* name : {"half_zeros", "mostly_zeros", "all_zero", "denormals", "signed_zeros"})
    for (const Ties ties : {Ties::exact, Ties::at_or_below, Ties::below})
      for (const double sparsity : {0.1, 0.5, 0.9, 1.0})
        for (const float high : {tiniest, 0.01f, infinity}) {
          Step step{.model = model_of({values_named(name, 3000, 3), values_named(name, 200, 4)}, DType::f32,
                                      Placement::flush),
                    .scorer = Magnitude{},
                    .options = {.ties = ties}};
          step.k = static_cast<std::int64_t>(sparsity * 3200);
          EmulatedCuda engine(++seed);
          engine.force_bracket(tiniest, high);
          SCOPED_TRACE(std::string(name) + ", ties " + std::to_string(static_cast<int>(ties)) + ", sparsity " +
                       std::to_string(sparsity) + ", up to " + std::to_string(high));
          expect_same(expected(step), run(step, engine));
        }
}

TEST(CudaFaults, BudgetOutOfRange) {
  Step step{.model = training_model({500, 600}, {DType::f32}), .scorer = Bitter7{}};
  step.model.set_masks(0.5, 3);
  step.options.zero = roles::weight;
  for (const std::int64_t k : {std::int64_t{-1}, std::int64_t{1101}}) {
    step.k = k;
    const auto before = step.model.bytes();
    const Result got = run(step);
    EXPECT_EQ(got.report.status, cuda::status::bad_k | cuda::status::failed);
    EXPECT_EQ(step.model.bytes(), before);
    EXPECT_EQ(got.report.churn, 0);
  }
}

TEST(CudaFaults, NaNStopsEverything) {
  for (const bool masked : {false, true})
    for (const DType dtype : {DType::f32, DType::bf16}) {
      Step step{.model = training_model({3000, 1024, 2000}, {dtype}, 9, Placement::flush), .scorer = Bitter7{}};
      step.options.zero = roles::weight | roles::exp_avg | roles::exp_avg_sq;
      step.k = 3000;
      if (masked) step.model.set_masks(0.3, 4);
      std::vector<std::int64_t> places;
      for (const std::size_t i : {std::size_t{700}, std::size_t{5}, std::size_t{1999}}) {
        step.model.tensors[2].weight.set(i, not_a_number);
        if (!masked || bits::get(step.model.tensors[2].mask.data(), static_cast<std::int64_t>(i)))
          places.push_back(4024 + static_cast<std::int64_t>(i));
      }
      ASSERT_FALSE(places.empty());
      const auto before = step.model.bytes();
      const Result got = run(step);
      EXPECT_EQ(got.report.status, cuda::status::nan | cuda::status::failed);
      EXPECT_EQ(got.report.nan, static_cast<std::int64_t>(places.size()));
      EXPECT_EQ(got.report.first_nan, *std::min_element(places.begin(), places.end()));
      EXPECT_EQ(step.model.bytes(), before) << "a void step wrote";
      Bits live;
      for (const ScoreInputs& tensor : step.model.inputs()) {
        live.emplace_back();
        for (std::int64_t word = 0; word < bits::words(tensor.numel); ++word)
          live.back().push_back(bits::live(tensor.mask, tensor.numel, word));
      }
      EXPECT_TRUE(same_masks(live, got.masks)) << "new masks of a void step are the current ones";

      step.options.nonfinite = NonFinite::keep;
      step.options.zero = 0;
      expect_like_reference(step);
      EXPECT_EQ(run(step).report.status, cuda::status::nan);
    }
}

TEST(CudaFaults, AllNaN) {
  Step step{.model = model_of({Values(700, not_a_number), Values(40, not_a_number)}),
            .options = {.nonfinite = NonFinite::keep}};
  for (const std::int64_t k : {0, 1, 740}) {
    step.k = k;
    expect_like_reference(step);
  }
}

TEST(CudaFaults, ZerosInTheSameStep) {
  std::uint64_t seed = 0;
  for (const std::vector<DType>& dtypes : storages())
    for (const Placement placement : {Placement::flush, Placement::offset}) {
      Step step{.model = training_model({3000, 1024, 31, 2048}, dtypes, ++seed, placement),
                .scorer = Bitter0{},
                .options = {.nonfinite = NonFinite::keep}};
      step.k = 3000;
      const Expected want = expected(step);
      Model zeroed = step.model;
      std::vector<const std::uint64_t*> masks;
      for (const auto& words : want.masks) masks.push_back(words.data());
      constexpr std::uint32_t which = roles::weight | roles::exp_avg | roles::exp_avg_sq | roles::max_exp_avg_sq;
      const std::vector<ScoreInputs> inputs = zeroed.inputs();
      ReferenceEngine().apply_mask(inputs, make_chunks(inputs), masks, which);
      step.options.zero = which;
      expect_same(want, run(step));
      EXPECT_EQ(step.model.bytes(), zeroed.bytes());
      EXPECT_TRUE(step.model.intact());
    }
}

TEST(CudaFaults, ArgumentsAreCheckedFirst) {
  Step step{.model = training_model({100}, {DType::f32}), .scorer = Bitter7{}, .k = 5};
  step.model.set_masks(0.5, 1);
  const std::vector<ScoreInputs> inputs = step.model.inputs();
  EmulatedCuda engine;
  std::uint64_t* const current[] = {const_cast<std::uint64_t*>(inputs[0].mask)};
  EXPECT_THROW(engine.step(inputs, step.scorer, {.k = 5}, {}, current),
               ArgumentError);  // new masks over the current ones
  EXPECT_THROW(engine.step(inputs, step.scorer, {.k = 5}, {.zero = roles::weight}, {}), ArgumentError);
  const FreshMasks masks(inputs);
  std::vector<std::uint64_t*> two(masks.table().begin(), masks.table().end());
  two.push_back(nullptr);
  EXPECT_THROW(engine.step(inputs, step.scorer, {.k = 5}, {}, two), ShapeError);
  EXPECT_THROW(engine.step(inputs, Bitter7{.eps = -1.0f}, {.k = 5}, {}, masks.table()), ArgumentError);
  std::vector<ScoreInputs> bare(inputs);
  bare[0].exp_avg_sq = {};
  EXPECT_THROW(engine.step(bare, step.scorer, {.k = 5}, {}, masks.table()), MissingStateError);
}

}  // namespace
}  // namespace bittersweet::test
