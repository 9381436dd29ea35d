// The functions of cuda_sharded.hpp over host memory, by the kernels of cuda/ on the SIMT emulator.
#include "bittersweet/cuda_sharded.hpp"

#include <mutex>

#include "cuda/ranks.cuh"
#include "stand_in.hpp"
#include "support/simt/emulated_ranks.hpp"

namespace bittersweet::cuda {

std::size_t sharded_workspace_bytes(std::span<const ScoreInputs> tensors) { return ranks_layout(tensors).bytes; }

ShardedPrune sharded_prune(const Queue& queue, const ShardMap& map, std::int64_t rank,
                           std::span<const ScoreInputs> tensors, std::span<const std::int64_t> whole,
                           std::span<const std::string> names, const Scorer& scorer, const Budget& budget,
                           const PruneOptions& options, const std::string& agreement, std::optional<MaskTable> masks,
                           void* workspace, std::size_t workspace_bytes, Workspace& host) {
  check(queue);
  const auto call = [](const std::function<void(simt::Launcher&)>& f) {
    static std::mutex one_at_a_time;  // ranks are threads in some tests, and there is one emulator
    const std::scoped_lock lock(one_at_a_time);
    simt::Launcher launcher(1000);
    f(launcher);
  };
  return ShardedPrune(std::make_unique<DeviceRounds<simt::Launcher>>(
      flow::ShardedArguments{map, rank, tensors, whole, names, scorer, budget, options, agreement, masks}, call,
      workspace, workspace_bytes, host));
}

}  // namespace bittersweet::cuda
