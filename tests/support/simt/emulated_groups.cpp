#include "cuda/group_digits.cuh"
#include "cuda/group_step.cuh"
#include "support/simt/emulated.hpp"

namespace bittersweet::test {

cuda::StepReport EmulatedCuda::step_groups(std::span<const ScoreInputs> tensors, const Scorer& scorer,
                                           const cuda::StepBudget& budget, const cuda::StepOptions& options,
                                           MaskTable new_masks, std::vector<std::int64_t>* tensor_pruned) {
  const std::size_t bytes = cuda::make_group_layout(tensors.size()).bytes;
  std::vector<unsigned char> workspace(bytes, 0xa5);
  cuda::StepReport report;
  std::memset(static_cast<void*>(&report), 0xa5, sizeof report);
  if (tensor_pruned) tensor_pruned->assign(tensors.size(), -1);
  const cuda::GroupPlan plan =
      cuda::make_group_step(tensors, scorer, &budget, options, new_masks,
                            tensor_pruned ? tensor_pruned->data() : nullptr, workspace.data(), bytes, &report);
  simt::Launcher launcher(seed_++ * 1000, processors_);
  cuda::enqueue_groups(launcher, scorer, plan);
  return report;
}

}  // namespace bittersweet::test
