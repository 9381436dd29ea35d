#include "multiply_strips.cuh"

#include "launch.cuh"
#include "nvtx_range.hpp"

namespace bittersweet::cuda {

void multiply_strips(const Queue& queue, const PackedMatrix& packed, const StripProduct& product) {
  const NvtxRange range("bittersweet::cuda::multiply_strips");
  check_multiply(packed, product);
  Stream stream(queue.device, queue.stream);
  multiply_strips(stream, packed, product);
}

}  // namespace bittersweet::cuda
