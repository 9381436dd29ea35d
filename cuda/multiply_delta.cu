#include "multiply_delta.cuh"

#include "launch.cuh"
#include "nvtx_range.hpp"

namespace bittersweet::cuda {

std::size_t delta_workspace_bytes(std::int64_t rows, std::int64_t columns, std::int64_t batch) {
  sparse::check_shape(rows, columns);
  return delta_bytes(rows, columns, batch);
}

void multiply_delta(const Queue& queue, const DeltaMatrix& packed, const StripProduct& product, void* workspace,
                    std::size_t workspace_bytes) {
  const NvtxRange range("bittersweet::cuda::multiply_delta");
  check_multiply(packed, product, workspace, workspace_bytes);
  Stream stream(queue.device, queue.stream);
  multiply_delta(stream, packed, product, static_cast<float*>(workspace));
}

}  // namespace bittersweet::cuda
