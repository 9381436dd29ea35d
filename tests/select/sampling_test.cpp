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
    measured.stated += *report.standard_error * *report.standard_error / seeds;
  }
  measured.error = std::sqrt(measured.error);
  measured.stated = std::sqrt(measured.stated);
  return measured;
}

void expect_true(const Measured& m) {
  EXPECT_LT(m.error, 1.25 * m.stated);
  EXPECT_GT(m.error, 0.75 * m.stated);
  EXPECT_LT(std::fabs(m.mean), 4 * m.stated / std::sqrt(200.0)) << "a bias";
}

constexpr Sampling::By by_element = Sampling::By::element;

// On independent scores the stated error is the true one, however they are drawn; 200 seeds know it to 5 %.
TEST(Sampling, ErrorIsTheStatedOne) {
  for (const Sampling::By by : {Sampling::By::line, by_element})
    for (const double sparsity : {0.05, 0.5, 0.9})
      for (const double fraction : {0.001, 0.1}) {  // 10,000 (the least) and 40,000 elements
        SCOPED_TRACE("sparsity " + std::to_string(sparsity) + ", fraction " + std::to_string(fraction) +
                     (by == by_element ? ", by element" : ", by line"));
        const Measured m = measure(normal_values(), sparsity, {.fraction = fraction, .by = by});
        const double samples = fraction < 0.01 ? 10000 : 40000, independent = sparsity * (1 - sparsity) / samples;
        const double unread = by == by_element ? 1 : 1 - samples / n;
        EXPECT_NEAR(m.stated, std::sqrt(independent * unread), by == by_element ? 1e-6 : 0.05 * std::sqrt(independent));
        expect_true(m);
      }
}

// Rows of a weight share a scale, so that a line says less than 32 independent elements would. The error by line knows.
TEST(Sampling, ErrorByLineIsTrueWhereRowsDiffer) {
  for (const std::int64_t row : {64, 256}) {
    Values values = values_named("half_normal", n, 3);
    const Values scales = values_named("normal", n / row + 1, 4);
    for (std::int64_t i = 0; i < n; ++i)
      values[static_cast<std::size_t>(i)] *= std::exp(1.5f * scales[static_cast<std::size_t>(i / row)]);
    for (const double sparsity : {0.3, 0.9}) {
      SCOPED_TRACE("rows of " + std::to_string(row) + ", sparsity " + std::to_string(sparsity));
      const Measured m = measure(values, sparsity, {.fraction = 0.03});
      expect_true(m);
      EXPECT_GT(m.error, 1.5 * std::sqrt(sparsity * (1 - sparsity) / 12000)) << "the rows do not differ enough";
    }
  }
}

// Stratified: order in the sequence only makes it better than stated.
TEST(Sampling, OrderOnlyHelps) {
  for (const Sampling::By by : {Sampling::By::line, by_element})
    for (const char* name : {"sorted", "reversed", "row_scale"}) {
      const Measured m = measure(values_named(name, n, 2), 0.5, {.by = by});
      EXPECT_LT(m.error, 1.25 * m.stated) << name;
    }
  EXPECT_LT(measure(values_named("sorted", n, 2), 0.5, {.by = by_element}).error, 0.1 * 0.005);
  EXPECT_LT(measure(values_named("sorted", n, 2), 0.5, {}).error, 0.3 * 0.005);  // a 32nd of the strata
}

// Every element is as likely as any other, also the last ones of tensors that do not fill a line.
TEST(Sampling, SmallTensorsCountFully) {
  std::vector<Values> parts;
  for (int t = 0; t < 2000; ++t) {
    parts.emplace_back(40, 1.0f);
    std::fill(parts.back().begin() + 32, parts.back().end(), 2.0f);  // a fifth of all, in lines of their own
  }
  const Model model = model_of(parts);
  double under = 0, stated = 0;
  for (std::uint64_t seed = 0; seed < 30; ++seed) {
    const PruneReport report = sample_with(model, 0.8, {.fraction = 0.2}, seed);
    under += *report.value == 1.0f;
    stated = *report.standard_error;
  }
  EXPECT_GT(under, 3) << "2 always: lines of 32 are drawn too seldom";
  EXPECT_LT(under, 27) << "1 always: lines of 8 are drawn too seldom";
  EXPECT_GT(stated, 0);
}

TEST(Sampling, ShortTensorsGiveAsManyElements) {  // 1,000 tensors of 41 elements: a line of 32 and one of 9
  EXPECT_EQ(sample_lines(20500, 41000, 2000), 1000);
  EXPECT_EQ(sample_lines(10000, 12000, 4000), 3334);  // tensors of 3
  EXPECT_EQ(sample_lines(41000, 41000, 2000), 2000);
  EXPECT_EQ(sample_lines(2000000, 100000000, 3125000), 62500);
}

TEST(Sampling, ErrorUnderAMaskIsOfTheWholeSequence) {
  Model model = model_of({normal_values()});
  model.set_masks(0.75, 3);
  const PruneReport report = sample_with(model, 0.9, {.by = by_element}, 1);
  const double live = static_cast<double>(report.total - report.dead) / n;  // prunes 0.15 of n among a quarter of n
  const double share = static_cast<double>(report.k - report.dead) / static_cast<double>(report.total - report.dead);
  const double expected = live * std::sqrt(share * (1 - share) / (10000 * live));
  EXPECT_NEAR(*report.standard_error, expected, 0.03 * expected);  // how many of the sample are alive is chance
  EXPECT_NEAR(*sample_with(model, 0.9, {}, 1).standard_error, expected, 0.15 * expected);
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
  EXPECT_NEAR(quick.passes, 10016.0 / n, 1e-9);  // 313 lines
  const PruneReport verified = sample_with(model, 0.5, {.verify = true}, 1);
  EXPECT_EQ(verified.value, quick.value);
  EXPECT_EQ(verified.count_below, std::ranges::count_if(normal_values(), [&](float x) { return x < *quick.value; }));
  EXPECT_EQ(verified.count_equal, std::ranges::count(normal_values(), *quick.value));
  EXPECT_EQ(verified.pruned, verified.count_below + verified.count_equal);
  EXPECT_NEAR(verified.passes, 1 + 10016.0 / n, 1e-9);
  EXPECT_NEAR(sample_with(model, 0.5, {.by = by_element}, 1).passes, 10000.0 / n, 1e-9);
}

// One read with the final threshold sees every score, NaN too, which the sample met or did not.
TEST_P(SamplingOnEngines, VerifyCountsEveryNaN) {
  run([](auto& engine) {
    for (const char* name : {"half_normal", "half_zeros", "signed_zeros", "three_values"})
      for (const Sampling::By by : {Sampling::By::line, by_element})
        for (const int every : {3, 997, 100000}) {
          SCOPED_TRACE(std::string(name) + (by == by_element ? ", by element" : ", by line") + ", every " +
                       std::to_string(every));
          Values first(3, not_a_number), second = values_named(name, 30000, 5);
          for (std::size_t i = 77; i < second.size(); i += static_cast<std::size_t>(every)) second[i] = not_a_number;
          Model model = model_of({first, {}, second});
          model.set_masks(0.2, 6);
          const auto inputs = model.inputs();
          std::int64_t nan = 0, below = 0, equal = 0;
          PruneOptions options{.selector = Sampling{.verify = true, .by = by}, .nonfinite = NonFinite::keep};
          Workspace workspace;
          const PruneReport report = flow::threshold(engine, inputs, Identity{}, {.sparsity = 0.6}, options, workspace);
          std::int64_t where = -1;
          for (const std::size_t t : {0u, 2u})
            for (std::int64_t i = 0; i < inputs[t].numel; ++i) {
              if (!is_live(inputs[t], i)) continue;
              const float score = (t == 0 ? first : second)[static_cast<std::size_t>(i)];
              if (std::isnan(score) && where < 0) where = i;
              nan += std::isnan(score);
              below += score < *report.value;
              equal += score == *report.value;
            }
          EXPECT_EQ(report.nonfinite, nan);
          EXPECT_EQ(report.count_below, below);
          EXPECT_EQ(report.count_equal, equal);
          EXPECT_EQ(report.pruned, report.dead + below + equal);
          options.nonfinite = NonFinite::error;
          try {
            flow::threshold(engine, inputs, Identity{}, {.sparsity = 0.6}, options, workspace);
            ADD_FAILURE() << "NaN scores were taken";
          } catch (const NonFiniteScoreError& error) {
            EXPECT_EQ(error.count(), nan);
            EXPECT_EQ(error.first_index(), where);
          }
        }
  });
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
  run([&](auto& engine) {
    Workspace workspace;
    ReferenceEngine reference;
    float whole = 0;
    for (const Sampling::By by : {by_element, Sampling::By::line})
      for (const std::vector<std::int64_t>& sizes : {std::vector<std::int64_t>{n}, {1, 65536, 0, n - 65537}}) {
        std::vector<Values> parts;
        auto at = normal_values().begin();
        for (const std::int64_t size : sizes) {
          parts.emplace_back(at, at + size);
          at += size;
        }
        const Model model = model_of(parts);
        const auto inputs = model.inputs();
        PruneOptions options{.selector = Sampling{.by = by}, .seed = 5};
        const PruneReport want = flow::threshold(reference, inputs, Identity{}, {.sparsity = 0.37}, options, workspace);
        const float expected = *want.value;
        if (by == by_element && sizes.size() == 1) whole = expected;
        if (by == by_element) {
          ASSERT_TRUE(same_bits(expected, whole)) << "single elements are the same however the sequence is cut";
        }
        for (const Ties ties : {Ties::at_or_below, Ties::below}) {
          options.ties = ties;
          FreshMasks masks(inputs);
          const PruneReport report =
              flow::make_masks(engine, inputs, Identity{}, {.sparsity = 0.37}, options, masks.table(), workspace);
          ASSERT_TRUE(same_bits(*report.value, expected));
          ASSERT_EQ(*report.standard_error, *want.standard_error);
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
