// The formulas against an independent oracle: written again from the table of the specification, evaluated one
// operation at a time in f32 (same bits) and in double (within a bound), and against worked examples.
#include <array>
#include <functional>
#include <map>
#include <set>
#include <sstream>
#include <vector>

#include "bittersweet/score/score_view.hpp"
#include "support/compare.hpp"
#include "support/inputs.hpp"

namespace bittersweet::test {
namespace {

// A number whose every operation is rounded to f32 on its own: the volatile stores forbid contraction and wider steps.
struct Stepwise {
  float value;
  Stepwise(float x) : value(x) {}
};
Stepwise rounded(float x) {
  volatile float stored = x;
  return stored;
}
Stepwise operator+(Stepwise a, Stepwise b) { return rounded(a.value + b.value); }
Stepwise operator-(Stepwise a, Stepwise b) { return rounded(a.value - b.value); }
Stepwise operator*(Stepwise a, Stepwise b) { return rounded(a.value * b.value); }
Stepwise operator/(Stepwise a, Stepwise b) { return rounded(a.value / b.value); }
Stepwise root(Stepwise a) { return rounded(std::sqrt(a.value)); }
Stepwise size(Stepwise a) { return std::copysign(a.value, 1.0f); }
Stepwise signum(Stepwise a) { return a.value > 0 ? 1.0f : a.value < 0 ? -1.0f : 0.0f; }
Stepwise to_half(Stepwise a) { return nearest_half(a.value); }

double root(double a) { return std::sqrt(a); }
double size(double a) { return std::fabs(a); }
double signum(double a) { return a > 0 ? 1.0 : a < 0 ? -1.0 : 0.0; }
double to_half(double a) { return round_to_digits(a, 11, -14); }

template <class T>
struct In {
  T w, m, v, g, norm, score, bias_correction, eps;
};

// The published formulas, left to right as they are printed.
template <class T>
const std::map<std::string, std::function<T(const In<T>&)>>& oracle() {
  using I = const In<T>&;
  static const T one = 1.0f, tenth = 0.1f;
  static const auto movement = [](I x) -> T { return signum(x.w) * x.m / (root(x.v) + x.eps); };
  static const std::map<std::string, std::function<T(I)>> formulas{
      {"magnitude", [](I x) { return size(x.w); }},
      {"bitter0", [](I x) { return size(x.w * x.m) * size(x.w) / (root(x.v) + x.eps); }},
      {"bitter3", [](I x) { return size(x.w) * root(size(x.m) + x.eps); }},
      {"bitter5", [](I x) { return tenth * size(x.w) - movement(x); }},
      {"bitter6", [](I x) { return size(x.w) * root(size(x.m) + x.eps) * root(x.m * x.m / (x.v + x.eps)); }},
      {"bitter7", [](I x) { return size(x.w) * root(root(size(x.v) + x.eps)); }},
      {"bitter8", [](I x) { return size(x.w) * (one / root(one / root(size(x.v) + x.eps))); }},
      {"bitter8_bias_corrected", [](I x) { return size(x.w) * root(size(x.m / x.bias_correction) + x.eps); }},
      {"bitter9_hybrid",
       [](I x) { return size(x.w) * root(size(x.m) + x.eps) - tenth * signum(x.w) * x.m / (root(x.v) + x.eps); }},
      {"bitter10z", [](I x) { return size(x.w) * root(size(x.m) + x.eps) * size(x.m) / (root(x.v) + x.eps); }},
      {"bitter5_published", [](I x) { return movement(x) + tenth * size(x.w); }},
      {"bitter8_published",
       [](I x) {
         const T v = to_half(size(to_half(x.v)) + to_half(x.eps));
         const T inverse = to_half(one / root(v));
         return to_half(size(to_half(x.w)) * to_half(one / root(inverse)));
       }},
      {"bitter9_hybrid_published", [](I x) { return size(x.w) * root(size(x.m) + x.eps) + tenth * movement(x); }},
      {"adam_variance", [](I x) { return size(x.w) * root(root(size(x.v) + x.eps)); }},
      {"wanda", [](I x) { return size(x.w) * x.norm; }},
      {"gradient", [](I x) { return size(x.g); }},
      {"taylor", [](I x) { return size(x.w * x.g); }},
      {"identity", [](I x) { return x.score; }},
  };
  return formulas;
}

template <class S>
float eps_of(const S& scorer) {
  if constexpr (requires { scorer.eps; }) return scorer.eps;
  return 0.0f;
}

template <class S>
float library_score(const S& scorer, const In<float>& x) {
  return scorer(Elements<float>{x.w, x.m, x.v, x.g, x.norm, x.score, 0.5f, x.bias_correction});
}

template <class T>
In<T> widened(const In<float>& x) {
  return {T(x.w), T(x.m), T(x.v), T(x.g), T(x.norm), T(x.score), T(x.bias_correction), T(x.eps)};
}

// Every combination of special numbers, and random bits.
std::vector<In<float>> all_kinds_of_inputs() {
  const std::vector<float> special{0.0f,    -0.0f,         tiniest,  -3e-39f,   1.1754944e-38f,
                                   -1e-20f, 1e-8f,         0.02f,    -1.0f,     65504.0f,
                                   -1e30f,  3.4028235e38f, infinity, -infinity, not_a_number};
  std::vector<In<float>> all;
  for (const float w : special)
    for (const float m : special)
      for (const float v : special) all.push_back({w, m, v, m, v, w, 0.1f, 0});
  Generator random(1);
  for (int i = 0; i < 200000; ++i) {
    const auto any = [&] { return random.any_float(); };
    all.push_back({any(), any(), any(), any(), any(), any(), static_cast<float>(random.uniform()), 0});
  }
  for (int i = 0; i < 200000; ++i) {  // as in training
    const auto normal = [&](double scale) { return static_cast<float>(scale * random.normal()); };
    const auto positive = [&](double scale) { return static_cast<float>(scale * std::exp(3 * random.normal())); };
    all.push_back({normal(0.02), normal(1e-5), positive(1e-9), normal(1e-3), positive(1.0), normal(1.0),
                   static_cast<float>(1 - std::pow(0.9, 1.0 + 20 * random.uniform())), 0});
  }
  return all;
}

TEST(Formulas, EveryScorerHasAnOracle) {
  std::set<std::string> names{"random"};  // counter-based: see below
  for (const auto& [name, formula] : oracle<double>()) names.insert(name);
  for_each_scorer([&](const auto& scorer) { EXPECT_EQ(names.count(std::string(scorer.info.name)), 1u); });
  EXPECT_EQ(names.size(), std::variant_size_v<Scorer>);
}

TEST(Formulas, BitsOfEveryStep) {
  const std::vector<In<float>> inputs = all_kinds_of_inputs();
  for (const Scorer& variant : all_scorers())
    std::visit(
        [&](const auto& scorer) {
          using S = std::decay_t<decltype(scorer)>;
          const std::string name(scorer.info.name);
          if (name == "random") return;
          auto formula = oracle<Stepwise>().at(name);
          if constexpr (std::is_same_v<S, AdamVariance>)
            formula = [roots = scorer.roots](const In<Stepwise>& x) {
              Stepwise power = size(x.v) + x.eps;
              for (int i = 0; i < roots; ++i) power = root(power);
              return size(x.w) * power;
            };
          for (In<float> x : inputs) {
            x.eps = eps_of(scorer);
            const float expected = formula(widened<Stepwise>(x)).value, found = library_score(scorer, x);
            ASSERT_TRUE(same_bits(expected, found))
                << name << " of w " << show(x.w) << ", m " << show(x.m) << ", v " << show(x.v) << ": expected "
                << show(expected) << ", found " << show(found);
          }
        },
        variant);
}

// Where nothing under- or overflows, f32 is within a few units in the last place of the double result; a difference is
// measured against its larger term.
TEST(Formulas, CloseToDouble) {
  Generator random(2);
  for_each_scorer([&](const auto& scorer) {
    const std::string name(scorer.info.name);
    if (name == "random" || name == "bitter8_published") return;
    const auto& formula = oracle<double>().at(name);
    for (int i = 0; i < 100000; ++i) {
      const auto spread = [&](double from, double to) {
        const double size = std::pow(10.0, from + (to - from) * random.uniform());
        return static_cast<float>(random.uniform() < 0.5 ? -size : size);
      };
      In<float> x{spread(-3, 1),
                  spread(-7, 0),
                  std::fabs(spread(-9, 0)),
                  spread(-5, 1),
                  std::fabs(spread(-2, 2)),
                  spread(-3, 3),
                  static_cast<float>(0.1 + 0.9 * random.uniform()),
                  eps_of(scorer)};
      const In<double> exact = widened<double>(x);
      double scale = std::fabs(formula(exact));
      if (name.starts_with("bitter5") || name.starts_with("bitter9_hybrid")) {
        const double movement = std::fabs(exact.m) / (std::sqrt(exact.v) + exact.eps);
        scale = std::fabs(exact.w) * std::max(0.1, std::sqrt(std::fabs(exact.m) + exact.eps)) + movement;
      }
      ASSERT_NEAR(library_score(scorer, x), formula(exact), 6e-7 * scale) << name;
    }
  });
}

// Worked examples at t = 10, beta1 = 0.9 (so 1 - beta1^t = 0.651...), to the six digits that were published.
// bitter5 and bitter9_hybrid have the sign of the Adam update, -m; the published definitions the other one.
TEST(Formulas, WorkedExamples) {
  struct Example {
    float w, m, v;
    std::map<std::string, double> scores;
    double half_eps_1e5, half_eps_1e8;
  };
  const std::vector<Example> examples{
      {-0.02f,
       1e-4f,
       1e-6f,
       {{"bitter0", 3.99996e-5},
        {"bitter3", 2.0001e-4},
        {"bitter5", 0.101999},
        {"bitter5_published", -0.097999},
        {"bitter6", 1.99017e-5},
        {"bitter7", 6.34031e-4},
        {"bitter8", 6.34031e-4},
        {"bitter8_bias_corrected", 2.47826e-4},
        {"bitter9_hybrid_published", -9.79989e-3},
        {"bitter9_hybrid", 1.019991e-2},
        {"bitter10z", 2.0e-5}},
       1.15299e-3,
       6.3467e-4},
      {0.5f,
       -0.25f,
       0.1f,
       {{"bitter0", 0.197642},
        {"bitter3", 0.25},
        {"bitter5", 0.840569},
        {"bitter5_published", -0.740569},
        {"bitter6", 0.197642},
        {"bitter7", 0.281171},
        {"bitter8", 0.281171},
        {"bitter8_bias_corrected", 0.309772},
        {"bitter9_hybrid_published", 0.170943},
        {"bitter9_hybrid", 0.329057},
        {"bitter10z", 0.197642}},
       0.28125,
       0.28125},
      {0.03f,
       1e-5f,
       2e-9f,
       {{"bitter0", 2.01201e-4},
        {"bitter3", 9.49158e-5},
        {"bitter5", -0.220557},
        {"bitter5_published", 0.226557},
        {"bitter6", 8.66458e-6},
        {"bitter7", 3.13991e-4},
        {"bitter8", 3.13991e-4},
        {"bitter8_bias_corrected", 1.17589e-4},
        {"bitter9_hybrid_published", 2.24506e-2},
        {"bitter9_hybrid", -2.226077e-2},
        {"bitter10z", 2.12132e-5}},
       1.68705e-3,
       0.0},
      {0.01f,
       0.0f,
       0.0f,
       {{"bitter0", 0.0},
        {"bitter3", 1e-6},
        {"bitter5", 0.001},
        {"bitter5_published", 0.001},
        {"bitter6", 0.0},
        {"bitter7", 1e-4},
        {"bitter8", 1e-4},
        {"bitter8_bias_corrected", 1e-6},
        {"bitter9_hybrid_published", 1e-6},
        {"bitter9_hybrid", 1e-6},
        {"bitter10z", 0.0}},
       5.62668e-4,
       0.0},
  };
  for (const Example& example : examples) {
    const auto score = [&](const Scorer& variant) {
      return std::visit(
          [&](const auto& scorer) {
            return library_score(scorer, {example.w, example.m, example.v, 0, 0, 0, 0.65132156f, 0});
          },
          variant);
    };
    for (const auto& [name, expected] : example.scores)
      EXPECT_NEAR(score(make_scorer(name)), expected, 1e-5 * std::fabs(expected)) << name << " of w " << example.w;
    EXPECT_NEAR(score(Bitter8Published{.eps = 1e-5f}), example.half_eps_1e5, 1e-5 * example.half_eps_1e5);
    EXPECT_NEAR(score(Bitter8Published{}), example.half_eps_1e8, 1e-5 * example.half_eps_1e8);
  }
}

TEST(Formulas, EpsZeroIsSound) {
  const In<float> dead{0.5f, 0.0f, 0.0f, 0, 0, 0, 1.0f, 0};
  EXPECT_TRUE(same_bits(library_score(Bitter7{.eps = 0}, dead), 0.0f));
  EXPECT_TRUE(same_bits(library_score(Bitter8{.eps = 0}, dead), 0.0f));
  EXPECT_TRUE(same_bits(library_score(AdamVariance{}, dead), 0.0f));
}

// A weight that the Adam step (along -m) carries to zero scores lower than one that it carries away.
TEST(Formulas, MovementHasTheSignOfTheUpdate) {
  const In<float> shrinking{0.5f, 1e-3f, 1e-4f, 0, 0, 0, 1, 0}, growing{0.5f, -1e-3f, 1e-4f, 0, 0, 0, 1, 0};
  EXPECT_LT(library_score(Bitter5{}, shrinking), library_score(Bitter5{}, growing));
  EXPECT_LT(library_score(Bitter9Hybrid{}, shrinking), library_score(Bitter9Hybrid{}, growing));
  EXPECT_GT(library_score(Bitter5Published{}, shrinking), library_score(Bitter5Published{}, growing));
  EXPECT_GT(library_score(Bitter9HybridPublished{}, shrinking), library_score(Bitter9HybridPublished{}, growing));
}

// Philox4x32-10 again, from the paper's description.
std::array<std::uint32_t, 4> philox_again(std::array<std::uint32_t, 4> c, std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p = std::uint64_t{c[0]} * 0xD2511F53u, q = std::uint64_t{c[2]} * 0xCD9E8D57u;
    c = {static_cast<std::uint32_t>(q >> 32) ^ c[1] ^ key[0], static_cast<std::uint32_t>(q),
         static_cast<std::uint32_t>(p >> 32) ^ c[3] ^ key[1], static_cast<std::uint32_t>(p)};
    key = {key[0] + 0x9E3779B9u, key[1] + 0xBB67AE85u};
  }
  return c;
}

TEST(Random, PhiloxKnownAnswers) {
  using Block = std::array<std::uint32_t, 4>;
  constexpr std::uint32_t ones = 0xffffffffu;
  EXPECT_EQ(philox_again({0, 0, 0, 0}, {0, 0}), (Block{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}));
  EXPECT_EQ(philox_again({ones, ones, ones, ones}, {ones, ones}),
            (Block{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu}));
  EXPECT_EQ(philox_again({0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}, {0xa4093822u, 0x299f31d0u}),
            (Block{0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u}));
  Generator random(3);
  for (int i = 0; i < 1000; ++i) {
    const std::uint64_t counter = random.bits(), seed = random.bits();
    const auto half = [](std::uint64_t x, int shift) { return static_cast<std::uint32_t>(x >> shift); };
    const Block expected = philox_again({half(counter, 0), half(counter, 32), 1, 0}, {half(seed, 0), half(seed, 32)});
    EXPECT_EQ(philox(counter, seed, Purpose::random_score), expected);
    for (std::uint64_t j = 0; j < 4; ++j) {
      const float uniform = uniform_at(seed, Purpose::random_score, (counter >> 3) * 4 + j);
      ASSERT_GE(uniform, 0.0f);
      ASSERT_LT(uniform, 1.0f);
    }
    EXPECT_EQ(uniform_at(seed, Purpose::random_score, 4 * (counter >> 2) + 2),
              static_cast<float>(philox(counter >> 2, seed, Purpose::random_score)[2] >> 8) / 16777216.0f);
  }
}

TEST(Scorers, NamesAndAliases) {
  for_each_scorer([](const auto& scorer) {
    const Scorer made = make_scorer(scorer.info.name);
    EXPECT_EQ(info_of(made).name, scorer.info.name);
    EXPECT_EQ(eps_of(std::get<std::decay_t<decltype(scorer)>>(made)), std::max(0.0f, scorer.info.default_eps));
  });
  const std::map<std::string, std::string> aliases{
      {"bitter1", "magnitude"}, {"bitter2", "magnitude"}, {"bitter4", "bitter3"}, {"bitter9", "bitter8"}};
  for (const auto& [alias, name] : aliases) EXPECT_EQ(info_of(make_scorer(alias)).name, name);
}

TEST(Scorers, UnknownNameListsTheKnownOnes) {
  try {
    make_scorer("bitter99");
    FAIL() << "an unknown name was taken";
  } catch (const ArgumentError& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find("bitter99"), std::string::npos);
    for_each_scorer(
        [&](const auto& s) { EXPECT_NE(message.find(std::string(s.info.name)), std::string::npos) << message; });
    EXPECT_NE(message.find("bitter2, bitter4, bitter9"), std::string::npos) << message;
  }
  EXPECT_THROW(make_scorer(""), ArgumentError);
}

}  // namespace
}  // namespace bittersweet::test
