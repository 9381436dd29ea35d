// The functions of cuda_sparse.hpp and stochastic rounding over host memory, by the CPU engine.
#include <algorithm>
#include <numeric>

#include "bittersweet/cuda_sparse.hpp"
#include "bittersweet/engine/reference_delta.hpp"
#include "bittersweet/engine/reference_sparse.hpp"
#include "bittersweet/error.hpp"
#include "bittersweet/rounding.hpp"
#include "bittersweet/sparse.hpp"
#include "stand_in.hpp"

namespace bittersweet::cuda {

void stochastic_round(const Queue& queue, std::span<const RoundedArray> arrays) {
  check(queue);
  bittersweet::stochastic_round(arrays);
}

void count_strips(const Queue& queue, const DenseMatrix& dense, const std::uint64_t* keep, std::uint32_t* masks,
                  std::uint64_t* offsets, std::int64_t* lost) {
  check(queue);
  const auto count = static_cast<std::size_t>(strips::count(dense.rows));
  offsets[0] = 0;
  const std::int64_t dropped = ReferenceSparse().count_strips(dense, keep, masks, {offsets + 1, count});
  std::partial_sum(offsets, offsets + count + 1, offsets);
  if (lost != nullptr) *lost = dropped;
}

void pack_strips(const Queue& queue, const DenseMatrix& dense, const std::uint32_t* masks, const std::uint64_t* offsets,
                 void* values) {
  check(queue);
  sparse::pack(dense, masks, offsets, values);
}

void unpack_strips(const Queue& queue, const PackedMatrix& packed, std::int64_t first_row, std::int64_t rows,
                   void* out) {
  check(queue);
  sparse::unpack(packed, first_row, rows, out);
}

void multiply_strips(const Queue& queue, const PackedMatrix& packed, const StripProduct& product) {
  check(queue);
  Workspace workspace;
  sparse::multiply(packed, product, workspace);
}

void count_delta(const Queue& queue, const DenseMatrix& dense, const std::uint64_t* keep, std::uint64_t* offsets,
                 std::int64_t* lost) {
  check(queue);
  const auto groups = static_cast<std::size_t>(delta::groups(dense.rows, dense.columns));
  offsets[0] = 0;
  const DeltaCount found = ReferenceDelta().count_delta(dense, keep, {offsets + 1, groups});
  std::partial_sum(offsets, offsets + groups + 1, offsets);
  offsets[groups + 1] = static_cast<std::uint64_t>(found.live);
  if (lost != nullptr) *lost = found.lost;
}

void pack_delta(const Queue& queue, const DenseMatrix& dense, const std::uint64_t* keep, const std::uint64_t* offsets,
                std::uint8_t* codes, void* values) {
  check(queue);
  sparse::pack_delta(dense, keep, offsets, codes, values);
}

void unpack_delta(const Queue& queue, const DeltaMatrix& packed, std::int64_t first_row, std::int64_t rows, void* out) {
  check(queue);
  sparse::unpack(packed, first_row, rows, out);
}

// A float for each number of the batch and of the rows, so that the memory that is asked for can be seen to be there.
std::size_t delta_workspace_bytes(std::int64_t rows, std::int64_t, std::int64_t batch) {
  return static_cast<std::size_t>(rows * batch) * sizeof(float);
}

void multiply_delta(const Queue& queue, const DeltaMatrix& packed, const StripProduct& product, void* workspace,
                    std::size_t bytes) {
  check(queue);
  if (bytes < delta_workspace_bytes(packed.rows, 0, product.batch)) throw ArgumentError("workspace_bytes: too few");
  std::fill_n(static_cast<char*>(workspace), bytes, '\x7f');
  Workspace own;
  sparse::multiply(packed, product, own);
}

}  // namespace bittersweet::cuda
