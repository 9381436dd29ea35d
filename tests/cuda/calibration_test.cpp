// Sums of squares of the CUDA engine on the emulator against the reference engine, bit by bit.
#include "bittersweet/cuda_calibration.hpp"

#include <gtest/gtest.h>

#include <limits>

#include "bittersweet/engine/reference_calibration.hpp"
#include "bittersweet/error.hpp"
#include "support/layer_inputs.hpp"
#include "support/simt/emulated.hpp"

namespace bittersweet::test {
namespace {

void expect_like_reference(Layer& layer, std::uint64_t seed = 1) {
  EXPECT_EQ(layer.by(EmulatedCuda(seed, static_cast<unsigned>(seed % 3) + 1)), layer.by(ReferenceCalibration{}));
}

TEST(CudaCalibration, EveryTypePlacementAndSize) {
  for (const DType type : {DType::f32, DType::bf16, DType::f16})
    for (const auto& [rows, columns] : std::vector<std::pair<std::int64_t, std::int64_t>>{
             {0, 8}, {8, 0}, {1, 1}, {17, 8}, {255, 5}, {256, 256}, {257, 264}, {600, 40}}) {
      Layer vectors(rows, columns, type), singles(rows, columns, type, 1);
      expect_like_reference(vectors);
      expect_like_reference(singles);
      vectors.count(0.6, rows % 2 == 0 ? 4 : 1);
      expect_like_reference(vectors);
      vectors.repeat(rows % 2 == 0 ? 300 : 3);
      expect_like_reference(vectors);
    }
}

TEST(CudaCalibration, ManyBands) {
  Layer narrow(9 * SquareSums::band + 1000, 2, DType::bf16);  // more than a block adds up at once
  expect_like_reference(narrow);
}

TEST(CudaCalibration, ValuesThatAreNotFiniteAreCountedWhereTheyCount) {
  for (const DType type : {DType::f32, DType::bf16, DType::f16}) {
    Layer layer(300, 72, type);
    layer.count(0.5, 3);
    std::int64_t counting = 0;
    for (const std::int64_t at : {0, 71, 72 * 20 + 17, 72 * 20 + 18, 72 * 155, 72 * 299 + 64}) {
      layer.set(at, at % 2 == 0 ? not_a_number : -std::numeric_limits<float>::infinity());
      counting += layer.input().counts(at / 72);
    }
    EXPECT_GT(counting, 0);
    EXPECT_EQ(layer.by(EmulatedCuda{}).counts, layer.by(ReferenceCalibration{}).counts);
    EXPECT_EQ(layer.by(EmulatedCuda{}).counts[1], 3 + counting);
  }
}

TEST(CudaCalibration, AnyOrderOfThreads) {
  Layer layer(700, 48, DType::f16);
  layer.count(0.9, 1);
  for (std::uint64_t seed = 1; seed <= 20; ++seed) expect_like_reference(layer, seed);
}

TEST(CudaCalibration, RefusesBeforeAnythingIsWritten) {
  Layer layer(4, 3, DType::f32);
  std::vector<double> sums(3, 1.0);
  std::vector<std::int64_t> counts(2, 0);
  const auto with = [&](auto change) {
    LayerInput input = layer.input();
    SquareSums to{sums.data(), counts.data()};
    change(input, to);
    EmulatedCuda().add_squares(input, to);
  };
  EXPECT_THROW(with([](LayerInput& i, SquareSums&) { i.columns = -1; }), ShapeError);
  EXPECT_THROW(with([](LayerInput& i, SquareSums&) { i.x.dtype = DType::none; }), DTypeError);
  EXPECT_THROW(with([](LayerInput& i, SquareSums&) { i.x.data = nullptr; }), LayoutError);
  EXPECT_THROW(with([](LayerInput&, SquareSums& to) { to.sums = nullptr; }), LayoutError);
  EXPECT_EQ(sums, std::vector<double>(3, 1.0));
  EXPECT_EQ(counts, std::vector<std::int64_t>(2, 0));
  with([](LayerInput&, SquareSums&) {});
  EXPECT_EQ(counts, (std::vector<std::int64_t>{4, 0}));
}

}  // namespace
}  // namespace bittersweet::test
