// Stochastic rounding: the generator's known answers, the values, the shares, and the same bits on every engine.
#include "bittersweet/rounding.hpp"

#include "bittersweet/engine/reference_rounding.hpp"
#include "bittersweet/error.hpp"
#include "bittersweet/prune.hpp"
#include "cpu/isa.hpp"
#include "support/compare.hpp"
#include "support/engines.hpp"
#include "support/inputs.hpp"

namespace bittersweet::test {
namespace {

using Halves = std::vector<std::uint16_t>;

constexpr RoundingKey key{.seed = 0x0123456789abcdefu, .step = 4000000000u, .stream = 0xabcdefu};

class RoundingContract : public testing::TestWithParam<EngineCase> {
 protected:
  void SetUp() override {
    if (!GetParam().runs_here()) GTEST_SKIP() << "instruction set '" << GetParam().isa << "' does not run here";
  }
};
BITTERSWEET_FOR_EVERY(fast_engines, RoundingContract);

template <class E>
Halves rounded(E&& engine, const Values& values, const RoundingKey& with = key) {
  Halves out(values.size(), 0x5a5a);
  const std::vector<RoundedArray> arrays{{values.data(), out.data(), std::ssize(values), with}};
  engine.stochastic_round(arrays);
  return out;
}

// Any bits, and what lies around every limit.
Values nasty(std::int64_t n, std::uint64_t seed) {
  const Values special{
      0.0f,     -0.0f,       tiniest,          -tiniest,        0x1p-133f,        0x1.8p-133f,     0x1p-126f,
      1.0f,     infinity,    -infinity,        not_a_number,    -1e-45f,          0x1.fep127f,     0x1.fffffep127f,
      -0x1p-1f, 0x1.ffp127f, -0x1.fffffep127f, 0x1.fcfffep127f, 0x1.fffffep-127f, -0x1.fe0002p127f};
  Generator random(seed);
  return generate(n, [&](std::int64_t) {
    return random.below(3) == 0 ? special[static_cast<std::size_t>(random.below(std::ssize(special)))]
                                : random.any_float();
  });
}

TEST_P(RoundingContract, IsTheReferences) {
  for (const std::int64_t size :
       {0, 1, 7, 8, 9, 15, 16, 63, 64, 65, 127, 128, 200, 2049, 65535, 65536, 65537, 200003}) {
    const Values values = nasty(size, static_cast<std::uint64_t>(size));
    EXPECT_EQ(rounded(ReferenceRounder{}, values), rounded(CpuEngine(GetParam().isa, GetParam().threads), values))
        << size;
  }
}

// Words of which none, one or all are left alone.
TEST_P(RoundingContract, OrdinaryValuesAndFewOthers) {
  Generator random(11);
  Values values(64 * 40 + 9);
  for (float& value : values) value = 2.0f * random.uniform() - 1.0f;
  for (const std::size_t at : {64 * 5, 64 * 17 + 63, 64 * 30 + 31, 64 * 40 + 3}) values[at] = -0x1.ffp127f;
  std::fill_n(values.begin() + 64 * 20, 64, not_a_number);
  EXPECT_EQ(rounded(ReferenceRounder{}, values), rounded(CpuEngine(GetParam().isa, GetParam().threads), values));
}

TEST_P(RoundingContract, EveryArrayByItsKey) {
  const std::vector<std::int64_t> sizes{5, 0, 64, 70001, 8, 65536 * 2 + 3};
  std::vector<Values> values;
  std::vector<Halves> found, wanted;
  for (const std::int64_t size : sizes) {
    values.push_back(nasty(size, static_cast<std::uint64_t>(size) + 9));
    found.emplace_back(values.back().size(), std::uint16_t{0x1234});
  }
  std::vector<RoundedArray> arrays;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const RoundingKey own{
        .seed = i == 2 ? ~0ull : i, .step = static_cast<std::uint32_t>(i), .stream = static_cast<std::uint32_t>(3 * i)};
    arrays.push_back({values[i].data(), found[i].data(), sizes[i], own});
    wanted.push_back(rounded(ReferenceRounder{}, values[i], own));
  }
  CpuEngine(GetParam().isa, GetParam().threads).stochastic_round(arrays);
  EXPECT_EQ(found, wanted);
}

// Blocks beyond 32 bits, and the last one before them.
TEST_P(RoundingContract, FarIntoAnArray) {
  const Values values = half_normal(64 * 9 + 5, 3);
  for (const std::int64_t first : {std::int64_t{7} << 35, (std::int64_t{1} << 35) - 64 * 4}) {
    Halves found(values.size()), wanted(values.size());
    cpu::kernels_of(GetParam().isa).stochastic_round(values.data(), found.data(), std::ssize(values), key, first);
    for (std::size_t i = 0; i < values.size(); ++i)
      wanted[i] = stochastic_bf16_bits(values[i], rounding_bits(key, static_cast<std::uint64_t>(first) + i));
    EXPECT_EQ(found, wanted) << first;
  }
}

// Random123's known answers of philox4x32 with ten rounds.
TEST(Rounding, TheGeneratorIsPhilox) {
  using Block = std::array<std::uint32_t, 4>;
  EXPECT_EQ(philox_4x32({0, 0, 0, 0}, 0), (Block{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}));
  EXPECT_EQ(philox_4x32({~0u, ~0u, ~0u, ~0u}, ~0ull), (Block{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu}));
  EXPECT_EQ(philox_4x32({0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}, 0x299f31d0a4093822u),
            (Block{0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u}));
}

TEST(Rounding, ElementsTakeTheHalvesOfABlockInOrder) {
  const std::uint64_t first = (std::uint64_t{7} << 35) + 8 * 5;  // a block beyond 32 bits
  const auto block = philox_4x32({5, 7, 6u | key.stream << 8, key.step}, key.seed);
  for (std::uint64_t i = 0; i < 8; ++i)
    EXPECT_EQ(rounding_bits(key, first + i), (block[i / 2] >> (16 * (i % 2))) & 0xffffu) << i;
}

// By arithmetic in double, for every draw that could matter.
TEST(Rounding, ANeighbourByTheDraw) {
  Generator random(3);
  for (int i = 0; i < 20000; ++i) {
    const float x = random.any_float();
    const auto draw = static_cast<std::uint32_t>(random.below(65536));
    const float y = stochastic_bf16(x, draw);
    if (std::isnan(x)) {
      EXPECT_TRUE(std::isnan(y));
      continue;
    }
    if (std::fabs(x) >= 0x1.fep127f) {
      EXPECT_TRUE(same_bits(x, y)) << show(x);
      continue;
    }
    int exponent = 0;
    std::frexp(x, &exponent);
    const double ulp = std::ldexp(1.0, std::max(exponent - 8, -133)), size = std::fabs(static_cast<double>(x));
    const double low = std::floor(size / ulp) * ulp;
    const bool up = (size - low) / ulp * 65536.0 + draw >= 65536.0;
    EXPECT_EQ(std::copysign(low + (up ? ulp : 0.0), static_cast<double>(x)), static_cast<double>(y)) << show(x);
  }
}

TEST(Rounding, WhatBf16HoldsStaysAndTheLargestGoToTheNearest) {
  for (std::uint32_t high = 0; high < 65536; ++high) {
    const auto bits = static_cast<std::uint16_t>(high);
    const float x = bf16_to_float(bits);
    for (const std::uint32_t draw : {0u, 1u, 0x8000u, 0xffffu}) {
      const std::uint16_t found = float_to_bf16(stochastic_bf16(x, draw));
      EXPECT_EQ(found, std::isnan(x) ? 0x7fc0 : bits);
    }
  }
  for (const std::uint32_t draw : {0u, 0xffffu}) {
    EXPECT_EQ(float_to_bf16(stochastic_bf16(0x1.fefffep127f, draw)), 0x7f7f);  // below half way to infinity
    EXPECT_EQ(float_to_bf16(stochastic_bf16(-0x1.ffp127f, draw)), 0xff80);     // from there on
  }
  EXPECT_EQ(float_to_bf16(stochastic_bf16(0x1.fdfffep127f, 0xffff)), 0x7f7f);  // between the two largest: as ever
  EXPECT_EQ(float_to_bf16(stochastic_bf16(0x1.fdfffep127f, 0)), 0x7f7e);
  EXPECT_EQ(float_to_bf16(stochastic_bf16(tiniest, 0xffff)), 1);  // the smallest bf16, once in 65,536 times
  EXPECT_EQ(float_to_bf16(stochastic_bf16(-tiniest, 0xfffe)), 0x8000);
}

TEST(Rounding, SharesAreTheFractions) {
  constexpr std::int64_t n = 1 << 20;
  for (const double fraction : {0.001, 0.25, 0.5, 0.9})
    for (const double scale : {1.0, -0x1p-130, 0x1p100}) {
      const auto x = static_cast<float>((1.0 + fraction / 128) * scale);
      const double exact = scale == -0x1p-130 ? std::fmod(std::fabs(x) * 0x1p133, 1.0) : (x / scale - 1.0) * 128;
      const Halves found = rounded(CpuEngine{}, Values(n, x));
      const std::uint16_t low = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(x) >> 16);
      std::int64_t up = 0;
      for (const std::uint16_t one : found) {
        ASSERT_TRUE(one == low || one == low + 1);
        up += one != low;
      }
      const double sd = std::sqrt(exact * (1 - exact) / n);
      EXPECT_NEAR(static_cast<double>(up) / n, exact, 5 * sd + 1e-9) << fraction << " " << scale;
    }
}

TEST(Rounding, RefusesBeforeAnythingIsWritten) {
  const Values values(64, 1.001f);
  Halves out(64, 7);
  const auto with = [&](auto change) {
    std::vector<RoundedArray> arrays(2, {values.data(), out.data(), 32, {}});
    arrays[1].to += 32;
    change(arrays[1]);
    stochastic_round(arrays);
  };
  EXPECT_THROW(with([](RoundedArray& a) { a.numel = -1; }), ShapeError);
  EXPECT_THROW(with([](RoundedArray& a) { a.from = nullptr; }), LayoutError);
  EXPECT_THROW(with([](RoundedArray& a) { a.to = nullptr; }), LayoutError);
  EXPECT_THROW(with([](RoundedArray& a) { a.key.stream = 1u << 24; }), ArgumentError);
  EXPECT_THROW(with([](RoundedArray& a) {
                 a.from = reinterpret_cast<const float*>(reinterpret_cast<std::uintptr_t>(a.from) + 2);
               }),
               LayoutError);
  EXPECT_EQ(out, Halves(64, 7));
  with([](RoundedArray& a) { a = {}; });  // nothing needs no memory
  EXPECT_NE(out, Halves(64, 7));
}

}  // namespace
}  // namespace bittersweet::test
