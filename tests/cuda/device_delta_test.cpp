// Delta matrices on a device of this machine against the reference engine, bit for bit. Every test is skipped, with the
// reason, where there is no usable device.
#include "bittersweet/cuda_sparse.hpp"
#include "bittersweet/error.hpp"
#include "cuda/device_support.hpp"
#include "sparse/delta_matrices.hpp"

namespace bittersweet::test {
namespace {

// A matrix packed on the device, with a workspace for products of up to 16 columns.
struct DeviceDelta {
  Matrix matrix;
  Memory dense, offsets;
  std::int64_t steps;
  Memory codes, values, sums;

  DeviceDelta(const cuda::Queue& queue, const Matrix& given)
      : matrix(given),
        dense(given.bytes.data(), given.bytes.size()),
        offsets(8 * static_cast<std::size_t>(groups() + 2)),
        steps(count(queue)),
        codes(static_cast<std::size_t>(delta::codes(given.rows, given.columns, steps))),
        values(static_cast<std::size_t>(32 * steps) * size_of(given.type)),
        sums(cuda::delta_workspace_bytes(given.rows, given.columns, 16)) {
    cuda::pack_delta(queue, there(), nullptr, offsets.as<std::uint64_t>(), codes.as<std::uint8_t>(), values.as<void>());
    check(cudaDeviceSynchronize());
  }
  DeltaMatrix view() const {
    return {matrix.rows,
            matrix.columns,
            codes.as<std::uint8_t>(),
            {values.as<void>(), matrix.type},
            offsets.as<std::uint64_t>()};
  }

 private:
  std::int64_t groups() const { return delta::groups(matrix.rows, matrix.columns); }
  DenseMatrix there() const { return {{dense.as<void>(), matrix.type}, matrix.rows, matrix.columns}; }
  std::int64_t count(const cuda::Queue& queue) const {
    cuda::count_delta(queue, there(), nullptr, offsets.as<std::uint64_t>(), nullptr);
    check(cudaDeviceSynchronize());
    return static_cast<std::int64_t>(offsets.read<std::uint64_t>()[static_cast<std::size_t>(groups())]);
  }
};

class DeviceDeltaTest : public DeviceTest {
 protected:
  void multiply(const DeviceDelta& packed, const StripProduct& product) const {
    const std::size_t bytes = cuda::delta_workspace_bytes(packed.matrix.rows, packed.matrix.columns, 16);
    cuda::multiply_delta(queue_, packed.view(), product, packed.sums.as<void>(), bytes);
  }

  void compare(const Matrix& matrix) {
    SCOPED_TRACE(matrix.name);
    const sparse::PackedDelta expected = pack_by(ReferenceDelta{}, matrix.view());
    const DeviceDelta found(queue_, matrix);
    EXPECT_EQ(found.offsets.read<std::uint64_t>(), expected.offsets);
    EXPECT_EQ(found.codes.read<std::uint8_t>(), expected.codes);
    EXPECT_EQ(found.values.read<std::byte>(), expected.values);
    const Memory out(matrix.bytes.size());
    cuda::unpack_delta(queue_, found.view(), 0, matrix.rows, out.as<void>());
    check(cudaDeviceSynchronize());
    EXPECT_EQ(out.read<std::byte>(), matrix.bytes);
    for (const std::int64_t batch : {1, 2, 3, 8, 16, 17}) {
      const Vectors x = random_vectors(matrix.type, batch * matrix.columns, 17);
      const Vectors bias = random_vectors(DType::f32, matrix.rows, 18);
      const Memory inputs(x.bytes.data(), x.bytes.size()), added(bias.bytes.data(), bias.bytes.size());
      const Memory outputs(static_cast<std::size_t>(batch * matrix.rows) * size_of(matrix.type));
      multiply(found, {.x = {inputs.as<void>(), matrix.type},
                       .y = {outputs.as<void>(), matrix.type},
                       .batch = batch,
                       .bias = {added.as<void>(), DType::f32}});
      check(cudaDeviceSynchronize());
      EXPECT_EQ(outputs.read<std::byte>(), multiply_by(ReferenceDelta{}, expected, x, batch, matrix.type, &bias))
          << "batch " << batch;
    }
  }
};

TEST_F(DeviceDeltaTest, PacksUnpacksAndMultipliesAsTheReference) {
  for (const DType type : types) {
    std::uint64_t seed = 1;
    for (const auto& [rows, columns] :
         {std::pair<std::int64_t, std::int64_t>{1, 1}, {31, 254}, {33, 511}, {257, 256}, {3, 2000}, {700, 2210}})
      for (const double sparsity : {0.0, 0.8, 0.97, 1.0}) compare(random_matrix(type, rows, columns, sparsity, seed++));
    compare(nasty_matrix(type, 270, 600));
  }
  compare(random_matrix(DType::bf16, 17000, 5, 0.5, 3));
}

TEST_F(DeviceDeltaTest, CapturedOnceReplayedOnOtherInputs) {
  const DeviceDelta packed(queue_, random_matrix(DType::bf16, 300, 700, 0.9, 2));
  const Memory x(2 * 700), y(4 * 300);
  const auto enqueue = [&] { multiply(packed, {.x = {x.as<void>(), DType::bf16}, .y = {y.as<void>(), DType::f32}}); };
  enqueue();
  check(cudaStreamSynchronize(stream()));
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t captured = nullptr;
  check(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeGlobal));
  enqueue();
  check(cudaStreamEndCapture(stream(), &graph));
  check(cudaGraphInstantiate(&captured, graph, 0));
  const sparse::PackedDelta here = pack_by(ReferenceDelta{}, packed.matrix.view());
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    const Vectors given = random_vectors(DType::bf16, 700, seed);
    check(cudaMemcpy(x.as<void>(), given.bytes.data(), given.bytes.size(), cudaMemcpyHostToDevice));
    check(cudaGraphLaunch(captured, stream()));
    check(cudaStreamSynchronize(stream()));
    EXPECT_EQ(y.read<std::byte>(), multiply_by(ReferenceDelta{}, here, given, 1, DType::f32));
  }
  check(cudaGraphExecDestroy(captured));
  check(cudaGraphDestroy(graph));
}

TEST_F(DeviceDeltaTest, ASmallWorkspaceIsRefused) {
  const DeviceDelta packed(queue_, random_matrix(DType::f32, 40, 300, 0.9, 2));
  const Memory x(4 * 300), y(4 * 40);
  EXPECT_THROW(
      cuda::multiply_delta(queue_, packed.view(), {.x = {x.as<void>(), DType::f32}, .y = {y.as<void>(), DType::f32}},
                           packed.sums.as<void>(), cuda::delta_workspace_bytes(40, 300, 1) - 4),
      ArgumentError);
}

}  // namespace
}  // namespace bittersweet::test
