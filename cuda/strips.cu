#include "strips.cuh"

#include "launch.cuh"
#include "nvtx_range.hpp"

namespace bittersweet::cuda {

void count_strips(const Queue& queue, const DenseMatrix& dense, const std::uint64_t* keep, std::uint32_t* masks,
                  std::uint64_t* offsets, std::int64_t* lost) {
  const NvtxRange range("bittersweet::cuda::count_strips");
  const StripsPlan plan = make_count(dense, keep, masks, offsets, lost);
  Stream stream(queue.device, queue.stream);
  count_strips(stream, plan);
}

void pack_strips(const Queue& queue, const DenseMatrix& dense, const std::uint32_t* masks, const std::uint64_t* offsets,
                 void* values) {
  const NvtxRange range("bittersweet::cuda::pack_strips");
  const StripsPlan plan = make_pack(dense, masks, offsets, values);
  Stream stream(queue.device, queue.stream);
  move_strips<Move::pack>(stream, plan);
}

void unpack_strips(const Queue& queue, const PackedMatrix& packed, std::int64_t first_row, std::int64_t rows,
                   void* out) {
  const NvtxRange range("bittersweet::cuda::unpack_strips");
  const StripsPlan plan = make_unpack(packed, first_row, rows, out);
  Stream stream(queue.device, queue.stream);
  move_strips<Move::unpack>(stream, plan);
}

}  // namespace bittersweet::cuda
