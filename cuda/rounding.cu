#include "rounding.cuh"

#include "launch.cuh"
#include "nvtx_range.hpp"

namespace bittersweet::cuda {

void stochastic_round(const Queue& queue, std::span<const RoundedArray> arrays) {
  const NvtxRange range("bittersweet::cuda::stochastic_round");
  const std::vector<RoundedRow> rows = rounded_rows(arrays);
  Stream stream(queue.device, queue.stream);
  stochastic_round(stream, std::span<const RoundedRow>(rows));
}

}  // namespace bittersweet::cuda
