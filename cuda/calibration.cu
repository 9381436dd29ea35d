#include "calibration.cuh"

#include "launch.cuh"
#include "nvtx_range.hpp"

namespace bittersweet::cuda {

std::size_t calibration_workspace_bytes(std::int64_t rows, std::int64_t columns) { return square_bytes(rows, columns); }

void add_squares(const Queue& queue, const LayerInput& input, const SquareSums& to, void* workspace,
                 std::size_t workspace_bytes) {
  const NvtxRange range("bittersweet::cuda::add_squares");
  check_calibration(input, to, workspace, workspace_bytes);
  Stream stream(queue.device, queue.stream);
  add_squares(stream, input, to, workspace);
}

}  // namespace bittersweet::cuda
