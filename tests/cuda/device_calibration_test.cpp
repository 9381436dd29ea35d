// Sums of squares on a device of this machine against the reference engine, bit for bit. Every test is skipped, with
// the reason, where there is no usable device.
#include "bittersweet/cuda_calibration.hpp"
#include "bittersweet/engine/reference_calibration.hpp"
#include "cuda/device_support.hpp"
#include "support/layer_inputs.hpp"

namespace bittersweet::test {
namespace {

// Adds on the device what lies on the host.
struct OnDevice {
  const cuda::Queue& queue;

  void add_squares(LayerInput input, const SquareSums& to) const {
    const auto copy = [](const void* from, std::int64_t count, std::size_t size) {
      return Memory(from, static_cast<std::size_t>(count) * size);
    };
    const Memory x = copy(input.x.data, input.rows * input.columns, size_of(input.x.dtype));
    const Memory sums = copy(to.sums, input.columns, sizeof(double)), counts = copy(to.counts, 2, sizeof(std::int64_t));
    const Memory counted =
        copy(input.counted, input.counted ? (input.rows + input.together - 1) / input.together : 0, 1);
    const Memory times = copy(input.times, input.times ? input.period : 0, sizeof(double));
    const std::size_t bytes = cuda::calibration_workspace_bytes(input.rows, input.columns);
    const Memory room(bytes);
    input.x.data = x.as<void>();
    if (input.counted) input.counted = counted.as<const std::uint8_t>();
    if (input.times) input.times = times.as<const double>();
    cuda::add_squares(queue, input, {sums.as<double>(), counts.as<std::int64_t>()}, room.as<void>(), bytes);
    check(cudaDeviceSynchronize());
    std::ranges::copy(sums.read<double>(), to.sums);
    std::ranges::copy(counts.read<std::int64_t>(), to.counts);
  }
};

class DeviceCalibration : public DeviceTest {
 protected:
  void compare(Layer& layer) {
    const Calibrated found = layer.by(OnDevice{queue_}), expected = layer.by(ReferenceCalibration{});
    EXPECT_EQ(found.counts, expected.counts);
    EXPECT_EQ(found.sums, expected.sums);
  }
};

TEST_F(DeviceCalibration, EveryTypeAndSize) {
  for (const DType type : {DType::f32, DType::bf16, DType::f16})
    for (const auto& [rows, columns] : std::vector<std::pair<std::int64_t, std::int64_t>>{
             {1, 1}, {17, 8}, {256, 4096}, {2048, 768}, {5000, 1023}, {100003, 3}, {40000, 264}}) {
      SCOPED_TRACE(std::to_string(rows) + " x " + std::to_string(columns) + " of " + name_of(type));
      Layer layer(rows, columns, type);
      compare(layer);
      layer.count(0.7, 5);
      compare(layer);
      layer.repeat(49);
      compare(layer);
    }
}

TEST_F(DeviceCalibration, ValuesThatAreNotFinite) {
  Layer layer(3000, 520, DType::bf16);
  for (const std::int64_t at : {7, 520 * 1500 + 519, 520 * 2999}) layer.set(at, not_a_number);
  EXPECT_EQ(layer.by(OnDevice{queue_}).counts, layer.by(ReferenceCalibration{}).counts);
}

}  // namespace
}  // namespace bittersweet::test
