// The n-th smallest, by what a sort gives.
#include "bittersweet/select/nth.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <numeric>
#include <vector>

#include "support/inputs.hpp"

namespace bittersweet::test {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

void expect_as_sorted(const Values& values, const std::string& what) {
  Values sorted = values;
  std::sort(sorted.begin(), sorted.end());
  const std::size_t last = values.size() - 1;
  for (const std::size_t at : {std::size_t{0}, last / 100, last / 3, last / 2, last - last / 50, last}) {
    Values found = values;
    put_nth(found, at);
    ASSERT_EQ(found[at], sorted[at]) << what << ", " << at << " of " << values.size();
    const auto place = found.begin() + static_cast<std::ptrdiff_t>(at);
    ASSERT_TRUE(std::all_of(found.begin(), place, [&](float v) { return v <= *place; })) << what;
    ASSERT_TRUE(std::all_of(place, found.end(), [&](float v) { return v >= *place; })) << what;
    std::sort(found.begin(), found.end());
    ASSERT_EQ(found, sorted) << what << ": the same values as before";
  }
}

TEST(Nth, PutsWhatASortPutsThere) {
  for (const std::int64_t n : {1, 2, 3, 255, 256, 2047, 2048, 2049, 4097, 10'007, 70'000}) {
    Generator random(static_cast<std::uint64_t>(n));
    const auto made = [&](auto&& value) {
      Values values(static_cast<std::size_t>(n));
      for (std::int64_t i = 0; i < n; ++i) values[static_cast<std::size_t>(i)] = value(i);
      return values;
    };
    expect_as_sorted(half_normal(n, static_cast<std::uint64_t>(n)), "half-normal");
    expect_as_sorted(made([](std::int64_t) { return 0.25f; }), "all equal");
    expect_as_sorted(made([&](std::int64_t) { return random.below(2) ? 1.0f : 2.0f; }), "two values");
    expect_as_sorted(made([&](std::int64_t) { return static_cast<float>(random.below(50)) - 25.0f; }), "fifty values");
    expect_as_sorted(made([](std::int64_t i) { return static_cast<float>(i); }), "ascending");
    expect_as_sorted(made([](std::int64_t i) { return static_cast<float>(-i); }), "descending");
    expect_as_sorted(made([](std::int64_t i) { return static_cast<float>(i % 7); }), "a saw");
    expect_as_sorted(made([&](std::int64_t) { return random.below(3) ? 0.0f : -0.0f; }), "both zeros");
    expect_as_sorted(made([&](std::int64_t i) {
                       return i % 3 ? (i % 2 ? infinity : -infinity) : static_cast<float>(random.normal());
                     }),
                     "infinities");
    expect_as_sorted(made([&](std::int64_t) { return static_cast<float>(random.below(1000)) * 0x1p-149f; }),
                     "denormals");
    // Where 256 of them are looked at they are unlike the others.
    expect_as_sorted(made([&](std::int64_t i) { return i % std::max<std::int64_t>(n / 256, 1) == 0 ? 100.0f : 1.0f; }),
                     "a sample above");
    expect_as_sorted(made([&](std::int64_t i) {
                       return i % std::max<std::int64_t>(n / 256, 1) == 0 ? -1.0f : static_cast<float>(random.normal());
                     }),
                     "a sample inside");
  }
}

}  // namespace
}  // namespace bittersweet::test
