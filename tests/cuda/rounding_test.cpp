// Stochastic rounding of the CUDA engine on the emulator against the reference engine, bit by bit.
#include <gtest/gtest.h>

#include "bittersweet/engine/reference_rounding.hpp"
#include "bittersweet/error.hpp"
#include "support/inputs.hpp"
#include "support/simt/emulated.hpp"

namespace bittersweet::test {
namespace {

constexpr RoundingKey key{.seed = 0x0123456789abcdefu, .step = 4000000000u, .stream = 0xabcdefu};

// Any bits, and what lies around every limit.
Values nasty(std::int64_t n, std::uint64_t seed) {
  const Values special{
      0.0f,        -0.0f,           tiniest,         -tiniest,     0x1p-133f,   0x1.8p-133f, 0x1p-126f,
      1.0f,        infinity,        -infinity,       not_a_number, 0x1.fep127f, -1e-45f,     0x1.fffffep127f,
      0x1.ffp127f, 0x1.fcfffep127f, -0x1.fe0002p127f};
  Generator random(seed);
  return generate(n, [&](std::int64_t) {
    return random.below(3) == 0 ? special[static_cast<std::size_t>(random.below(std::ssize(special)))]
                                : random.any_float();
  });
}

// Arrays of these sizes, `shift` elements behind addresses of 16 bytes; rubbish around what is written stays.
void expect_like_reference(const std::vector<std::int64_t>& sizes, std::size_t shift, std::uint64_t seed = 1) {
  std::vector<Values> values;
  std::vector<std::vector<std::uint16_t>> found, expected;
  for (const std::int64_t size : sizes) {
    values.push_back(nasty(size + 16, static_cast<std::uint64_t>(size)));
    found.emplace_back(static_cast<std::size_t>(size) + 16, std::uint16_t{0x5a5a});
  }
  expected = found;
  std::vector<RoundedArray> emulated, plain;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const RoundingKey own{key.seed + i, key.step - static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(7 * i)};
    emulated.push_back({values[i].data() + shift, found[i].data() + shift, sizes[i], own});
    plain.push_back({values[i].data() + shift, expected[i].data() + shift, sizes[i], own});
  }
  ReferenceRounder().stochastic_round(plain);
  EmulatedCuda(seed, seed % 3 + 1).stochastic_round(emulated);
  EXPECT_EQ(found, expected);
}

TEST(CudaRounding, SizesAndPlacements) {
  for (const std::size_t shift : {0u, 1u, 4u})
    for (const std::int64_t size : {0, 1, 7, 8, 9, 15, 63, 255, 256, 257, 1023, 1024, 1025, 5000, 20003})
      expect_like_reference({size}, shift);
}

TEST(CudaRounding, EveryArrayByItsKey) {
  std::vector<std::int64_t> sizes{5, 0, 64, 7001, 8};
  expect_like_reference(sizes, 0);
  for (std::int64_t i = 0; i < 700; ++i) sizes.push_back(i % 40);  // more than one launch takes
  expect_like_reference(sizes, 0);
}

TEST(CudaRounding, AnyOrderOfThreads) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) expect_like_reference({3000, 17}, 0, seed);
}

TEST(CudaRounding, RefusesBeforeAnythingIsWritten) {
  const Values values(64, 1.001f);
  std::vector<std::uint16_t> out(64, 7);
  const auto with = [&](auto change) {
    std::vector<RoundedArray> arrays(2, {values.data(), out.data(), 32, {}});
    arrays[1].to += 32;
    change(arrays[1]);
    EmulatedCuda().stochastic_round(arrays);
  };
  EXPECT_THROW(with([](RoundedArray& a) { a.numel = -1; }), ShapeError);
  EXPECT_THROW(with([](RoundedArray& a) { a.numel = std::int64_t{1} << 33; }), ArgumentError);
  EXPECT_THROW(with([](RoundedArray& a) { a.from = nullptr; }), LayoutError);
  EXPECT_THROW(with([](RoundedArray& a) { a.to = nullptr; }), LayoutError);
  EXPECT_THROW(with([](RoundedArray& a) { a.key.stream = 1u << 24; }), ArgumentError);
  EXPECT_EQ(out, std::vector<std::uint16_t>(64, 7));
  with([](RoundedArray&) {});
  EXPECT_NE(out, std::vector<std::uint16_t>(64, 7));
}

}  // namespace
}  // namespace bittersweet::test
