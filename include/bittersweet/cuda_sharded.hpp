// Prunings that several ranks make together (sharded.hpp), of tensors on a CUDA device. A build without CUDA links
// cuda_absent.cpp, where both functions throw DeviceError with the reason.
#pragma once

#include "bittersweet/cuda.hpp"
#include "bittersweet/sharded.hpp"

namespace bittersweet::cuda {

// Device memory that sharded_prune() needs for what a rank holds.
std::size_t sharded_workspace_bytes(std::span<const ScoreInputs> tensors);

// What the constructor of ShardedPrune makes, of tensors and masks in memory of queue.device: the same vectors, so that
// ranks may be of both kinds, and the same threshold, counts and mask bits (but for scorer bitter8, see cuda.hpp).
// `workspace` is memory of the device, and `host` keeps candidates. next() enqueues its work on the queue's stream and
// waits for what it found; it cannot be captured in a CUDA graph. Up to about 2^33 elements on a rank.
ShardedPrune sharded_prune(const Queue& queue, const ShardMap& map, std::int64_t rank,
                           std::span<const ScoreInputs> tensors, std::span<const std::int64_t> whole,
                           std::span<const std::string> names, const Scorer& scorer, const Budget& budget,
                           const PruneOptions& options, const std::string& agreement, std::optional<MaskTable> masks,
                           void* workspace, std::size_t workspace_bytes, Workspace& host);

}  // namespace bittersweet::cuda
