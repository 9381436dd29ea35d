// Packed matrices and stochastic rounding on a device of this machine against the reference engines, bit for bit. Every
// test is skipped, with the reason, where there is no usable device.
#include <numeric>

#include "bittersweet/cuda_sparse.hpp"
#include "bittersweet/engine/reference_rounding.hpp"
#include "bittersweet/engine/reference_sparse.hpp"
#include "bittersweet/sparse.hpp"
#include "cuda/device_support.hpp"
#include "sparse/matrices.hpp"

namespace bittersweet::test {
namespace {

// A matrix packed on the device.
struct DevicePacked {
  Matrix matrix;
  Memory dense, masks, offsets, values;

  DevicePacked(const cuda::Queue& queue, const Matrix& given)
      : matrix(given),
        dense(given.bytes.data(), given.bytes.size()),
        masks(4 * static_cast<std::size_t>(strips::words(given.rows, given.columns))),
        offsets(8 * static_cast<std::size_t>(strips::count(given.rows) + 1)),
        values(given.bytes.size() + strips::slack * size_of(given.type)) {
    const DenseMatrix there{{dense.as<void>(), matrix.type}, matrix.rows, matrix.columns};
    cuda::count_strips(queue, there, nullptr, masks.as<std::uint32_t>(), offsets.as<std::uint64_t>(), nullptr);
    cuda::pack_strips(queue, there, masks.as<std::uint32_t>(), offsets.as<std::uint64_t>(), values.as<void>());
    check(cudaDeviceSynchronize());
  }
  PackedMatrix view() const {
    return {matrix.rows,
            matrix.columns,
            masks.as<std::uint32_t>(),
            {values.as<void>(), matrix.type},
            offsets.as<std::uint64_t>()};
  }
};

class DeviceStripsTest : public DeviceTest {
 protected:
  void compare(const Matrix& matrix) {
    SCOPED_TRACE(matrix.name);
    const sparse::Packed expected = sparse::pack(matrix.view());
    const DevicePacked found(queue_, matrix);
    EXPECT_EQ(found.masks.read<std::uint32_t>(), expected.masks);
    EXPECT_EQ(found.offsets.read<std::uint64_t>(), expected.offsets);
    const auto bytes =
        static_cast<std::ptrdiff_t>(static_cast<std::size_t>(expected.offsets.back()) * size_of(matrix.type));
    const std::vector<std::byte> values = found.values.read<std::byte>();
    EXPECT_TRUE(std::equal(values.begin(), values.begin() + bytes, expected.values.begin()));
    const Memory out(matrix.bytes.size());
    cuda::unpack_strips(queue_, found.view(), 0, matrix.rows, out.as<void>());
    check(cudaDeviceSynchronize());
    EXPECT_EQ(out.read<std::byte>(), matrix.bytes);
    for (const std::int64_t batch : {1, 2, 3, 8, 16, 17}) {
      const Vectors x = random_vectors(matrix.type, batch * matrix.columns, 17);
      const Vectors bias = random_vectors(DType::f32, matrix.rows, 18);
      std::vector<std::byte> y(static_cast<std::size_t>(batch * matrix.rows) * size_of(matrix.type));
      Workspace workspace;
      ReferenceSparse().multiply_strips(
          expected.view(), {.x = x.view(), .y = {y.data(), matrix.type}, .batch = batch, .bias = bias.view()},
          workspace);
      const Memory inputs(x.bytes.data(), x.bytes.size()), outputs(y.size());
      const Memory added(bias.bytes.data(), bias.bytes.size());
      cuda::multiply_strips(queue_, found.view(),
                            {.x = {inputs.as<void>(), matrix.type},
                             .y = {outputs.as<void>(), matrix.type},
                             .batch = batch,
                             .bias = {added.as<void>(), DType::f32}});
      check(cudaDeviceSynchronize());
      EXPECT_EQ(outputs.read<std::byte>(), y) << "batch " << batch;
    }
  }
};

TEST_F(DeviceStripsTest, PacksUnpacksAndMultipliesAsTheReference) {
  for (const DType type : types) {
    std::uint64_t seed = 1;
    for (const auto& [rows, columns] :
         {std::pair<std::int64_t, std::int64_t>{1, 1}, {15, 31}, {17, 65}, {33, 512}, {3, 1025}, {700, 2210}})
      for (const double sparsity : {0.0, 0.5, 0.95, 1.0}) compare(random_matrix(type, rows, columns, sparsity, seed++));
    compare(nasty_matrix(type, 50, 141));
  }
  compare(random_matrix(DType::bf16, 16 * 1100 + 3, 5, 0.5, 3));
}

TEST_F(DeviceStripsTest, CapturedOnceReplayedOnOtherInputs) {
  const DevicePacked packed(queue_, random_matrix(DType::bf16, 100, 700, 0.5, 2));
  const Memory x(2 * 700), y(4 * 100);
  const auto enqueue = [&] {
    cuda::multiply_strips(queue_, packed.view(), {.x = {x.as<void>(), DType::bf16}, .y = {y.as<void>(), DType::f32}});
  };
  enqueue();
  check(cudaStreamSynchronize(stream()));
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t captured = nullptr;
  check(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeGlobal));
  enqueue();
  check(cudaStreamEndCapture(stream(), &graph));
  check(cudaGraphInstantiate(&captured, graph, 0));
  const sparse::Packed here = sparse::pack(packed.matrix.view());
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    const Vectors given = random_vectors(DType::bf16, 700, seed);
    check(cudaMemcpy(x.as<void>(), given.bytes.data(), given.bytes.size(), cudaMemcpyHostToDevice));
    check(cudaGraphLaunch(captured, stream()));
    check(cudaStreamSynchronize(stream()));
    std::vector<float> expected(100);
    Workspace workspace;
    ReferenceSparse().multiply_strips(here.view(), {.x = given.view(), .y = view(expected.data())}, workspace);
    EXPECT_EQ(y.read<float>(), expected);
  }
  check(cudaGraphExecDestroy(captured));
  check(cudaGraphDestroy(graph));
}

TEST_F(DeviceStripsTest, RoundsAsTheReference) {
  Generator random(3);
  const Values values = generate(100003, [&](std::int64_t) { return random.any_float(); });
  const RoundingKey key{~0ull, 4000000000u, 77};
  std::vector<std::uint16_t> expected(values.size());
  ReferenceRounder().stochastic_round(
      std::vector<RoundedArray>{{values.data(), expected.data(), std::ssize(values), key}});
  for (const std::size_t shift : {0u, 4u}) {
    const Memory from(values.data(), 4 * values.size(), shift), to(nullptr, 2 * values.size(), shift);
    cuda::stochastic_round(
        queue_, std::vector<RoundedArray>{{from.as<float>(), to.as<std::uint16_t>(), std::ssize(values), key}});
    check(cudaDeviceSynchronize());
    EXPECT_EQ(to.read<std::uint16_t>(), expected);
  }
}

}  // namespace
}  // namespace bittersweet::test
