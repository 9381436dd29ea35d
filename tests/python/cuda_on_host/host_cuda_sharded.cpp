// The functions of cuda_sharded.hpp over host memory, by the CPU engine. Workspace is overwritten, as the contract
// allows.
#include "bittersweet/cuda_sharded.hpp"

#include <cstring>

#include "stand_in.hpp"

namespace bittersweet::cuda {

std::size_t sharded_workspace_bytes(std::span<const ScoreInputs> tensors) { return 256 + 64 * tensors.size(); }

ShardedPrune sharded_prune(const Queue& queue, const ShardMap& map, std::int64_t rank,
                           std::span<const ScoreInputs> tensors, std::span<const std::int64_t> whole,
                           std::span<const std::string> names, const Scorer& scorer, const Budget& budget,
                           const PruneOptions& options, const std::string& agreement, std::optional<MaskTable> masks,
                           void* workspace, std::size_t workspace_bytes, Workspace& host) {
  check(queue);
  if (workspace_bytes < sharded_workspace_bytes(tensors))
    throw ArgumentError("workspace: " + std::to_string(workspace_bytes) + " bytes");
  std::memset(workspace, 0xa5, workspace_bytes);
  return ShardedPrune(map, rank, tensors, whole, names, scorer, budget, options, agreement, masks, host);
}

}  // namespace bittersweet::cuda
