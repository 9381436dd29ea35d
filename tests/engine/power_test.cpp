// The power form of bitter3, bitter7 and bitter8: a pass that compares a monotone power instead of the score must come
// to the same counts, over the whole range of exponents and right up to the ends of the bracket.
#include <array>
#include <memory>

#include "cpu/plan.hpp"
#include "support/compare.hpp"
#include "support/engines.hpp"
#include "support/inputs.hpp"

namespace bittersweet::test {
namespace {

class Power : public EngineTest {};
BITTERSWEET_FOR_EVERY(fast_engines, Power);

std::vector<Scorer> scorers() {
  return {Bitter7{}, Bitter7{.eps = 0.0f}, Bitter8{}, Bitter8{.eps = 0.0f}, Bitter3{}, Bitter3{.eps = 1e-30f}};
}

TEST(PowerForm, TheListIsComplete) {
  for_each_scorer([](const auto& scorer) {
    using S = std::decay_t<decltype(scorer)>;
    const auto tested = scorers();
    const bool swept = std::ranges::any_of(tested, [](const Scorer& s) { return std::holds_alternative<S>(s); });
    EXPECT_EQ(HasPower<S>, swept) << scorer.info.name;
  });
}

template <class S>
Elements<float> elements(const S&, float w, float second) {
  return {w, second, second, 0, 0, 0, 0, 1.0f};
}

// Where the power lies between its limits, it is the score's power within the margin that plan_bracket allows for.
TEST(PowerForm, ErrorIsBelowTheMargin) {
  constexpr std::uint32_t fractions[] = {0, 1, 0x400000, 0x3504f3, 0x7ffffe, 0x7fffff};
  for (const Scorer& variant : scorers())
    std::visit(
        [&](const auto& scorer) {
          if constexpr (HasPower<std::decay_t<decltype(scorer)>>) {
            long double worst = 0;
            std::int64_t measured = 0;
            const auto measure = [&](std::uint32_t w, std::uint32_t second) {
              const auto x = elements(scorer, std::bit_cast<float>(w), std::bit_cast<float>(second));
              const float power = scorer.powered(x);
              const long double score = scorer(x);
              long double exact = score * score;
              if constexpr (std::decay_t<decltype(scorer)>::power == 4) exact *= exact;
              // Either number in the range where the pass relies on the power.
              const bool relied_on = power >= static_cast<float>(cpu::smallest_power) || exact >= cpu::smallest_power;
              if (std::isinf(power)) {  // what overflows lies above every bracket that is decided by powers
                EXPECT_GT(exact, cpu::largest_power) << scorer.info.name << " of " << show(x.w);
                return;
              }
              if (!relied_on || power > static_cast<float>(cpu::largest_power) || exact > cpu::largest_power) return;
              worst = std::max(worst, std::fabs(static_cast<long double>(power) - exact) / exact);
              ++measured;
            };
            Generator random(1);
            for (std::uint32_t w = 0; w < 255; ++w)
              for (std::uint32_t second = 0; second < 255; ++second) {
                for (const std::uint32_t fraction : fractions) measure((w << 23) | fraction, (second << 23) | fraction);
                for (int i = 0; i < 10; ++i) {
                  const std::uint64_t bits = random.bits();
                  const auto fraction = [&](int shift) {
                    return static_cast<std::uint32_t>(bits >> shift) & 0x7fffffu;
                  };
                  measure((w << 23) | fraction(0), (second << 23) | fraction(32));
                }
              }
            for (int i = 0; i < 1000000; ++i) {  // second moments of few bits: the coarsest products
              const std::uint64_t bits = random.bits();
              measure(static_cast<std::uint32_t>(bits) & 0x7fffffffu,
                      static_cast<std::uint32_t>(bits >> 32) >> (9 + bits % 23));
            }
            EXPECT_GT(measured, 100000) << scorer.info.name;
            EXPECT_LT(worst, cpu::power_margin) << scorer.info.name << " with eps " << scorer.eps;
          }
        },
        variant);
}

// least_factor() is zero only where the score is.
TEST(PowerForm, LeastFactorIsZeroOnlyWhereTheScoreIs) {
  std::int64_t zeros = 0;
  for (const Scorer& variant : scorers())
    std::visit(
        [&](const auto& scorer) {
          if constexpr (HasPower<std::decay_t<decltype(scorer)>>) {
            Generator random(2);
            for (int i = 0; i < 300000; ++i) {
              const float choice[] = {0.0f, -0.0f, tiniest, 1e-30f, infinity, not_a_number, random.any_float()};
              const auto x = elements(scorer, choice[random.below(7)], choice[random.below(7)]);
              const bool claims_zero = scorer.powered(x) == 0.0f && scorer.least_factor(x) == 0.0f;
              if (claims_zero) {
                ++zeros;
                ASSERT_EQ(scorer(x), 0.0f);
              }
            }
          }
        },
        variant);
  EXPECT_GT(zeros, 10000);
}

// A score that is no number has no power that any bracket would take for below or above.
TEST(PowerForm, IsNoNumberWhereTheScoreIsNone) {
  std::int64_t none = 0;
  for (const Scorer& variant : scorers())
    std::visit(
        [&](const auto& scorer) {
          if constexpr (HasPower<std::decay_t<decltype(scorer)>>) {
            Generator random(3);
            for (int i = 0; i < 300000; ++i) {
              const float choice[] = {0.0f,     tiniest,   1e-30f,       1e30f,
                                      infinity, -infinity, not_a_number, random.any_float()};
              const auto x = elements(scorer, choice[random.below(8)], choice[random.below(8)]);
              if (!std::isnan(scorer(x))) continue;
              ++none;
              for (const float scale : {1.0f, 0x1p-126f, 0x1p127f}) {
                auto scaled = x;
                scaled.w = x.w * scale;
                ASSERT_TRUE(std::isnan(scorer.powered(scaled))) << show(x.w) << " scaled by " << scale;
              }
            }
          }
        },
        variant);
  EXPECT_GT(none, 10000);
}

// The bracket pass takes the power form where its range allows, and only there.
TEST(PowerForm, Plan) {
  const std::vector<ScoreInputs> none;
  const auto plan = [&](const Bracket& bracket, const Scorer& scorer) {
    return cpu::plan_bracket(bracket, make_view(none, scorer)).decide;
  };
  using cpu::Decide;
  EXPECT_EQ(plan({1e-4f, 2e-4f}, Bitter7{}), Decide::by_power);
  EXPECT_EQ(plan({tiniest, 2e-4f}, Bitter7{}), Decide::by_power_above_zero);
  EXPECT_EQ(plan({1e-4f, 2e-4f, true}, Bitter7{}), Decide::by_score_heavy);
  EXPECT_EQ(plan({1e-9f, 2e-4f}, Bitter7{}), Decide::by_power);  // scaled: 1e-36 would be rounded too coarsely
  EXPECT_EQ(plan({1e-4f, 1e10f}, Bitter7{}), Decide::by_power);  // scaled: 1e40 would overflow
  EXPECT_EQ(plan({1e30f, 3e38f}, Bitter7{}), Decide::by_power);  // the same, where an end is as far as it can be
  EXPECT_EQ(plan({2e-30f, 1e-29f}, Bitter7{}), Decide::by_power);
  EXPECT_EQ(plan({1e-31f, 1e-29f}, Bitter7{}), Decide::by_score);  // scores here are nearly denormal
  EXPECT_EQ(plan({1e-8f, 1e10f}, Bitter7{}), Decide::by_score);    // too far from each other
  EXPECT_EQ(plan({1e-4f, infinity}, Bitter7{}), Decide::by_score);
  EXPECT_EQ(plan({0.0f, 1.0f}, Bitter7{}), Decide::by_score);
  EXPECT_EQ(plan({1e-9f, 2e-4f}, Bitter3{}), Decide::by_power);  // 1e-18: a square has more room
  EXPECT_EQ(plan({1e-4f, 2e-4f}, Magnitude{}), Decide::by_score);
  ScoreView modified = make_view(none, Bitter7{});
  modified.modified = true;
  const Decide decided = cpu::plan_bracket({1e-4f, 2e-4f}, modified).decide;
  EXPECT_TRUE(decided == Decide::by_score || decided == Decide::by_score_heavy);
}

// Weights and second moments of every exponent, with many scores within a few units of the given ends.
struct Sweep {
  Model model;
  std::vector<ScoreInputs> inputs;
  Sweep(const Scorer& scorer, const Bracket& bracket, DType dtype, std::uint64_t seed) {
    constexpr std::int64_t count = 6000;
    Values w, second;
    Generator random(seed);
    const double power = std::holds_alternative<Bitter3>(scorer) ? 2 : 4;
    const float eps = std::visit([](const auto& s) { return eps_of(s); }, scorer);
    for (std::int64_t i = 0; i < count; ++i) {
      const float special[] = {0.0f, -0.0f, tiniest, -tiniest, 1.1754944e-38f, infinity, -infinity, not_a_number};
      w.push_back(i % 16 == 0 ? special[random.below(8)] : random.any_float());
      second.push_back(i % 16 == 1 ? special[random.below(8)] : random.any_float());
      const float end = i % 4 == 0 ? bracket.low : bracket.high;
      if (i % 4 > 1 || !std::isfinite(end)) continue;
      // score = end: second = (end / w)^power - eps, for a w that keeps it in range; then a few units beside it
      const auto weight = static_cast<float>(static_cast<double>(end) * std::pow(10.0, 20.0 * random.uniform() - 8.0));
      const double wanted = std::pow(static_cast<double>(end) / static_cast<double>(weight), power) - eps;
      const auto near = std::bit_cast<std::uint32_t>(static_cast<float>(wanted)) +
                        static_cast<std::uint32_t>(random.below(201)) - 100;
      w.back() = random.below(2) ? weight : -weight;
      second.back() = std::bit_cast<float>(near & 0x7fffffffu);
    }
    model = model_of({w}, dtype);
    model.tensors[0].exp_avg = model.tensors[0].exp_avg_sq = Array(second, dtype);
    inputs = model.inputs();
  }
  template <class S>
  static float eps_of(const S& scorer) {
    if constexpr (requires { scorer.eps; }) return scorer.eps;
    return 0.0f;
  }
};

std::vector<Bracket> brackets() {
  std::vector<Bracket> all;
  const float ends[] = {tiniest,   3e-39f, 1e-30f, 1e-17f, 1.1e-17f, 3.1e-9f, 3.2e-9f,       1e-4f,
                        1.001e-4f, 0.5f,   1.7e9f, 1.8e9f, 3e18f,    1e30f,   3.4028235e38f, infinity};
  for (std::size_t low = 0; low < std::size(ends); ++low)
    for (std::size_t high = low; high < std::min(std::size(ends), low + 4); ++high)
      all.push_back({ends[low], ends[high], (low + high) % 5 == 4});
  all.push_back({tiniest, 1e-4f});
  all.push_back({tiniest, 1e9f});
  all.push_back({1e-4f, std::nextafter(1e-4f, 1.0f)});
  for (const float middle : {1.5e-30f, 1e-20f, 1e-10f, 1e10f, 1e20f, 1e30f, 3e38f})  // with a power of two for each
    all.push_back({0.75f * middle, middle});
  return all;
}

struct Expectation {
  Scorer scorer;
  Bracket bracket;
  std::unique_ptr<Sweep> sweep;
  FreshMasks masks;
  Workspace workspace;
  BracketResult result;

  Expectation(const Scorer& which, const Bracket& ends, DType dtype, std::uint64_t seed)
      : scorer(which),
        bracket(ends),
        sweep(std::make_unique<Sweep>(which, ends, dtype, seed)),
        masks(sweep->inputs),
        result(ReferenceEngine{}.bracket(make_view(sweep->inputs, which), make_chunks(sweep->inputs), ends,
                                         masks.table(), 1 << 16, workspace)) {}
};

const std::vector<std::unique_ptr<Expectation>>& expectations() {
  static const auto all = [] {
    std::vector<std::unique_ptr<Expectation>> made;
    for (const Scorer& scorer : scorers())
      for (const Bracket& bracket : brackets())
        for (const DType dtype : {DType::f32, DType::bf16})
          made.push_back(std::make_unique<Expectation>(scorer, bracket, dtype, made.size()));
    return made;
  }();
  return all;
}

TEST_P(Power, BracketCountsOverTheWholeRange) {
  run([](auto& engine) {
    Workspace workspace;
    std::array<int, static_cast<std::size_t>(cpu::Decide::count)> decided{};
    for (const auto& expected : expectations()) {
      const ScoreView view = make_view(expected->sweep->inputs, expected->scorer);
      ++decided[static_cast<std::size_t>(cpu::plan_bracket(expected->bracket, view).decide)];
      FreshMasks masks(expected->sweep->inputs);
      const BracketResult found = engine.bracket(view, make_chunks(expected->sweep->inputs), expected->bracket,
                                                 masks.table(), 1 << 16, workspace);
      SCOPED_TRACE(std::string(info_of(expected->scorer).name) + ", bracket " + show(expected->bracket.low) + " to " +
                   show(expected->bracket.high));
      ASSERT_EQ(found.total, expected->result.total);
      ASSERT_TRUE(same_masks(expected->masks.bits(), masks.bits()));
      const Candidates &e = expected->result.candidates[0], &f = found.candidates[0];
      ASSERT_TRUE(same_floats({e.scores, e.count}, {f.scores, f.count}));
    }
    for (const int times : decided) EXPECT_GT(times, 5) << "a way to decide was not tried";
  });
}

// The scores built to lie at the ends do: without them the sweep would not test the margin.
TEST(PowerForm, SweepReachesTheEnds) {
  const Bracket bracket{1e-4f, 1.001e-4f};
  const Expectation swept(Bitter7{.eps = 0.0f}, bracket, DType::f32, 1);
  EXPECT_GT(swept.result.total.equal_low + swept.result.total.equal_high, 10);
  EXPECT_GT(swept.result.total.inside, 500);
  EXPECT_GT(swept.result.total.nan, 100);
}

}  // namespace
}  // namespace bittersweet::test
