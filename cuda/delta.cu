#include "delta.cuh"

#include "launch.cuh"
#include "nvtx_range.hpp"

namespace bittersweet::cuda {

void count_delta(const Queue& queue, const DenseMatrix& dense, const std::uint64_t* keep, std::uint64_t* offsets,
                 std::int64_t* lost) {
  const NvtxRange range("bittersweet::cuda::count_delta");
  const DeltaPlan plan = make_delta_count(dense, keep, offsets, lost);
  Stream stream(queue.device, queue.stream);
  count_delta(stream, plan);
}

void pack_delta(const Queue& queue, const DenseMatrix& dense, const std::uint64_t* keep, const std::uint64_t* offsets,
                std::uint8_t* codes, void* values) {
  const NvtxRange range("bittersweet::cuda::pack_delta");
  const DeltaPlan plan = make_delta_pack(dense, keep, offsets, codes, values);
  Stream stream(queue.device, queue.stream);
  pack_delta(stream, plan);
}

void unpack_delta(const Queue& queue, const DeltaMatrix& packed, std::int64_t first_row, std::int64_t rows, void* out) {
  const NvtxRange range("bittersweet::cuda::unpack_delta");
  const DeltaPlan plan = make_delta_unpack(packed, first_row, rows, out);
  Stream stream(queue.device, queue.stream);
  unpack_delta(stream, plan);
}

}  // namespace bittersweet::cuda
