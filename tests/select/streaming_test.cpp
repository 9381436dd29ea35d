// The streaming selector: bisection on the integer key from a guess. It keeps its tolerance on every input, says how
// many reads it took, is exact at tolerance 0, and never ends unconverged.
#include "bittersweet/flow.hpp"
#include "support/compare.hpp"
#include "support/engines.hpp"
#include "support/inputs.hpp"

namespace bittersweet::test {
namespace {

class StreamingOnEngines : public EngineTest {};
BITTERSWEET_FOR_EVERY(engines, StreamingOnEngines);

constexpr double most_reads = KeySearch::most_reads;

template <class E>
PruneReport stream(E& engine, std::span<const ScoreInputs> inputs, std::int64_t k, double tolerance) {
  Workspace workspace;
  return flow::threshold(engine, inputs, Identity{}, {.k = k}, {.selector = Streaming{.tolerance = tolerance}},
                         workspace);
}

// Within the tolerance, or on an atom: one value so frequent that no threshold comes nearer.
TEST_P(StreamingOnEngines, KeepsItsToleranceOnEveryInput) {
  run([](auto& engine) {
    for (const NamedValues& named : named_values())
      for (const std::int64_t n : {1, 2, 50, 4097, 70000}) {
        Values values = named.make(n, 5);
        const Model model = model_of({values});
        const auto inputs = model.inputs();
        std::sort(values.begin(), values.end());
        for (const double sparsity : {0.001, 0.5, 0.77, 1.0})
          for (const double tolerance : {0.0, 1e-3, 0.05}) {
            const auto k = static_cast<std::int64_t>(sparsity * static_cast<double>(n) + 0.5);
            if (k == 0) continue;
            SCOPED_TRACE(std::string(named.name) + " of " + std::to_string(n) + ", k " + std::to_string(k) +
                         ", tolerance " + std::to_string(tolerance));
            const PruneReport report = stream(engine, inputs, k, tolerance);
            ASSERT_TRUE(report.converged);
            ASSERT_LE(report.passes, most_reads);
            ASSERT_GE(report.passes, 2);
            const auto below = std::lower_bound(values.begin(), values.end(), *report.value) - values.begin();
            const auto reached = std::upper_bound(values.begin(), values.end(), *report.value) - values.begin();
            ASSERT_EQ(report.count_below, below);
            ASSERT_EQ(report.count_equal, reached - below);
            const double off = std::fabs(static_cast<double>(reached - k)) / static_cast<double>(n);
            const bool is_kth = below < k && k <= reached;
            ASSERT_TRUE(is_kth || (tolerance > 0 && off <= tolerance)) << show(*report.value) << ", off by " << off;
          }
      }
  });
}

// The guess may be as bad as it likes: the number of reads stays bounded. A few numbers at adversarial keys, beside
// some so large that mean and spread lie far away.
TEST(Streaming, ReadsAreBounded) {
  CpuEngine engine(cpu::usable_isas().back(), 1);
  Generator random(1);
  double worst = 0;
  const auto stress = [&](float kth, float far, std::int64_t k) {
    Values values(10, far);
    for (std::int64_t i = 0; i < k; ++i) values[static_cast<std::size_t>(i)] = kth;
    const Model model = model_of({values});
    worst = std::max(worst, stream(engine, model.inputs(), k, 0).passes);
  };
  for (int i = 0; i < 2000; ++i) {
    const float x = score_of(static_cast<std::uint32_t>(random.bits()));
    if (std::isnan(x)) continue;
    for (const float far : {3.4028235e38f, -3.4028235e38f, 1.0f})
      for (const std::int64_t k : {1, 4, 6, 9}) stress(x, far, k);
  }
  for (std::uint32_t bit = 0; bit < 32; ++bit)  // neighbours of the points that halving asks for
    for (const std::uint32_t step : {0u, 1u, 2u})
      for (const float x : {score_of((1u << bit) - step), score_of(~(1u << bit) + step)})
        if (!std::isnan(x))
          for (const float far : {3.4028235e38f, -3.4028235e38f})
            for (const std::int64_t k : {1, 6, 9}) stress(x, far, k);
  EXPECT_LE(worst, most_reads);
  EXPECT_GT(worst, 10) << "the inputs are not hard";
}

TEST(Streaming, ANearNormalSequenceTakesFewReads) {
  CpuEngine engine(cpu::usable_isas().back(), 1);
  const Model model = model_of({values_named("normal", 300000, 3)});
  EXPECT_LE(stream(engine, model.inputs(), 150000, 1e-3).passes, 6);
}

// Where few scores are left between two thresholds they are collected, in memory that the report states: the search
// does not go on halving down to one key.
TEST_P(StreamingOnEngines, TheLastReadCollectsFewScores) {
  run([](auto& engine) {
    constexpr std::int64_t n = 100000;
    for (const char* name : {"normal", "bitter7_like", "half_zeros", "student_t"})
      for (const double sparsity : {0.502, 0.75, 0.9}) {
        Values values = values_named(name, n, 4);
        const Model model = model_of({values});
        const auto k = static_cast<std::int64_t>(sparsity * n);
        SCOPED_TRACE(std::string(name) + ", k " + std::to_string(k));
        const PruneReport report = stream(engine, model.inputs(), k, 0);
        std::nth_element(values.begin(), values.begin() + (k - 1), values.end());
        EXPECT_EQ(*report.value, values[static_cast<std::size_t>(k - 1)]);
        EXPECT_LE(report.passes, 6);
        EXPECT_LE(report.extra_bytes, n / 64 * 6);
      }
  });
}

TEST(Streaming, InverseNormal) {
  for (double x = -3.5; x <= 3.5; x += 0.01)
    EXPECT_NEAR(inverse_normal(0.5 * std::erfc(-x / std::sqrt(2.0))), x, 4.6e-4);
  for (double x = 1e-300; x < 1e300; x *= 1.37)
    EXPECT_NEAR(natural_log(x), std::log(x), 1e-8 * std::fabs(std::log(x)) + 1e-8);
  EXPECT_TRUE(std::isfinite(inverse_normal(0.0)));
  EXPECT_TRUE(std::isfinite(inverse_normal(1.0)));
}

// Sums of wide ranges overflow f32 but not the double accumulators; infinities stay out of mean and spread.
TEST(Streaming, HugeAndInfiniteScores) {
  CpuEngine engine(cpu::usable_isas().back(), 1);
  for (const Values& values : {Values(1000, 3.4028235e38f), Values(1000, infinity), Values(1000, -infinity),
                               one_of(1000, 1, {infinity, -infinity})}) {
    const Model model = model_of({values});
    const PruneReport report = stream(engine, model.inputs(), 500, 0);
    Values order = values;
    std::sort(order.begin(), order.end());
    EXPECT_EQ(*report.value, order[499]);
    EXPECT_LE(report.passes, most_reads);
  }
}

TEST(Streaming, ToleranceIsChecked) {
  CpuEngine engine(cpu::usable_isas().back(), 1);
  const Model model = model_of({Values(10, 1.0f)});
  for (const double tolerance : {-1e-9, 1.0, 2.0, std::nan("")})
    EXPECT_THROW(stream(engine, model.inputs(), 5, tolerance), ArgumentError) << tolerance;
}

// Masks follow the threshold that was found, and the achieved share is within the tolerance.
TEST_P(StreamingOnEngines, MasksFollowTheThreshold) {
  run([](auto& engine) {
    Workspace workspace;
    for (const char* name : {"bitter7_like", "half_zeros", "student_t"}) {
      const Values values = values_named(name, 70000, 8);
      Model model = model_of({values});
      model.set_masks(0.25, 2);
      const auto inputs = model.inputs();
      FreshMasks masks(inputs);
      const PruneReport report = flow::make_masks(engine, inputs, Identity{}, {.sparsity = 0.8},
                                                  {.selector = Streaming{}}, masks.table(), workspace);
      for (std::size_t i = 0; i < values.size(); ++i) {
        const auto at = static_cast<std::int64_t>(i);
        const bool live = bits::get(inputs[0].mask, at);
        ASSERT_EQ(bits::get(masks.table()[0], at), live && values[i] > *report.value) << name << " at " << i;
      }
      EXPECT_NEAR(static_cast<double>(report.pruned - report.k) / static_cast<double>(report.total - report.dead), 0,
                  1e-3);
    }
  });
}

}  // namespace
}  // namespace bittersweet::test
