#include "adam.cuh"

#include "launch.cuh"
#include "nvtx_range.hpp"

namespace bittersweet::cuda {

extern template void adam_drawn(Stream&, const AdamPlan&);

std::size_t adam_workspace_bytes(std::span<const ScoreInputs> tensors) { return adam_bytes(tensors.size()); }

void step_adam(const Queue& queue, std::span<const ScoreInputs> tensors, std::span<const AdamOptions> options,
               const AdamArguments& call, void* workspace, std::size_t workspace_bytes) {
  const NvtxRange range("bittersweet::cuda::step_adam");
  const AdamPlan plan = make_adam(tensors, options, call, workspace, workspace_bytes);
  Stream stream(queue.device, queue.stream);
  step_adam(stream, plan);
}

}  // namespace bittersweet::cuda
