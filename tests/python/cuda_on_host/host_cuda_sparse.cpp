// The functions of cuda_sparse.hpp and stochastic rounding over host memory, by the CPU engine.
#include <numeric>

#include "bittersweet/cuda_sparse.hpp"
#include "bittersweet/engine/reference_sparse.hpp"
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

}  // namespace bittersweet::cuda
