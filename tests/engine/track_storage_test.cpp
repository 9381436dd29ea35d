// What trackers keep in bf16: computed as in f32, rounded once by the stated random bits, without bias, and small
// changes are not lost. That all engines agree on it is in track_test.cpp.
#include <gtest/gtest.h>

#include <numeric>

#include "bittersweet/engine/reference_track.hpp"
#include "bittersweet/error.hpp"
#include "bittersweet/rounding.hpp"
#include "bittersweet/track.hpp"
#include "support/inputs.hpp"

namespace bittersweet::test {
namespace {

constexpr DType f32 = DType::f32, f16 = DType::f16, bf16 = DType::bf16;
constexpr std::int64_t n = 4096;
constexpr std::size_t size = n;
constexpr TrackDraws draws{.seed = 99, .stream = 5};

ScoreInputs tensor_of(const Array& weight, const Array& grad = {}) {
  return {.weight = weight.view(),
          .grad = grad.view(),
          .numel = static_cast<std::int64_t>(weight.size()),
          .geometry = flat(static_cast<std::int64_t>(weight.size())),
          .name = "w"};
}

Values values_of(const Array& array) {
  Values values(array.size());
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = array[i];
  return values;
}

double mean_of(const Array& array) {
  const Values values = values_of(array);
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

// What stochastic_round makes of an f32 array, as the bytes of a bf16 one.
std::vector<unsigned char> rounded(const Array& wide, const RoundingKey& key) {
  const Array narrow(Values(wide.size(), 0.0f), bf16);
  const RoundedArray array{static_cast<const float*>(wide.view().data), static_cast<std::uint16_t*>(narrow.view().data),
                           static_cast<std::int64_t>(wide.size()), key};
  stochastic_round({&array, 1});
  return narrow.bytes();
}

Array noise(std::uint64_t seed, double scale, DType type = f32) {
  return {generate(n, [scale, r = Generator(seed)](std::int64_t) mutable { return scale * r.normal(); }), type};
}

TEST(TrackStorage, CoherenceIsComputedInFloatAndRoundedOnce) {
  const Array weight = noise(1, 0.1);
  const ScoreInputs tensor = tensor_of(weight);
  for (const double updates : {0.0, 1.0, 7.0, 4294967301.0}) {
    const Array previous = noise(2, 0.1, bf16), average = noise(3, 0.01, bf16);
    const Array wide_previous(values_of(previous), f32), wide_average(values_of(average), f32);
    Coherence narrow{.updates = updates}, wide{.updates = updates};
    const CoherenceMemory kept{previous.view(), average.view(), &narrow, draws};
    const CoherenceMemory exact{wide_previous.view(), wide_average.view(), &wide, draws};
    track_coherence({&tensor, 1}, {&kept, 1}, 0.9);
    track_coherence({&tensor, 1}, {&exact, 1}, 0.9);
    const auto step = static_cast<std::uint32_t>(static_cast<std::int64_t>(updates));
    EXPECT_EQ(previous.bytes(), rounded(wide_previous, {draws.seed, step, 10}));
    EXPECT_EQ(average.bytes(), rounded(wide_average, {draws.seed, step, 11}));
    EXPECT_EQ(narrow.direction.value, wide.direction.value);
    EXPECT_EQ(narrow.jitter.value, wide.jitter.value);
    EXPECT_EQ(narrow.updates, updates + 1);
  }
}

TEST(TrackStorage, MovementIsComputedInFloatAndRoundedOnce) {
  const Array weight = noise(1, 0.1), grad = noise(2, 1.0);
  const ScoreInputs tensor = tensor_of(weight, grad);
  const Array sums = noise(3, 0.01, bf16), wide(values_of(sums), f32);
  std::int64_t updates = 41, others = 41;
  const MovementMemory kept{sums.view(), &updates, 1e-3f, draws}, exact{wide.view(), &others, 1e-3f, draws};
  accumulate_movement({&tensor, 1}, {&kept, 1});
  accumulate_movement({&tensor, 1}, {&exact, 1});
  EXPECT_EQ(sums.bytes(), rounded(wide, {draws.seed, 41, 10}));
  EXPECT_EQ(updates, 42);
}

TEST(TrackStorage, BfloatWeightsAreRememberedExactlyAndOthersWithoutBias) {
  for (const DType type : {bf16, f32, f16}) {
    const Array weight = noise(4, 0.02, type), previous(Values(size), bf16), average(Values(size), bf16);
    const ScoreInputs tensor = tensor_of(weight);
    double error = 0, square = 0;
    constexpr int updates = 200;
    Coherence scalars;
    const CoherenceMemory kept{previous.view(), average.view(), &scalars, draws};
    for (int step = 0; step < updates; ++step) {
      track_coherence({&tensor, 1}, {&kept, 1}, 0.9);
      for (std::size_t i = 0; i < size; ++i) {
        const double w = static_cast<double>(weight[i]);
        const double unit = w == 0 ? 1 : std::ldexp(1.0, std::ilogb(w) - 7);
        const double off = (static_cast<double>(previous[i]) - w) / unit;
        error += off;
        square += off * off;
        ASSERT_LT(std::fabs(off), 1.0);
      }
    }
    const double count = static_cast<double>(n) * updates;
    if (type == bf16) {
      EXPECT_EQ(square, 0.0);
    } else if (type == f32) {
      EXPECT_NEAR(square / count, 1.0 / 6, 0.005);
    }
    EXPECT_LT(std::fabs(error / count), 4 * std::sqrt(1.0 / 6 / count)) << name_of(type);
  }
}

// A weight that moves by 1 at every step, or no more: its average goes from 0 to 1, and back. f32 in `previous`, so
// that the average alone is looked at.
TEST(TrackStorage, AnAverageFollowsWhereNearestStands) {
  Array weight(Values(size, 0.0f), f32);
  const Array previous(Values(size), f32), average(Values(size), bf16);
  const ScoreInputs tensor = tensor_of(weight);
  Coherence scalars;
  const CoherenceMemory kept{previous.view(), average.view(), &scalars, draws};
  double exact = 0;
  float nearest = 0;
  const auto run = [&](float pace) {
    for (int step = 0; step < 3000; ++step) {
      for (std::size_t i = 0; i < size; ++i) weight.set(i, weight[i] + pace);
      track_coherence({&tensor, 1}, {&kept, 1}, 0.999);
      if (scalars.updates == 1) continue;  // only remembered
      exact = 0.999 * exact + 0.001 * static_cast<double>(pace);
      nearest = nearest_bf16(0.999f * nearest + 0.001f * pace);
    }
  };
  run(1.0f);
  EXPECT_NEAR(exact, 0.950, 0.001);
  EXPECT_NEAR(mean_of(average), exact, 0.005);
  EXPECT_LT(nearest, 0.3f);
  const double before = exact;
  nearest = 1.0f;
  run(0.0f);
  EXPECT_LT(exact, 0.05 * before + 1e-9);
  EXPECT_NEAR(mean_of(average), exact, 0.005);
  EXPECT_EQ(nearest, 1.0f);
}

TEST(TrackStorage, ASumGrowsBySmallTermsWhereNearestStands) {
  const Array weight(Values(size, 1.0f), f32), grad(Values(size, -1.0f), f32), sums(Values(size, 1.0f), bf16);
  const ScoreInputs tensor = tensor_of(weight, grad);
  std::int64_t updates = 0;
  const MovementMemory kept{sums.view(), &updates, 1e-3f, draws};
  float nearest = 1.0f;
  for (int step = 0; step < 1000; ++step) {
    accumulate_movement({&tensor, 1}, {&kept, 1});
    nearest = nearest_bf16(nearest + 1e-3f);
  }
  EXPECT_EQ(nearest, 1.0f);
  EXPECT_NEAR(mean_of(sums), 2.0, 5 * 0.084 / 64);  // one sum has a spread of 0.084
}

TEST(TrackStorage, TensorsAndStepsDrawBitsOfTheirOwn) {
  const Array weight(Values(size, 1.0f), f32), grad(Values(size, -1.0f), f32);
  const ScoreInputs tensors[] = {tensor_of(weight, grad), tensor_of(weight, grad)};
  std::int64_t updates[] = {0, 0};
  Array first(Values(size, 1.0f), bf16);
  const Array second(Values(size, 1.0f), bf16);
  const MovementMemory kept[] = {{first.view(), &updates[0], 1e-3f, {1, 0}},
                                 {second.view(), &updates[1], 1e-3f, {1, 1}}};
  accumulate_movement(tensors, kept);
  EXPECT_NE(first.bytes(), second.bytes());
  const auto once = first.bytes();
  for (std::size_t i = 0; i < size; ++i) first.set(i, 1.0f);
  accumulate_movement(tensors, kept);
  EXPECT_NE(first.bytes(), once);
}

TEST(TrackStorage, ErrorsSayWhatIsAccepted) {
  const Array weight(Values(10, 1.0f), f32), half(Values(10), f16), kept(Values(10), bf16), moment(Values(10), f32);
  ScoreInputs tensor = tensor_of(weight, weight);
  tensor.exp_avg = tensor.exp_avg_sq = moment.view();
  const std::span<const ScoreInputs> tensors{&tensor, 1};
  Coherence scalars;
  std::int64_t updates = 0;
  const TensorView odd{static_cast<char*>(kept.view().data) + 1, bf16}, none{nullptr, bf16}, good = kept.view();
  const auto coherence = [&](TensorView previous, TensorView average, std::uint32_t stream = 0) {
    const CoherenceMemory memory{previous, average, &scalars, {0, stream}};
    track_coherence(tensors, {&memory, 1}, 0.9);
  };
  const auto movement = [&](TensorView sums, std::int64_t* count, std::uint32_t stream = 0) {
    const MovementMemory memory{sums, count, 0.1f, {0, stream}};
    accumulate_movement(tensors, {&memory, 1});
  };
  EXPECT_THROW(coherence(half.view(), good), DTypeError);
  EXPECT_THROW(coherence(good, half.view()), DTypeError);
  EXPECT_THROW(coherence({}, good), DTypeError);
  EXPECT_THROW(coherence(good, none), LayoutError);
  EXPECT_THROW(coherence(odd, good), LayoutError);
  EXPECT_THROW(coherence(good, good, 1u << 23), ArgumentError);
  EXPECT_THROW(movement(half.view(), &updates), DTypeError);
  EXPECT_THROW(movement(none, &updates), LayoutError);
  EXPECT_THROW(movement(good, nullptr), LayoutError);
  EXPECT_THROW(movement(good, &updates, 1u << 23), ArgumentError);
  for (const TensorView& bad : {half.view(), none, odd}) {
    const SnapshotMemory snapshot{bad, &scalars};
    const CoherenceMemory memory{.previous = bad};
    EXPECT_THROW(compare_snapshot(tensors, {&snapshot, 1}), Error);
    EXPECT_THROW(measure_retention(tensors, {&memory, 1}), Error);
  }
  EXPECT_EQ(values_of(kept), Values(10));
  EXPECT_EQ(scalars.updates, 0.0);
  EXPECT_EQ(updates, 0);
  try {
    coherence(half.view(), good);
    FAIL() << "accepted";
  } catch (const DTypeError& error) {
    EXPECT_EQ(std::string(error.what()), "previous of tensor 'w': float16; float32 and bfloat16 are accepted");
  }
  movement(good, &updates);
  EXPECT_EQ(updates, 1);
}

}  // namespace
}  // namespace bittersweet::test
