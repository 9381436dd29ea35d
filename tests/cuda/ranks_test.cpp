// Decisions over ranks by the kernels of cuda/ on the emulator: threshold, counts and every mask bit are those of the
// whole model in one place, and so are the errors.
#include "support/sharded_cases.hpp"
#include "support/simt/emulated_ranks.hpp"

namespace bittersweet::test {
namespace {

const Cut& cut_named(std::string_view name) {
  return *std::ranges::find_if(cuts(), [&](const Cut& cut) { return cut.name == name; });
}

TEST(CudaRanks, CasesAreAsTheWholeModel) {
  for (std::uint64_t seed = 0; seed < 150; ++seed) {
    EmulatedRanks engine(seed, static_cast<unsigned>(seed % 3) + 1);
    try_case(engine, 200000 + seed, seed % 10 == 0 ? 3000 : 300);
    ASSERT_FALSE(testing::Test::HasFailure()) << "at seed " << seed;
  }
}

// Brackets that come from a sample, in tensors of several chunks; two digits where they miss; candidates that overflow.
TEST(CudaRanks, SampledBracketsMissesAndOverflows) {
  EmulatedRanks engine(3);
  for (const char* const kind : {"half_normal", "three_values", "mostly_zeros", "signed_zeros"})
    for (const char* const cut : {"shard0", "hsdp"}) {
      SCOPED_TRACE(std::string(kind) + ", " + cut);
      const World world = large_world(kind, cut_named(cut), 2, DType::bf16, 0.2);
      expect_as_whole(engine, world, Magnitude{}, {.sparsity = 0.5}, {});
      if (testing::Test::HasFailure()) return;
    }
  const World world = large_world("half_normal", cut_named("grid"), 2);
  for (const Exact& exact :
       {Exact{.guess = Bracket{1.0f, 2.0f}}, Exact{.guess = Bracket{0.005f, 0.03f}, .capacity = 3}}) {
    const Result result = expect_as_whole(engine, world, Magnitude{}, {.sparsity = 0.5}, {.selector = exact});
    EXPECT_GE(result.ranks[0].report.passes, 3.0);
  }
}

// Scores of both signs between -infinity and +infinity, whose keys are too far apart for one read.
TEST(CudaRanks, BracketsAcrossZero) {
  EmulatedRanks engine(5);
  for (const char* const kind : {"any_number", "signed_zeros", "infinities", "ternary"})
    for (const double sparsity : {0.1, 0.5, 0.999}) {
      const std::vector<Shape> shapes{{40, 30}, {7, 11}, {1}};
      std::vector<Values> values;
      for (const Shape& shape : shapes) values.push_back(values_of(kind, numel_of(shape), values.size() + 3));
      SCOPED_TRACE(std::string(kind) + ", sparsity " + std::to_string(sparsity));
      const World world = cut_model(model_of(values), shapes, cut_named("scattered"), 3);
      for (const Scope::Kind scope : {Scope::global, Scope::tensor})
        expect_as_whole(engine, world, Identity{}, {.sparsity = sparsity},
                        {.nonfinite = NonFinite::keep, .scope = {scope}});
      if (testing::Test::HasFailure()) return;
    }
}

TEST(CudaRanks, EveryKindOfRoundAndScorerOfStates) {
  EmulatedRanks engine(7, 3);
  for (const Try& t : tries()) {
    SCOPED_TRACE(t.name);
    expect_as_whole(engine, t.world, Bitter7{.eps = 1e-9f}, {.sparsity = 0.5}, t.options, t.settings);
    if (testing::Test::HasFailure()) return;
  }
}

// All scores are equal: the cut falls between elements, at borders of parts and of runs, and beside them.
TEST(CudaRanks, TheCutMayFallAnywhere) {
  EmulatedRanks engine(9, 1);
  const std::vector<Shape> shapes{{3, 4}, {5, 2, 3}, {0}, {6}};
  for (const Cut& cut : cuts())
    for (const bool turned : {false, true}) {
      SCOPED_TRACE(cut.name + (turned ? ", other orders of memory" : ""));
      std::vector<Values> values;
      for (const Shape& shape : shapes) values.emplace_back(static_cast<std::size_t>(numel_of(shape)), 0.5f);
      const World world = cut_model(model_of(values), shapes, cut, 3, turned);
      for (std::int64_t k = 0; k <= world.whole.numel(); k += 3)
        expect_as_whole(engine, world, Magnitude{}, {.k = k}, {}, {.bins = 16});
      if (testing::Test::HasFailure()) return;
    }
}

TEST(CudaRanks, RowsAndGroups) {
  EmulatedRanks engine(11);
  const std::vector<Shape> shapes{{12, 16}, {9, 8, 3}, {1, 12}, {7, 4}, {3, 700}};
  for (const char* const name : {"shard0", "hsdp", "one_holder"})
    for (const Scope scope : {Scope{Scope::row}, Scope{Scope::n_of_m, 2, 4}})
      for (const std::optional<Distribution> distribution :
           {std::optional<Distribution>{}, std::optional{Distribution::erk}}) {
        SCOPED_TRACE(std::string(name) + ", scope " + std::to_string(scope.kind));
        std::vector<Values> values;
        for (const Shape& shape : shapes) values.push_back(values_of("three_values", numel_of(shape), values.size()));
        Model model = model_of(values);
        for (Tensor& tensor : model.tensors) tensor.input_norm = Array(half_normal(700, 8), DType::f32);
        model.set_masks(0.2, 1);
        const World world = cut_model(std::move(model), shapes, cut_named(name), 4);
        const Result result = expect_as_whole(engine, world, Wanda{}, {.sparsity = 0.3},
                                              {.regrow = true, .scope = scope, .distribution = distribution});
        EXPECT_GE(result.ranks[0].report.empty_rows, 0);
        if (testing::Test::HasFailure()) return;
      }
}

// NaN in several tensors and chunks: the same error, which names the first by logical index; or kept.
TEST(CudaRanks, NaN) {
  EmulatedRanks engine(13);
  for (const Cut& cut : cuts())
    for (const bool turned : {false, true})
      for (const NonFinite nonfinite : {NonFinite::error, NonFinite::keep})
        for (const Scope scope : {Scope{}, Scope{Scope::tensor}}) {
          SCOPED_TRACE(cut.name + (turned ? ", other orders of memory" : ""));
          std::vector<Values> values{half_normal(96, 1), half_normal(1200, 2), half_normal(24, 3)};
          for (const std::size_t i : {7u, 700u, 1100u}) values[1][i] = not_a_number;
          values[2][5] = not_a_number;
          const World world = cut_model(model_of(values), {{12, 8}, {30, 40}, {4, 6}}, cut, 4, turned);
          expect_as_whole(engine, world, Magnitude{}, {.sparsity = 0.6}, {.nonfinite = nonfinite, .scope = scope});
          if (testing::Test::HasFailure()) return;
        }
}

// A tensor of two chunks whose ties end in either, by a decision that more than one rank makes.
TEST(CudaRanks, TiesAcrossChunks) {
  EmulatedRanks engine(15);
  const std::vector<Shape> shapes{{2, 66000}};
  for (const char* const name : {"replicas", "one_holder"}) {
    Values values(132000, 1.0f);
    for (std::size_t i = 0; i < values.size(); i += 3) values[i] = 0.25f;
    const World world = cut_model(model_of({values}, DType::bf16), shapes, cut_named(name), 2);
    for (const std::int64_t k : {100, 30000, 43999, 44001, 131000})
      expect_as_whole(engine, world, Magnitude{}, {.k = k}, {});
  }
}

}  // namespace
}  // namespace bittersweet::test
