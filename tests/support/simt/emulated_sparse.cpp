#include "cuda/calibration.cuh"
#include "cuda/multiply_delta.cuh"
#include "cuda/multiply_strips.cuh"
#include "cuda/rounding.cuh"
#include "cuda/strips.cuh"
#include "support/simt/emulated.hpp"

namespace bittersweet::test {

void EmulatedCuda::count_strips(const DenseMatrix& dense, const std::uint64_t* keep, std::uint32_t* masks,
                                std::uint64_t* offsets, std::int64_t* lost) {
  simt::Launcher launcher(seed_++ * 1000, processors_);
  cuda::count_strips(launcher, cuda::make_count(dense, keep, masks, offsets, lost));
}

void EmulatedCuda::pack_strips(const DenseMatrix& dense, const std::uint32_t* masks, const std::uint64_t* offsets,
                               void* values) {
  simt::Launcher launcher(seed_++ * 1000, processors_);
  cuda::move_strips<cuda::Move::pack>(launcher, cuda::make_pack(dense, masks, offsets, values));
}

void EmulatedCuda::unpack_strips(const PackedMatrix& packed, std::int64_t first_row, std::int64_t rows, void* out) {
  simt::Launcher launcher(seed_++ * 1000, processors_);
  cuda::move_strips<cuda::Move::unpack>(launcher, cuda::make_unpack(packed, first_row, rows, out));
}

int EmulatedCuda::multiply_strips(const PackedMatrix& packed, const StripProduct& product) {
  cuda::check_multiply(packed, product);
  simt::Launcher launcher(seed_++ * 1000, processors_);
  cuda::multiply_strips(launcher, packed, product);
  return launcher.launches();
}

void EmulatedCuda::count_delta(const DenseMatrix& dense, const std::uint64_t* keep, std::uint64_t* offsets,
                               std::int64_t* lost) {
  simt::Launcher launcher(seed_++ * 1000, processors_);
  cuda::count_delta(launcher, cuda::make_delta_count(dense, keep, offsets, lost));
}

void EmulatedCuda::pack_delta(const DenseMatrix& dense, const std::uint64_t* keep, const std::uint64_t* offsets,
                              std::uint8_t* codes, void* values) {
  simt::Launcher launcher(seed_++ * 1000, processors_);
  cuda::pack_delta(launcher, cuda::make_delta_pack(dense, keep, offsets, codes, values));
}

void EmulatedCuda::unpack_delta(const DeltaMatrix& packed, std::int64_t first_row, std::int64_t rows, void* out) {
  simt::Launcher launcher(seed_++ * 1000, processors_);
  cuda::unpack_delta(launcher, cuda::make_delta_unpack(packed, first_row, rows, out));
}

int EmulatedCuda::multiply_delta(const DeltaMatrix& packed, const StripProduct& product, std::size_t less) {
  const std::size_t bytes = cuda::delta_bytes(packed.rows, packed.columns, product.batch) - less;
  std::vector<float> sums(bytes / sizeof(float));
  simt::fill_with_rubbish(sums.data(), bytes);
  cuda::check_multiply(packed, product, sums.data(), bytes);
  simt::Launcher launcher(seed_++ * 1000, processors_);
  cuda::multiply_delta(launcher, packed, product, sums.data());
  return launcher.launches();
}

void EmulatedCuda::stochastic_round(std::span<const RoundedArray> arrays) {
  const std::vector<cuda::RoundedRow> rows = cuda::rounded_rows(arrays);
  simt::Launcher launcher(seed_++ * 1000, processors_);
  cuda::stochastic_round(launcher, std::span<const cuda::RoundedRow>(rows));
}

int EmulatedCuda::add_squares(const LayerInput& input, const SquareSums& to) {
  const std::size_t bytes = cuda::square_bytes(input.rows, input.columns);
  std::vector<double> workspace(bytes / sizeof(double), -1e300);
  cuda::check_calibration(input, to, workspace.data(), bytes);
  simt::Launcher launcher(seed_++ * 1000, processors_);
  cuda::add_squares(launcher, input, to, workspace.data());
  return launcher.launches();
}

}  // namespace bittersweet::test
