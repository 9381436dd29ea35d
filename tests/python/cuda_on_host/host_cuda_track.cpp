// The functions of cuda_track.hpp and cuda_calibration.hpp over host memory, by the CPU engine. Workspace is
// overwritten, as the contract allows.
#include <algorithm>
#include <cstring>

#include "bittersweet/calibration.hpp"
#include "bittersweet/cuda_calibration.hpp"
#include "bittersweet/cuda_track.hpp"
#include "bittersweet/track.hpp"
#include "stand_in.hpp"

namespace bittersweet::cuda {
namespace {

void spoil(std::span<const ScoreInputs> tensors, void* workspace, std::size_t bytes) {
  if (bytes < track_workspace_bytes(tensors)) throw ArgumentError("workspace: " + std::to_string(bytes) + " bytes");
  std::memset(workspace, 0xa5, bytes);
}

}  // namespace

std::size_t calibration_workspace_bytes(std::int64_t, std::int64_t columns) {
  return 8 * static_cast<std::size_t>(columns);
}

void add_squares(const Queue& queue, const LayerInput& input, const SquareSums& to, void* workspace,
                 std::size_t workspace_bytes) {
  check(queue);
  if (workspace_bytes < calibration_workspace_bytes(input.rows, input.columns))
    throw ArgumentError("workspace: " + std::to_string(workspace_bytes) + " bytes");
  std::memset(workspace, 0xa5, workspace_bytes);
  bittersweet::add_squares(input, to);
}

std::size_t track_workspace_bytes(std::span<const ScoreInputs> tensors) { return 256 + 8 * tensors.size(); }

void track_coherence(const Queue& queue, std::span<const ScoreInputs> tensors, std::span<const CoherenceMemory> memory,
                     double decay, void* workspace, std::size_t workspace_bytes) {
  check(queue);
  spoil(tensors, workspace, workspace_bytes);
  bittersweet::track_coherence(tensors, memory, decay);
}

void measure_retention(const Queue& queue, std::span<const ScoreInputs> tensors,
                       std::span<const CoherenceMemory> memory, double* found, void* workspace,
                       std::size_t workspace_bytes) {
  check(queue);
  spoil(tensors, workspace, workspace_bytes);
  std::ranges::copy(bittersweet::measure_retention(tensors, memory), found);
}

void track_sketch(const Queue& queue, std::span<const ScoreInputs> tensors, std::span<const SketchMemory> memory,
                  double decay) {
  check(queue);
  bittersweet::track_sketch(tensors, memory, decay);
}

void compare_snapshot(const Queue& queue, std::span<const ScoreInputs> tensors, std::span<const SnapshotMemory> memory,
                      void* workspace, std::size_t workspace_bytes) {
  check(queue);
  spoil(tensors, workspace, workspace_bytes);
  bittersweet::compare_snapshot(tensors, memory);
}

void accumulate_movement(const Queue& queue, std::span<const ScoreInputs> tensors,
                         std::span<const MovementMemory> memory) {
  check(queue);
  bittersweet::accumulate_movement(tensors, memory);
}

}  // namespace bittersweet::cuda
