// The sampling selector: seeded and independent of threads and engine, as far off as it says and no further, true
// counts on request, exact on short sequences.
#include <numeric>

#include "bittersweet/flow.hpp"
#include "support/compare.hpp"
#include "support/engines.hpp"
#include "support/inputs.hpp"

namespace bittersweet::test {
namespace {

class SamplingOnEngines : public EngineTest {};
BITTERSWEET_FOR_EVERY(engines, SamplingOnEngines);

constexpr std::int64_t n = 400000;

const Values& normal_values() {
  static const Values values = values_named("half_normal", n, 1);
  return values;
}

PruneReport sample_with(const Model& model, double sparsity, const Sampling& sampling, std::uint64_t seed) {
  CpuEngine engine(cpu::usable_isas().back(), 1);
  Workspace workspace;
  const auto inputs = model.inputs();
  return flow::threshold(engine, inputs, Identity{}, {.sparsity = sparsity}, {.selector = sampling, .seed = seed},
                         workspace);
}

// Root mean square of (achieved - wanted sparsity) over many seeds, against the standard error that is reported.
struct Measured {
  double error = 0, mean = 0, stated = 0;
};

Measured measure(const Values& values, double sparsity, const Sampling& sampling) {
  constexpr int seeds = 200;
  const Model model =
      model_of({Values(values.begin(), values.begin() + n / 3), {}, Values(values.begin() + n / 3, values.end())});
  Values order = values;
  std::sort(order.begin(), order.end());
  Measured measured;
  for (std::uint64_t seed = 0; seed < seeds; ++seed) {
    const PruneReport report = sample_with(model, sparsity, sampling, seed);
    const auto reached = std::upper_bound(order.begin(), order.end(), *report.value) - order.begin();
    const double off = static_cast<double>(reached) / static_cast<double>(n) - sparsity;
    measured.error += off * off / seeds;
    measured.mean += off / seeds;
    measured.stated = report.standard_error.value();
  }
  measured.error = std::sqrt(measured.error);
  return measured;
}

// On independent scores the stated error is the true one; 200 seeds know it to 5 %.
TEST(Sampling, ErrorIsTheStatedOne) {
  for (const double sparsity : {0.05, 0.5, 0.9})
    for (const double fraction : {0.001, 0.1}) {  // 10,000 (the least) and 40,000 elements
      SCOPED_TRACE("sparsity " + std::to_string(sparsity) + ", fraction " + std::to_string(fraction));
      const Measured m = measure(normal_values(), sparsity, {.fraction = fraction});
      const double samples = fraction < 0.01 ? 10000 : 40000;
      EXPECT_NEAR(m.stated, std::sqrt(sparsity * (1 - sparsity) / samples), 1e-6);
      EXPECT_LT(m.error, 1.25 * m.stated);
      EXPECT_GT(m.error, 0.75 * m.stated);
      EXPECT_LT(std::fabs(m.mean), 4 * m.stated / std::sqrt(200.0)) << "a bias";
    }
}

// Stratified: order in the sequence only makes it better.
TEST(Sampling, OrderOnlyHelps) {
  for (const char* name : {"sorted", "reversed", "row_scale"}) {
    const Measured m = measure(values_named(name, n, 2), 0.5, {});
    EXPECT_LT(m.error, 1.25 * m.stated) << name;
  }
  EXPECT_LT(measure(values_named("sorted", n, 2), 0.5, {}).error, 0.1 * 0.005);
}

TEST(Sampling, ErrorUnderAMaskIsOfTheWholeSequence) {
  Model model = model_of({normal_values()});
  model.set_masks(0.75, 3);
  const PruneReport report = sample_with(model, 0.9, {}, 1);
  const double live = static_cast<double>(report.total - report.dead) / n;  // prunes 0.15 of n among a quarter of n
  const double share = static_cast<double>(report.k - report.dead) / static_cast<double>(report.total - report.dead);
  const double expected = live * std::sqrt(share * (1 - share) / (10000 * live));
  EXPECT_NEAR(*report.standard_error, expected, 0.03 * expected);  // how many of the sample are alive is chance
}

TEST(Sampling, TheSeedDecides) {
  const Model model = model_of({normal_values()});
  const float value = *sample_with(model, 0.5, {}, 1).value;
  EXPECT_EQ(*sample_with(model, 0.5, {}, 1).value, value);
  int differing = 0;
  for (std::uint64_t seed = 2; seed < 22; ++seed) differing += *sample_with(model, 0.5, {}, seed).value != value;
  EXPECT_GE(differing, 19);
}

TEST(Sampling, CountsOnlyWhatItVerified) {
  const Model model = model_of({normal_values()});
  const PruneReport quick = sample_with(model, 0.5, {}, 1);
  EXPECT_EQ(quick.count_below, -1);
  EXPECT_EQ(quick.count_equal, -1);
  EXPECT_EQ(quick.pruned, -1);
  EXPECT_NEAR(quick.passes, 10000.0 / n, 1e-9);
  const PruneReport verified = sample_with(model, 0.5, {.verify = true}, 1);
  EXPECT_EQ(verified.value, quick.value);
  EXPECT_EQ(verified.count_below, std::ranges::count_if(normal_values(), [&](float x) { return x < *quick.value; }));
  EXPECT_EQ(verified.count_equal, std::ranges::count(normal_values(), *quick.value));
  EXPECT_EQ(verified.pruned, verified.count_below + verified.count_equal);
  EXPECT_NEAR(verified.passes, 1 + 10000.0 / n, 1e-9);
}

TEST(Sampling, ShortSequencesAreExact) {
  for (const std::int64_t size : {std::int64_t{1}, std::int64_t{500}, Sampling::smallest}) {
    const Values values = values_named("normal", size, 3);
    Values order = values;
    std::sort(order.begin(), order.end());
    const PruneReport report = sample_with(model_of({values}), 0.5, {}, 1);
    EXPECT_EQ(*report.value, order[static_cast<std::size_t>(report.k - 1)]);
    EXPECT_FALSE(report.standard_error);
  }
}

TEST(Sampling, WholeSequenceAsTheSampleIsExact) {
  const Values values = values_named("student_t", 30000, 4);
  Values order = values;
  std::sort(order.begin(), order.end());
  const PruneReport report = sample_with(model_of({values}), 0.3, {.fraction = 1.0}, 7);
  EXPECT_EQ(*report.value, order[static_cast<std::size_t>(report.k - 1)]);
}

// A live sample is needed: where every sampled element is dead the answer is still right.
TEST(Sampling, AlmostEverythingDead) {
  Model model = model_of({normal_values()});
  model.set_masks(1.0, 1);
  for (const std::int64_t i : {5, 70000, 399999}) bits::set(model.tensors[0].mask.data(), i);
  const auto inputs = model.inputs();
  CpuEngine engine(cpu::usable_isas().back(), 1);
  Workspace workspace;
  const PruneReport report =
      flow::threshold(engine, inputs, Identity{}, {.k = n - 1}, {.selector = Sampling{}}, workspace);
  Values live{normal_values()[5], normal_values()[70000], normal_values()[399999]};
  std::sort(live.begin(), live.end());
  EXPECT_TRUE(std::ranges::count(live, *report.value) == 1) << show(*report.value);
}

TEST(Sampling, ExactTiesAreRefused) {
  const Model model = model_of({normal_values()});
  const auto inputs = model.inputs();
  CpuEngine engine(cpu::usable_isas().back(), 1);
  Workspace workspace;
  EXPECT_THROW(
      flow::threshold(engine, inputs, Identity{}, {.k = 5}, {.selector = Sampling{}, .ties = Ties::exact}, workspace),
      ArgumentError);
  for (const double fraction : {0.0, -0.1, 1.1, std::nan("")})
    EXPECT_THROW(sample_with(model, 0.5, {.fraction = fraction}, 1), ArgumentError) << fraction;
}

// The same threshold and masks from every engine; masks follow the rule of ties.
TEST_P(SamplingOnEngines, SameBitsAndRightMasks) {
  const Model reference_model = model_of({normal_values()});
  const float expected = *sample_with(reference_model, 0.37, {}, 5).value;
  run([&](auto& engine) {
    Workspace workspace;
    for (const std::vector<std::int64_t>& sizes : {std::vector<std::int64_t>{n}, {1, 65536, 0, n - 65537}}) {
      std::vector<Values> parts;
      auto at = normal_values().begin();
      for (const std::int64_t size : sizes) {
        parts.emplace_back(at, at + size);
        at += size;
      }
      const Model model = model_of(parts);
      const auto inputs = model.inputs();
      for (const Ties ties : {Ties::at_or_below, Ties::below}) {
        FreshMasks masks(inputs);
        const PruneReport report =
            flow::make_masks(engine, inputs, Identity{}, {.sparsity = 0.37},
                             {.selector = Sampling{}, .ties = ties, .seed = 5}, masks.table(), workspace);
        ASSERT_TRUE(same_bits(*report.value, expected));
        std::int64_t pruned = 0;
        for (std::size_t t = 0; t < parts.size(); ++t)
          for (std::size_t i = 0; i < parts[t].size(); ++i) {
            const bool keep = ties == Ties::below ? parts[t][i] >= expected : parts[t][i] > expected;
            ASSERT_EQ(bits::get(masks.table()[t], static_cast<std::int64_t>(i)), keep);
            pruned += !keep;
          }
        ASSERT_EQ(report.pruned, pruned);
      }
    }
  });
}

// NaN that no sample met is found when the masks are written.
TEST_P(SamplingOnEngines, NaNIsNotOverlooked) {
  run([](auto& engine) {
    Values values = normal_values();
    values[123456] = not_a_number;
    const Model model = model_of({values});
    const auto inputs = model.inputs();
    Workspace workspace;
    FreshMasks masks(inputs);
    EXPECT_THROW(flow::make_masks(engine, inputs, Identity{}, {.sparsity = 0.5}, {.selector = Sampling{}},
                                  masks.table(), workspace),
                 NonFiniteScoreError);
    const PruneReport report =
        flow::make_masks(engine, inputs, Identity{}, {.sparsity = 0.5},
                         {.selector = Sampling{}, .nonfinite = NonFinite::keep}, masks.table(), workspace);
    EXPECT_EQ(report.nonfinite, 1);
    EXPECT_TRUE(bits::get(masks.table()[0], 123456));
  });
}

}  // namespace
}  // namespace bittersweet::test
