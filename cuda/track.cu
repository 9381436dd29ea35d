#include "track.cuh"

#include "launch.cuh"
#include "nvtx_range.hpp"

namespace bittersweet::cuda {

std::size_t track_workspace_bytes(std::span<const ScoreInputs> tensors) { return track_bytes(tensors); }

void track_coherence(const Queue& queue, std::span<const ScoreInputs> tensors, std::span<const CoherenceMemory> memory,
                     double decay, void* workspace, std::size_t workspace_bytes) {
  const NvtxRange range("bittersweet::cuda::track_coherence");
  const TrackPlan plan = make_coherence(tensors, memory, decay, workspace, workspace_bytes);
  Stream stream(queue.device, queue.stream);
  track_coherence(stream, plan);
}

void measure_retention(const Queue& queue, std::span<const ScoreInputs> tensors,
                       std::span<const CoherenceMemory> memory, double* found, void* workspace,
                       std::size_t workspace_bytes) {
  const NvtxRange range("bittersweet::cuda::measure_retention");
  const TrackPlan plan = make_retention(tensors, memory, found, workspace, workspace_bytes);
  Stream stream(queue.device, queue.stream);
  measure_retention(stream, plan);
}

void track_sketch(const Queue& queue, std::span<const ScoreInputs> tensors, std::span<const SketchMemory> memory,
                  double decay) {
  const NvtxRange range("bittersweet::cuda::track_sketch");
  const TrackPlan plan = make_sketch(tensors, memory, decay);
  Stream stream(queue.device, queue.stream);
  track_sketch(stream, plan);
}

void compare_snapshot(const Queue& queue, std::span<const ScoreInputs> tensors, std::span<const SnapshotMemory> memory,
                      void* workspace, std::size_t workspace_bytes) {
  const NvtxRange range("bittersweet::cuda::compare_snapshot");
  const TrackPlan plan = make_snapshot(tensors, memory, workspace, workspace_bytes);
  Stream stream(queue.device, queue.stream);
  compare_snapshot(stream, plan);
}

void accumulate_movement(const Queue& queue, std::span<const ScoreInputs> tensors,
                         std::span<const MovementMemory> memory) {
  const NvtxRange range("bittersweet::cuda::accumulate_movement");
  const TrackPlan plan = make_movement(tensors, memory);
  Stream stream(queue.device, queue.stream);
  accumulate_movement(stream, plan);
}

}  // namespace bittersweet::cuda
