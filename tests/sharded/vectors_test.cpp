// The vectors themselves: few, short, and the same whoever computes them.
#include "bittersweet/sharded.hpp"
#include "support/engines.hpp"
#include "support/worlds.hpp"

namespace bittersweet::test {
namespace {

// ---- limits ----

struct Limit {
  const char* kind;
  DType dtype;
  const char* cut;
  std::int64_t rounds, kibibytes;
};

// Rounds and bytes of typical and of nasty values stay under what is promised.
TEST(ShardedLimits, RoundsAndBytes) {
  CpuEngine engine;
  for (const Limit& limit : std::vector<Limit>{{"half_normal", DType::f32, "shard0", 4, 1281},
                                               {"half_normal", DType::f32, "grid", 4, 1281},
                                               {"student_t", DType::f32, "last_axis", 4, 1281},
                                               {"infinities", DType::f32, "shard0", 5, 1281},
                                               {"half_normal", DType::bf16, "shard0", 4, 1281},
                                               {"half_normal", DType::bf16, "last_axis", 5, 1313},
                                               {"mostly_zeros", DType::f32, "shard0", 4, 769},
                                               {"all_zero", DType::f32, "grid", 5, 897},
                                               {"narrow", DType::f32, "hsdp", 4, 1281},
                                               {"all_equal", DType::f32, "shard0", 5, 1025},
                                               {"all_equal", DType::f32, "last_axis", 6, 1057},
                                               {"three_values", DType::f32, "shard0", 5, 1025},
                                               {"denormals", DType::f32, "shard0", 5, 1281},
                                               {"any_number", DType::f32, "grid", 8, 3072}})
    for (const std::int64_t ranks : {1, 4, 8}) {
      SCOPED_TRACE(std::string(limit.kind) + ", " + limit.cut + ", " + std::to_string(ranks) + " ranks");
      const auto cut = std::ranges::find_if(cuts(), [&](const Cut& c) { return c.name == limit.cut; });
      const World world = large_world(limit.kind, *cut, ranks, limit.dtype);
      const Scorer scorer = std::string_view(limit.kind) == "any_number" || std::string_view(limit.kind) == "infinities"
                                ? Scorer{Identity{}}
                                : Scorer{Magnitude{}};
      const Result result = expect_as_whole(engine, world, scorer, {.sparsity = 0.5}, {});
      for (const Outcome& outcome : result.ranks) {
        EXPECT_LE(outcome.rounds, limit.rounds);
        EXPECT_LE(outcome.bytes, limit.kibibytes * 1024);
      }
    }
}

TEST(ShardedLimits, BytesDoNotGrowWithRanks) {
  ReferenceEngine engine;
  std::vector<std::int64_t> bytes;
  for (const std::int64_t ranks : {1, 2, 8, 16}) {
    const World world = large_world("half_normal", cuts()[0], ranks);
    bytes.push_back(run_ranks(engine, world, Magnitude{}, {.sparsity = 0.5}, {}).ranks[0].bytes);
  }
  EXPECT_LE(bytes.back(), bytes.front() + 600 * 1024);  // one vector of candidates more, at the most
}

// ---- the same numbers whoever computes them ----

TEST(ShardedVectors, AreTheSameForAnyEngineAndThreads) {
  for (Try& t : tries()) {
    SCOPED_TRACE(t.name);
    std::vector<std::vector<std::int32_t>> expected;
    RunSettings settings = t.settings;
    settings.sums = &expected;
    ReferenceEngine reference;
    run_ranks(reference, t.world, Bitter7{}, {.sparsity = 0.5}, t.options, settings);
    for (const EngineCase& which : fast_engines()) {
      if (!which.runs_here()) continue;
      std::vector<std::vector<std::int32_t>> found;
      settings.sums = &found;
      with_engine(which,
                  [&](auto& engine) { run_ranks(engine, t.world, Bitter7{}, {.sparsity = 0.5}, t.options, settings); });
      ASSERT_EQ(found, expected) << which;
    }
  }
}

// The public class runs the same flow.
TEST(ShardedVectors, ThePublicClassGivesTheSame) {
  const World world = large_world("half_normal", cuts()[2], 4);
  std::vector<std::vector<ScoreInputs>> inputs;
  std::vector<std::unique_ptr<FreshMasks>> masks;
  std::vector<Workspace> workspaces(4);
  std::vector<ShardedPrune> runs;
  for (std::size_t r = 0; r < 4; ++r) {
    inputs.push_back(world.local[r].inputs());
    masks.push_back(std::make_unique<FreshMasks>(inputs[r]));
    runs.emplace_back(*world.map, static_cast<std::int64_t>(r), inputs[r], world.of[r], world.names, Bitter7{},
                      Budget{.sparsity = 0.5}, PruneOptions{}, "", masks[r]->table(), workspaces[r]);
  }
  for (;;) {
    std::vector<std::span<std::int32_t>> vectors;
    for (ShardedPrune& run : runs) vectors.push_back(run.next());
    if (vectors[0].empty()) break;
    std::vector<std::int32_t> sum(vectors[0].size());
    for (const auto& vector : vectors)
      for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += vector[i];
    for (const auto& vector : vectors) std::copy(sum.begin(), sum.end(), vector.begin());
  }
  const auto whole = world.whole_inputs();
  FreshMasks expected(whole);
  Workspace workspace;
  const PruneReport report = make_masks(whole, Bitter7{}, {.sparsity = 0.5}, {}, expected.table(), workspace);
  Result result;
  result.masks = std::move(masks);
  result.inputs = inputs;
  EXPECT_TRUE(same_masks(expected.bits(), gather_masks(world, result)));
  for (const ShardedPrune& run : runs) expect_same_report(report, run.report());
  EXPECT_EQ(runs[0].rounds(), 4);
}

}  // namespace
}  // namespace bittersweet::test
