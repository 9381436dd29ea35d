// Narrow storage: every bit pattern of f16 and bf16 through every conversion path, and rounding to half, against
// arithmetic in double.
#include "bittersweet/dtype.hpp"
#include "bittersweet/score/score_view.hpp"
#include "support/compare.hpp"
#include "support/engines.hpp"
#include "support/inputs.hpp"

namespace bittersweet::test {
namespace {

class Dtype : public EngineTest {};
BITTERSWEET_FOR_EVERY(engines, Dtype);
class DtypeKernels : public EngineTest {};
BITTERSWEET_FOR_EVERY(fast_engines, DtypeKernels);

constexpr std::size_t patterns = 65536;

// The value that `bits` means: sign, exponent, fraction.
float meaning(std::uint32_t bits, int exponent_bits, int fraction_bits) {
  const int exponent = static_cast<int>((bits >> fraction_bits) & ((1u << exponent_bits) - 1));
  const auto fraction = static_cast<int>(bits & ((1u << fraction_bits) - 1));
  const int bias = (1 << (exponent_bits - 1)) - 1;
  double value;
  if (exponent == (1 << exponent_bits) - 1)
    value = fraction ? std::nan("") : std::numeric_limits<double>::infinity();
  else if (exponent == 0)
    value = std::ldexp(fraction, 1 - bias - fraction_bits);
  else
    value = std::ldexp(fraction + (1 << fraction_bits), exponent - bias - fraction_bits);
  return static_cast<float>(std::copysign(value, (bits & 0x8000u) ? -1.0 : 1.0));
}

Values expected_values(DType type) {
  return generate(patterns, [&](std::int64_t bits) {
    return type == DType::f16 ? meaning(static_cast<std::uint32_t>(bits), 5, 10)
                              : meaning(static_cast<std::uint32_t>(bits), 8, 7);
  });
}

std::vector<std::uint16_t> all_patterns() {
  std::vector<std::uint16_t> bits(patterns);
  for (std::size_t i = 0; i < patterns; ++i) bits[i] = static_cast<std::uint16_t>(i);
  return bits;
}

TEST(Storage, SizesAndNames) {
  EXPECT_EQ(size_of(DType::f32), 4u);
  EXPECT_EQ(size_of(DType::f16), 2u);
  EXPECT_EQ(size_of(DType::bf16), 2u);
  EXPECT_EQ(size_of(DType::none), 0u);
  EXPECT_STREQ(name_of(DType::bf16), "bfloat16");
}

TEST(Storage, EveryPatternByOne) {
  const Values halves = expected_values(DType::f16), bfloats = expected_values(DType::bf16);
  const std::vector<std::uint16_t> bits = all_patterns();
  for (std::size_t i = 0; i < patterns; ++i) {
    ASSERT_TRUE(same_bits(f16_to_float(bits[i]), halves[i])) << i;
    ASSERT_TRUE(same_bits(bf16_to_float(bits[i]), bfloats[i])) << i;
    ASSERT_TRUE(same_bits(load_as_float(bits.data(), DType::f16, static_cast<std::int64_t>(i)), halves[i])) << i;
    ASSERT_TRUE(same_bits(load_as_float(bits.data(), DType::bf16, static_cast<std::int64_t>(i)), bfloats[i])) << i;
    ASSERT_TRUE(same_bits(round_to_half(halves[i]), halves[i])) << i;
  }
}

// The kernels convert whole vectors and a rest: every pattern at every place in a vector.
TEST_P(DtypeKernels, EveryPattern) {
  const cpu::Kernels& kernels = cpu::kernels_of(GetParam().isa);
  const std::vector<std::uint16_t> bits = all_patterns();
  for (const DType type : {DType::f16, DType::bf16}) {
    const Values expected = expected_values(type);
    const auto convert = type == DType::f16 ? kernels.from_f16 : kernels.from_bf16;
    for (std::size_t first = 0; first < 17; ++first) {
      Values found(patterns - first, -1.0f);
      convert(bits.data() + first, static_cast<std::int64_t>(found.size()), found.data());
      ASSERT_TRUE(same_floats(std::span(expected).subspan(first), found)) << name_of(type) << " from " << first;
    }
  }
}

// Through the engine: alone in their storage, and mixed with f32, which takes another path.
TEST_P(Dtype, EveryPatternByEngine) {
  run([](auto& engine) {
    std::vector<std::uint16_t> bits = all_patterns();
    Values norms(patterns, 1.0f);
    for (const DType type : {DType::f16, DType::bf16}) {
      const Values expected = expected_values(type);
      const auto n = static_cast<std::int64_t>(patterns);
      const std::vector<ScoreInputs> tensors{{.weight = {bits.data(), type},
                                              .exp_avg_sq = view(norms.data()),
                                              .scores = {bits.data(), type},
                                              .numel = n,
                                              .geometry = flat(n)}};
      Values found(patterns), sizes(patterns);
      float* const out[] = {found.data()};
      engine.write_scores(make_view(tensors, Identity{}), make_chunks(tensors), out);
      ASSERT_TRUE(same_floats(expected, found)) << name_of(type);

      float* const out_sizes[] = {sizes.data()};
      engine.write_scores(make_view(tensors, Bitter7{.eps = 0.0f}), make_chunks(tensors), out_sizes);
      for (std::size_t i = 0; i < patterns; ++i)
        ASSERT_TRUE(same_bits(sizes[i], std::fabs(expected[i]))) << name_of(type) << " " << i;

      std::vector<std::int64_t> positions(patterns);
      for (std::size_t i = 0; i < patterns; ++i) positions[i] = static_cast<std::int64_t>(i);
      engine.gather(make_view(tensors, Identity{}), positions, found.data());
      ASSERT_TRUE(same_floats(expected, found)) << name_of(type) << ", gathered";
    }
  });
}

// Midpoints of neighbouring halves (ties go to even), the floats beside them, and floats of every exponent.
Values rounding_cases() {
  Values all;
  for (std::uint32_t bits = 0; bits < 0x7c00u; ++bits) {
    const float low = meaning(bits, 5, 10);
    const float high = bits + 1 == 0x7c00u ? 65536.0f : meaning(bits + 1, 5, 10);
    const float middle = low + (high - low) / 2;
    for (const float x : {low, std::nextafter(middle, 0.0f), middle, std::nextafter(middle, infinity)})
      all.insert(all.end(), {x, -x});
  }
  for (const float x :
       {65519.996f, 65520.0f, 65536.0f, 3.4e38f, infinity, tiniest, 1e-38f, 2.9802322e-8f, not_a_number})
    all.insert(all.end(), {x, -x});
  Generator random(1);
  for (int i = 0; i < 300000; ++i) all.push_back(random.any_float());
  return all;
}

TEST(RoundToHalf, TiesToEven) {
  for (const float x : rounding_cases())
    ASSERT_TRUE(same_bits(round_to_half(x), nearest_half(x)))
        << show(x) << " gives " << show(round_to_half(x)) << ", right is " << show(nearest_half(x));
}

// With v = 1 and eps = 0 the published bitter8 is |w| rounded to half: the vector form of the same rounding.
TEST_P(Dtype, RoundToHalfByEngine) {
  run([](auto& engine) {
    Values cases = rounding_cases(), ones(cases.size(), 1.0f), found(cases.size());
    const auto n = static_cast<std::int64_t>(cases.size());
    const std::vector<ScoreInputs> tensors{
        {.weight = view(cases.data()), .exp_avg_sq = view(ones.data()), .numel = n, .geometry = flat(n)}};
    float* const out[] = {found.data()};
    engine.write_scores(make_view(tensors, Bitter8Published{.eps = 0.0f}), make_chunks(tensors), out);
    for (std::size_t i = 0; i < cases.size(); ++i)
      ASSERT_TRUE(same_bits(found[i], std::fabs(nearest_half(cases[i])))) << show(cases[i]);
  });
}

}  // namespace
}  // namespace bittersweet::test
