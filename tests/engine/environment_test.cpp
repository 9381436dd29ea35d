// The caller's floating-point mode does not reach the results, and the results do not reach the caller's mode:
// denormals under flush-to-zero, another rounding, unmasked traps; in the calling thread and in workers.
#include <cfenv>
#include <cstdint>

#include "bittersweet/prune.hpp"
#include "support/compare.hpp"
#include "support/inputs.hpp"

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace bittersweet::test {
namespace {

#if defined(__SSE__)
constexpr bool has_modes = true;
using Mode = unsigned;
Mode current_mode() { return _mm_getcsr() & ~0x3fu; }  // without the flags of what has happened
void set_mode(Mode mode) { _mm_setcsr(mode); }
constexpr std::pair<const char*, Mode> modes[] = {
    {"flush to zero, denormals are zero", 0x1f80u | 0x8040u},
    {"upward", 0x1f80u | 0x4000u},
    {"towards zero, flushed", 0x1f80u | 0x6000u | 0x8040u},
    {"flushed; invalid, division and overflow trap", 0x1900u | 0x8040u},
};
#elif defined(__aarch64__)
constexpr bool has_modes = true;
using Mode = std::uint64_t;
Mode current_mode() {
  Mode mode;
  asm volatile("mrs %0, fpcr" : "=r"(mode));
  return mode;
}
void set_mode(Mode mode) { asm volatile("msr fpcr, %0" : : "r"(mode)); }
constexpr std::pair<const char*, Mode> modes[] = {{"flush to zero", Mode{1} << 24}, {"upward", Mode{1} << 22}};
#else
constexpr bool has_modes = false;
using Mode = int;
Mode current_mode() { return 0; }
void set_mode(Mode) {}
constexpr std::pair<const char*, Mode> modes[] = {{"none", 0}};
#endif

// Runs f in the mode and says whether the mode was the same afterwards.
template <class F>
bool kept_while(Mode mode, F&& f) {
  const Mode before = current_mode();
  set_mode(mode);
  f();
  const bool kept = current_mode() == mode;
  set_mode(before);
  return kept;
}

// Weights and states of which most are denormal, in f32 and as halves; scores around the smallest numbers.
Model denormal_model(std::int64_t n, DType dtype) {
  Model model = training_model({n, 3001}, {dtype}, 1);
  Generator random(4);
  for (Tensor& tensor : model.tensors)
    for (Array* array : {&tensor.weight, &tensor.exp_avg, &tensor.exp_avg_sq, &tensor.scores})
      for (std::size_t i = 0; i < array->size(); ++i) {
        const double small = dtype == DType::f16 ? 1e-5 : 1e-39;
        array->set(i, static_cast<float>(random.uniform() * (i % 5 == 0 ? 1e-3 : small)));
      }
  return model;
}

class Environment : public testing::TestWithParam<int> {  // threads
 protected:
  void SetUp() override {
    if (!has_modes) GTEST_SKIP() << "no way to set a floating-point mode here";
    set_num_threads(GetParam());
  }
  void TearDown() override { set_num_threads(0); }
  std::int64_t size() const { return GetParam() == 1 ? 40000 : 800000; }  // enough for all the threads
};
INSTANTIATE_TEST_SUITE_P(Threads, Environment, testing::Values(1, 3));

// Or the other tests show nothing: in every mode a denormal is lost or a sum rounded another way.
TEST_P(Environment, ModesAreInForce) {
  volatile float tiny = 1e-40f, small = 1e-10f, one = 1.0f;
  for (const auto& [name, mode] : modes) {
    volatile float scaled = 0, sum = 0;
    kept_while(mode, [&] {
      scaled = tiny * one;
      sum = one + small;
    });
    EXPECT_TRUE(scaled == 0.0f || sum != 1.0f) << name;
  }
}

TEST_P(Environment, ScoresAreTheSameBits) {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    const Model model = denormal_model(size(), dtype);
    const auto inputs = model.inputs();
    for (const Scorer& scorer : all_scorers()) {
      if (GetParam() > 1 && info_of(scorer).name != "bitter7" && info_of(scorer).name != "bitter8_published") continue;
      const auto scores = [&] {
        std::vector<Values> out;
        for (const ScoreInputs& tensor : inputs) out.emplace_back(static_cast<std::size_t>(tensor.numel));
        return out;
      };
      std::vector<Values> expected = scores();
      write_scores(inputs, scorer, std::vector<float*>{expected[0].data(), expected[1].data()});
      for (const auto& [name, mode] : modes) {
        std::vector<Values> found = scores();
        const std::vector<float*> out{found[0].data(), found[1].data()};
        EXPECT_TRUE(kept_while(mode, [&] { write_scores(inputs, scorer, out); })) << name;
        for (std::size_t t = 0; t < 2; ++t)
          ASSERT_TRUE(same_floats(expected[t], found[t])) << info_of(scorer).name << ", " << name;
      }
    }
  }
}

TEST_P(Environment, EventsAreTheSameBits) {
  for (const DType dtype : {DType::f32, DType::f16}) {
    const Model original = denormal_model(size(), dtype);
    for (const Scorer& scorer : {Scorer{Magnitude{}}, Scorer{Bitter7{.eps = 0.0f}}, Scorer{Bitter7{}}})
      for (const Selector& selector :
           {Selector{Exact{}}, Selector{Streaming{}}, Selector{Sampling{}}, Selector{Histogram{}}}) {
        if (GetParam() > 1 && (dtype != DType::f32 || !std::holds_alternative<Bitter7>(scorer))) continue;
        SCOPED_TRACE(std::string(info_of(scorer).name) + ", " + std::string(name_of(selector)));
        const PruneOptions options{.selector = selector, .seed = 2};
        const Model alone = original;
        const auto alone_inputs = alone.inputs();
        FreshMasks expected_masks(alone_inputs);
        Workspace workspace;
        const PruneReport expected =
            prune(alone_inputs, scorer, {.sparsity = 0.55}, options, expected_masks.table(), workspace);
        for (const auto& [name, mode] : modes) {
          const Model model = original;
          const auto inputs = model.inputs();
          FreshMasks masks(inputs);
          PruneReport report, alone_report;
          const bool kept = kept_while(mode, [&] {
            alone_report = threshold(inputs, scorer, {.sparsity = 0.55}, options, workspace);
            report = prune(inputs, scorer, {.sparsity = 0.55}, options, masks.table(), workspace);
          });
          EXPECT_TRUE(kept) << name;
          EXPECT_TRUE(same_bits(*report.value, *expected.value)) << name;
          EXPECT_TRUE(same_bits(*alone_report.value, *expected.value)) << name;
          EXPECT_EQ(report.count_below, expected.count_below) << name;
          EXPECT_EQ(report.v_zero, expected.v_zero) << name;
          EXPECT_EQ(report.v_below_eps, expected.v_below_eps) << name;
          ASSERT_TRUE(same_masks(expected_masks.bits(), masks.bits())) << name;
          ASSERT_EQ(model.bytes(), alone.bytes()) << name;
        }
      }
  }
}

// A denormal is not zero, whoever asks.
TEST_P(Environment, ViolationsAreSeen) {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    Model model = denormal_model(size(), dtype);
    const auto inputs = model.inputs();
    const Words first = random_mask(size(), 0.5, 1), second = random_mask(3001, 0.5, 2);
    const std::vector<const std::uint64_t*> masks{first.data(), second.data()};
    const std::uint32_t which = roles::weight | roles::exp_avg_sq;
    const std::vector<std::int64_t> expected = count_violations(inputs, masks, which);
    ASSERT_GT(expected[0], size() / 2);
    for (const auto& [name, mode] : modes) {
      std::vector<std::int64_t> found;
      EXPECT_TRUE(kept_while(mode, [&] { found = count_violations(inputs, masks, which); })) << name;
      EXPECT_EQ(found, expected) << name << ", " << name_of(dtype);
      EXPECT_TRUE(kept_while(mode, [&] { count_live(inputs, masks); })) << name;
    }
  }
}

TEST_P(Environment, IsRestoredWhenAnErrorIsThrown) {
  Model model = denormal_model(size(), DType::f32);
  model.tensors[0].weight.set(9, not_a_number);
  const auto inputs = model.inputs();
  FreshMasks masks(inputs);
  Workspace workspace;
  for (const auto& [name, mode] : modes) {
    int caught = 0;
    const bool kept = kept_while(mode, [&] {
      try {
        prune(inputs, Magnitude{}, {.sparsity = 0.5}, {}, masks.table(), workspace);
      } catch (const NonFiniteScoreError&) {
        ++caught;
      }
      try {
        threshold(inputs, Magnitude{}, {}, {}, workspace);
      } catch (const ArgumentError&) {
        ++caught;
      }
    });
    EXPECT_TRUE(kept) << name;
    EXPECT_EQ(caught, 2) << name;
  }
}

}  // namespace
}  // namespace bittersweet::test
