// Sums of squares of a layer's inputs: the reference engine against the order that its contract states, added up here
// another way, and the CPU engine against the reference, bit by bit.
#include "bittersweet/calibration.hpp"

#include <limits>

#include "bittersweet/engine/cpu_calibration.hpp"
#include "bittersweet/engine/reference_calibration.hpp"
#include "bittersweet/error.hpp"
#include "support/engines.hpp"
#include "support/layer_inputs.hpp"

namespace bittersweet::test {
namespace {

class CalibrationContract : public testing::TestWithParam<EngineCase> {
 protected:
  void SetUp() override {
    if (!GetParam().runs_here()) GTEST_SKIP() << "instruction set '" << GetParam().isa << "' does not run here";
  }
  void expect_the_references(Layer& layer) const {
    EXPECT_EQ(layer.by(CpuCalibration(GetParam().isa, GetParam().threads)), layer.by(ReferenceCalibration{}));
  }
};
BITTERSWEET_FOR_EVERY(fast_engines, CalibrationContract);

TEST_P(CalibrationContract, IsTheReferences) {
  for (const DType type : {DType::f32, DType::bf16, DType::f16})
    for (const auto& [rows, columns] : std::vector<std::pair<std::int64_t, std::int64_t>>{
             {0, 5}, {5, 0}, {1, 1}, {15, 3}, {16, 8}, {17, 257}, {256, 31}, {257, 33}, {1000, 520}, {33000, 7}}) {
      Layer layer(rows, columns, type, static_cast<std::size_t>(rows % 3));
      expect_the_references(layer);
      layer.count(0.7, rows % 2 == 0 ? 1 : 5);
      expect_the_references(layer);
      layer.repeat(13);
      expect_the_references(layer);
    }
}

TEST_P(CalibrationContract, ValuesThatAreNotFiniteAreCountedWhereTheyCount) {
  for (const DType type : {DType::f32, DType::bf16, DType::f16}) {
    Layer layer(700, 300, type);
    layer.count(0.5, 7);
    const LayerInput input = layer.input();
    std::int64_t counting = 0;
    for (const std::int64_t at : {0, 299, 300 * 20 + 17, 300 * 20 + 18, 300 * 355, 300 * 699 + 255}) {
      layer.set(at, at % 2 == 0 ? not_a_number : -std::numeric_limits<float>::infinity());
      counting += input.counts(at / 300);
    }
    EXPECT_EQ(layer.by(ReferenceCalibration{}).counts[1], 3 + counting);
    EXPECT_EQ(layer.by(CpuCalibration(GetParam().isa, GetParam().threads)).counts,
              layer.by(ReferenceCalibration{}).counts);
    EXPECT_GT(counting, 0);
  }
}

// Powers of two that a sum loses or keeps by what it was added to first.
TEST(Calibration, RunsThenChunksThenBandsThenWhatWasThere) {
  const std::int64_t rows = 2 * SquareSums::band + 300;
  std::vector<float> x(static_cast<std::size_t>(rows));
  Generator random(1);
  for (float& one : x)
    one = std::ldexp(1.0f, static_cast<int>(random.below(60)) - 30) * static_cast<float>(random.normal());
  std::vector<double> sums(1, 0.125);
  std::vector<std::int64_t> counts(2, 0);
  add_squares({.x = view(x.data()), .rows = rows, .columns = 1}, {sums.data(), counts.data()});
  double total = 0.125, band = 0, chunk = 0, run = 0, plain = 0;
  for (std::int64_t row = 0; row < rows; ++row) {
    const double term = static_cast<double>(x[static_cast<std::size_t>(row)]) * x[static_cast<std::size_t>(row)];
    plain += term;
    run += term;
    const bool last = row + 1 == rows;
    if ((row + 1) % 16 == 0 || last) chunk += run, run = 0;
    if ((row + 1) % 256 == 0 || last) band += chunk, chunk = 0;
    if ((row + 1) % 16384 == 0 || last) total += band, band = 0;
  }
  EXPECT_EQ(sums[0], total);
  EXPECT_NE(sums[0], plain + 0.125);  // another order is another number
  EXPECT_NEAR(sums[0] / plain, 1.0, 1e-12);
  EXPECT_EQ(counts, (std::vector<std::int64_t>{rows, 0}));
}

TEST(Calibration, SquaresAreExact) {
  std::vector<float> x{tiniest, std::numeric_limits<float>::max(), 1.0f + 0x1p-23f};
  std::vector<double> sums(3, 0.0);
  std::vector<std::int64_t> counts(2, 0);
  add_squares({.x = view(x.data()), .rows = 1, .columns = 3}, {sums.data(), counts.data()});
  EXPECT_EQ(sums, (std::vector<double>{0x1p-298, 0x1.fffffcp255 + 0x1p208, 1.0 + 0x1p-22 + 0x1p-46}));
  EXPECT_EQ(counts, (std::vector<std::int64_t>{1, 0}));
}

TEST(Calibration, RefusesBeforeAnythingIsWritten) {
  std::vector<float> x(12, 2.0f);
  std::vector<double> sums(3, 1.0);
  std::vector<std::int64_t> counts(2, 0);
  const auto with = [&](auto change) {
    LayerInput input{.x = view(x.data()), .rows = 4, .columns = 3};
    SquareSums to{sums.data(), counts.data()};
    change(input, to);
    add_squares(input, to);
  };
  EXPECT_THROW(with([](LayerInput& i, SquareSums&) { i.rows = -1; }), ShapeError);
  EXPECT_THROW(with([](LayerInput& i, SquareSums&) { i.together = 0; }), ShapeError);
  EXPECT_THROW(with([](LayerInput& i, SquareSums&) { i.period = 0; }), ShapeError);
  EXPECT_THROW(with([](LayerInput& i, SquareSums&) { i.x.dtype = DType::none; }), DTypeError);
  EXPECT_THROW(with([](LayerInput& i, SquareSums&) { i.x.data = nullptr; }), LayoutError);
  EXPECT_THROW(with([](LayerInput& i, SquareSums&) { i.x.data = static_cast<char*>(i.x.data) + 2; }), LayoutError);
  EXPECT_THROW(with([](LayerInput&, SquareSums& to) { to.sums = nullptr; }), LayoutError);
  EXPECT_THROW(with([](LayerInput&, SquareSums& to) { to.counts = nullptr; }), LayoutError);
  EXPECT_EQ(sums, std::vector<double>(3, 1.0));
  EXPECT_EQ(counts, std::vector<std::int64_t>(2, 0));
  with([](LayerInput&, SquareSums&) {});
  EXPECT_EQ(sums, std::vector<double>(3, 17.0));
}

}  // namespace
}  // namespace bittersweet::test
