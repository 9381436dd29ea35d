// Trackers of the CUDA engine on the emulator against the reference engine: scalars, counts and arrays, bit by bit.
#include "bittersweet/error.hpp"
#include "cuda/track_support.hpp"
#include "support/simt/emulated.hpp"

namespace bittersweet::test {
namespace {

EmulatedCuda emulated(std::uint64_t seed) { return EmulatedCuda(seed, seed % 3 + 1); }

void expect_coherence(const Model& model, Kept kept, const std::string& name, std::uint64_t seed = 1) {
  Tracked expected(model, kept.previous, kept.average), found = expected;
  for (std::uint64_t step = 0; step < 3; ++step) {
    reference_coherence(expected, 0.9);
    const auto inputs = found.model.inputs();
    emulated(seed + step).track_coherence(inputs, found.coherence(), 0.9);
    expected.advance(step), found.advance(step);
  }
  expect_same(expected, found, name + ", coherence");
  std::vector<double> retention(model.tensors.size(), -7.0);
  const auto inputs = found.model.inputs();
  emulated(seed).measure_retention(inputs, found.coherence(), retention.data());
  EXPECT_EQ(retention, reference_retention(expected)) << name;
  expect_same(expected, found, name + ", retention");
}

void expect_snapshot(const Model& model, DType type, const std::string& name, std::uint64_t seed = 1) {
  Tracked expected(model, type, DType::f32), found = expected;
  for (std::uint64_t step = 0; step < 2; ++step) {
    reference_snapshot(expected);
    const auto inputs = found.model.inputs();
    emulated(seed + step).compare_snapshot(inputs, found.snapshots());
    expected.advance(step), found.advance(step);
  }
  expect_same(expected, found, name + ", snapshot");
}

void expect_movement(const Model& model, DType type, const std::string& name, std::uint64_t seed = 1) {
  Tracked expected(model, DType::f32, type, 4294967294), found = expected;  // the step of a draw has 32 bits
  for (std::uint64_t step = 0; step < 3; ++step) {
    reference_movement(expected);
    const auto inputs = found.model.inputs();
    emulated(seed + step).accumulate_movement(inputs, found.movements());
    expected.advance(step), found.advance(step);
  }
  expect_same(expected, found, name + ", movement");
}

void expect_sketch(const Model& model, const std::string& name, std::uint64_t seed = 1) {
  Tracked expected(model, DType::f32, DType::f32), found = expected;
  for (std::uint64_t step = 0; step < 3; ++step) {
    reference_sketch(expected, 0.75);
    const auto inputs = found.model.inputs();
    emulated(seed + step).track_sketch(inputs, found.sketches(), 0.75);
    expected.advance(step), found.advance(step);
  }
  expect_same(expected, found, name + ", sketch");
}

TEST(CudaTrack, CoherenceAndRetention) {
  for (const TrackCase& one : track_cases())
    for (const Kept& kept : kept_types) expect_coherence(one.model, kept, one.name);
}

TEST(CudaTrack, Snapshots) {
  for (const TrackCase& one : track_cases())
    for (const DType type : {DType::f32, DType::bf16}) expect_snapshot(one.model, type, one.name);
}

TEST(CudaTrack, Movement) {
  for (const TrackCase& one : track_cases())
    for (const DType type : {DType::f32, DType::bf16}) expect_movement(one.model, type, one.name);
}

TEST(CudaTrack, Sketches) {
  for (const TrackCase& one : track_cases()) expect_sketch(one.model, one.name);
}

TEST(CudaTrack, MoreTensorsThanALaunchTakes) {
  const auto many = [](std::int64_t count) {
    std::vector<std::int64_t> sizes;
    for (std::int64_t i = 0; i < count; ++i) sizes.push_back(i % 40);
    Model model = training_model(sizes, {DType::f32, DType::bf16, DType::f16});
    model.set_masks(0.2, 1);
    return model;
  };
  expect_coherence(many(400), kept_types[1], "many");
  expect_movement(many(400), DType::bf16, "many");
  expect_sketch(many(600), "many");
  Tracked expected(many(1310), DType::bf16, DType::f32), found = expected;
  reference_snapshot(expected);
  EXPECT_EQ(EmulatedCuda().compare_snapshot(found.model.inputs(), found.snapshots()), 6);  // 1277 have elements
  expect_same(expected, found, "many");
}

TEST(CudaTrack, AnyOrderOfThreads) {
  Model model = training_model({5000, 17, 4096, 300}, {DType::f32, DType::bf16});
  model.set_masks(0.4, 1);
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    expect_coherence(model, kept_types[2], "orders", seed);
    expect_snapshot(model, DType::bf16, "orders", seed);
    expect_movement(model, DType::bf16, "orders", seed);
    expect_sketch(model, "orders", seed);
  }
}

TEST(CudaTrack, TheWholeModelIsOnePass) {
  Tracked of(training_model({5000, 17, 0, 4096, 300}, {DType::f32, DType::bf16, DType::f16}), DType::f32, DType::bf16);
  const auto inputs = of.model.inputs();
  std::vector<double> found(inputs.size());
  EXPECT_EQ(EmulatedCuda().track_coherence(inputs, of.coherence(), 0.9), 2);
  EXPECT_EQ(EmulatedCuda().measure_retention(inputs, of.coherence(), found.data()), 2);
  EXPECT_EQ(EmulatedCuda().compare_snapshot(inputs, of.snapshots()), 2);
  EXPECT_EQ(EmulatedCuda().accumulate_movement(inputs, of.movements()), 2);
  EXPECT_EQ(EmulatedCuda().track_sketch(inputs, of.sketches(), 0.9), 1);
}

// What some tensors remember for the first time while others compare.
TEST(CudaTrack, TensorsOfDifferentAges) {
  Tracked expected(training_model({500, 4200, 77}, {DType::f32}), DType::f32, DType::bf16);
  expected.scalars[1].updates = 3;
  Tracked found = expected;
  reference_coherence(expected, 0.5);
  EmulatedCuda().track_coherence(found.model.inputs(), found.coherence(), 0.5);
  expect_same(expected, found, "ages");
  EXPECT_EQ(found.scalars[0].updates, 1.0);
  EXPECT_EQ(found.scalars[0].direction.weight, 0.0);
  EXPECT_GT(found.scalars[1].direction.weight, 0.0);
}

TEST(CudaTrack, RefusesBeforeAnythingIsWritten) {
  Tracked of(training_model({100, 50}, {DType::f32}), DType::f32, DType::f32);
  const Tracked before = of;
  const auto inputs = of.model.inputs();
  const auto with = [&](auto change) {
    auto memory = of.coherence();
    change(memory[1]);
    EmulatedCuda().track_coherence(inputs, memory, 0.9);
  };
  EXPECT_THROW(with([](CoherenceMemory& m) { m.previous.data = nullptr; }), LayoutError);
  EXPECT_THROW(with([](CoherenceMemory& m) { m.average.dtype = DType::f16; }), DTypeError);
  EXPECT_THROW(with([](CoherenceMemory& m) { m.scalars = nullptr; }), LayoutError);
  EXPECT_THROW(with([](CoherenceMemory& m) { m.draws.stream = 1u << 23; }), ArgumentError);
  EXPECT_THROW(EmulatedCuda().track_coherence(inputs, of.coherence(), 1.0), ArgumentError);
  EXPECT_THROW(EmulatedCuda().track_coherence({inputs.data(), 1}, of.coherence(), 0.9), ShapeError);
  EXPECT_THROW(EmulatedCuda().measure_retention(inputs, of.coherence(), nullptr), ArgumentError);
  auto movements = of.movements();
  movements[1].updates = nullptr;
  EXPECT_THROW(EmulatedCuda().accumulate_movement(inputs, movements), LayoutError);
  auto sketches = of.sketches();
  sketches[1].count = 51;
  EXPECT_THROW(EmulatedCuda().track_sketch(inputs, sketches, 0.9), ShapeError);
  auto poor = of.model.inputs();
  poor[1].exp_avg_sq = {};
  EXPECT_THROW(EmulatedCuda().compare_snapshot(poor, of.snapshots()), MissingStateError);
  EXPECT_THROW(EmulatedCuda().track_sketch(poor, of.sketches(), 0.9), MissingStateError);
  expect_same(before, of, "refused");
}

}  // namespace
}  // namespace bittersweet::test
