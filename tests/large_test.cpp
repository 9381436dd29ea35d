// More than 2^31 elements, and counts beyond 2^24: indices or counters of too few bits would show here. Memory that is
// never written costs nothing, so the big tensors are zero pages with a few numbers in them.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <bit>
#include <cstdint>
#include <numeric>
#include <vector>

#include "bittersweet/flow.hpp"
#include "bittersweet/prune.hpp"
#include "support/engines.hpp"
#include "support/memory.hpp"

namespace bittersweet::test {
namespace {

// `count` bf16 zeros, of which only the pages that are written take memory.
class SparseWeights {
 public:
  explicit SparseWeights(std::int64_t count) : count_(count) {
    void* const base =
        mmap(nullptr, bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) return;
    data_ = static_cast<std::uint16_t*>(base);
    madvise(base, bytes(), MADV_HUGEPAGE);  // fewer page faults, where the system has them
  }
  SparseWeights(const SparseWeights&) = delete;
  SparseWeights& operator=(const SparseWeights&) = delete;
  ~SparseWeights() {
    if (data_) munmap(data_, bytes());
  }
  bool mapped() const { return data_ != nullptr; }
  void set(std::int64_t i, float value) { data_[i] = bits_of_bf16(value); }
  float get(std::int64_t i) const { return bf16_to_float(data_[i]); }
  ScoreInputs inputs() const {
    return {.weight = {data_, DType::bf16}, .numel = count_, .geometry = flat(count_), .name = "sparse"};
  }

 private:
  std::size_t bytes() const { return static_cast<std::size_t>(count_) * 2; }
  std::int64_t count_;
  std::uint16_t* data_ = nullptr;
};

class Large : public testing::Test {
 protected:
  void SetUp() override {
    if (sanitized) GTEST_SKIP() << "gigabytes of zeros take too long under a sanitizer";
  }
  Workspace workspace_;
};

constexpr std::int64_t two_to_31 = std::int64_t{1} << 31;

TEST_F(Large, MoreThan2To31Elements) {
  constexpr std::int64_t n = two_to_31 + 200005, marked = 1000;  // the last elements: 1, 2, 3, ... 1000 (as bf16)
  SparseWeights weights(n);
  if (!weights.mapped()) GTEST_SKIP() << "no address space for " << n << " elements";
  weights.set(5, 4096.0f);
  weights.set(two_to_31, 8192.0f);
  std::vector<float> values{4096.0f, 8192.0f};
  for (std::int64_t i = 0; i < marked; ++i) {
    values.push_back(nearest_bf16(static_cast<float>(i + 1)));
    weights.set(n - marked + i, values.back());
  }
  std::sort(values.begin(), values.end());
  const auto zeros = n - static_cast<std::int64_t>(values.size());
  const std::vector<ScoreInputs> inputs{weights.inputs()};
  std::vector<std::uint64_t> words(static_cast<std::size_t>(bits::words(n)));
  std::uint64_t* const masks[] = {words.data()};
  const auto live = [&] { return count_live(inputs, std::vector<const std::uint64_t*>{words.data()})[0]; };

  // Among the marked: all zeros below.
  PruneReport report = make_masks(inputs, Magnitude{}, {.k = zeros + 10}, {}, masks, workspace_);
  EXPECT_EQ(report.value, values[9]);
  EXPECT_EQ(report.count_below, zeros + (std::lower_bound(values.begin(), values.end(), values[9]) - values.begin()));
  EXPECT_EQ(report.pruned, zeros + 10);
  EXPECT_EQ(report.total, n);
  EXPECT_EQ(live(), static_cast<std::int64_t>(values.size()) - 10);
  for (std::int64_t i = 0; i < marked; ++i) ASSERT_EQ(bits::get(words.data(), n - marked + i), i >= 10) << i;
  EXPECT_TRUE(bits::get(words.data(), two_to_31));
  EXPECT_TRUE(bits::get(words.data(), 5));

  // Among the zeros, split beyond 2^31: exactly the first k of them.
  const std::int64_t k = two_to_31 + 77777;
  report = make_masks(inputs, Magnitude{}, {.k = k}, {}, masks, workspace_);
  EXPECT_EQ(report.value, 0.0f);
  EXPECT_EQ(report.count_below, 0);
  EXPECT_EQ(report.count_equal, zeros);
  EXPECT_EQ(report.pruned, k);
  EXPECT_EQ(live(), n - k);
  EXPECT_FALSE(bits::get(words.data(), k + 1));  // two that are not zero came before
  EXPECT_TRUE(bits::get(words.data(), k + 2));

  // Writing under a mask, and finding what was not written, beyond 2^31.
  std::fill(words.begin(), words.end(), ~std::uint64_t{0});
  words.back() = bits::valid(n, bits::words(n) - 1);
  bits::clear(words.data(), two_to_31);
  bits::clear(words.data(), n - 1);
  const std::vector<const std::uint64_t*> read_only{words.data()};
  EXPECT_EQ(count_violations(inputs, read_only, roles::weight)[0], 2);
  apply_masks(inputs, read_only);
  EXPECT_EQ(weights.get(two_to_31), 0.0f);
  EXPECT_EQ(weights.get(n - 1), 0.0f);
  EXPECT_EQ(weights.get(n - 2), nearest_bf16(999.0f));
  EXPECT_EQ(count_violations(inputs, read_only, roles::weight)[0], 0);
}

TEST_F(Large, SelectorsBeyond2To31) {
  constexpr std::int64_t n = two_to_31 + 70000;
  SparseWeights weights(n);
  if (!weights.mapped()) GTEST_SKIP() << "no address space for " << n << " elements";
  for (std::int64_t i = 0; i < 5000; ++i) weights.set(n - 5000 + i, 1.0f);
  const std::vector<ScoreInputs> inputs{weights.inputs()};
  PruneReport report = threshold(inputs, Magnitude{}, {.k = n - 4999}, {.selector = Histogram{}}, workspace_);
  EXPECT_EQ(report.value, 1.0f);
  EXPECT_EQ(report.count_below, n - 5000);
  EXPECT_EQ(report.count_equal, 5000);
  report = threshold(inputs, Magnitude{}, {.k = 5}, {.selector = Sampling{.fraction = 1e-5}}, workspace_);
  EXPECT_EQ(report.value, 0.0f);
  report = threshold(inputs, Random{}, {.k = n / 2}, {.selector = Sampling{.fraction = 1e-5}}, workspace_);
  EXPECT_NEAR(*report.value, 0.5f, 0.02f);
}

// One thread meets more than 2^32 equal keys: its local bins are 32 bits wide and have to be emptied in time.
TEST_F(Large, HistogramBinsOfOneThread) {
  constexpr std::int64_t n = 2 * two_to_31 + 70000;
  SparseWeights weights(n);
  if (!weights.mapped()) GTEST_SKIP() << "no address space for " << n << " elements";
  weights.set(n - 1, 1.0f);
  const std::vector<ScoreInputs> inputs{weights.inputs()};
  CpuEngine engine(cpu::usable_isas().back(), 1);
  std::vector<std::int64_t> bins(65536);
  engine.histogram(make_view(inputs, Magnitude{}), make_chunks(inputs), Digit{}, bins, workspace_);
  EXPECT_EQ(bins[key_of_zero >> 16], n - 1);
  EXPECT_EQ(bins[key_of(1.0f) >> 16], 1);
  EXPECT_EQ(std::accumulate(bins.begin(), bins.end(), std::int64_t{0}), n);
}

// A float32 counter stalls at 2^24, and a float32 histogram with it.
TEST_F(Large, CountsBeyond2To24) {
  constexpr std::int64_t ones = (std::int64_t{1} << 24) + 5, twos = (std::int64_t{1} << 24) + 7;
  std::vector<std::uint16_t> weights(static_cast<std::size_t>(ones + twos), bits_of_bf16(1.0f));
  std::fill(weights.begin() + ones, weights.end(), bits_of_bf16(2.0f));
  const std::vector<ScoreInputs> inputs{
      {.weight = {weights.data(), DType::bf16}, .numel = ones + twos, .geometry = flat(ones + twos)}};
  for (const Selector& selector :
       {Selector{Exact{}}, Selector{Exact{.guess = Bracket{1.0f, 2.0f, true}}},
        Selector{Exact{.guess = Bracket{0.5f, 3.0f}, .capacity = 100}}, Selector{Histogram{}}, Selector{KthValue{}},
        Selector{Streaming{.tolerance = 0}}, Selector{Sampling{.fraction = 0.001, .verify = true}}}) {
    const PruneReport first = threshold(inputs, Magnitude{}, {.k = ones - 1000000}, {.selector = selector}, workspace_);
    EXPECT_EQ(first.value, 1.0f) << name_of(selector);
    EXPECT_EQ(first.count_below, 0) << name_of(selector);
    EXPECT_EQ(first.count_equal, ones) << name_of(selector);
    const PruneReport second =
        threshold(inputs, Magnitude{}, {.k = ones + 1000000}, {.selector = selector}, workspace_);
    EXPECT_EQ(second.value, 2.0f) << name_of(selector);
    EXPECT_EQ(second.count_below, ones) << name_of(selector);
    EXPECT_EQ(second.count_equal, twos) << name_of(selector);
  }
  CpuEngine engine(cpu::usable_isas().back(), 2);
  const Moments moments = engine.moments(make_view(inputs, Magnitude{}), make_chunks(inputs));
  EXPECT_EQ(moments.finite, ones + twos);
  EXPECT_EQ(moments.sum, static_cast<double>(ones + 2 * twos));
  EXPECT_EQ(moments.sum_of_squares, static_cast<double>(ones + 4 * twos));

  std::vector<std::uint64_t> words(static_cast<std::size_t>(bits::words(ones + twos)));
  std::uint64_t* const masks[] = {words.data()};
  EXPECT_EQ(prune(inputs, Magnitude{}, {.k = ones + 3}, {}, masks, workspace_).pruned, ones + 3);
  EXPECT_FALSE(bits::get(words.data(), ones + 2));
  EXPECT_TRUE(bits::get(words.data(), ones + 3));
  EXPECT_EQ(std::count(weights.begin(), weights.end(), 0), ones + 3);
}

}  // namespace
}  // namespace bittersweet::test
