#include "cuda/track.cuh"
#include "support/simt/emulated.hpp"

namespace bittersweet::test {
namespace {

std::vector<unsigned char> workspace_of(std::span<const ScoreInputs> tensors) {
  return std::vector<unsigned char>(cuda::track_bytes(tensors), 0xa5);
}

}  // namespace

int EmulatedCuda::track_coherence(std::span<const ScoreInputs> tensors, std::span<const CoherenceMemory> memory,
                                  double decay) {
  std::vector<unsigned char> workspace = workspace_of(tensors);
  simt::Launcher launcher(seed_++ * 1000, processors_);
  cuda::track_coherence(launcher, cuda::make_coherence(tensors, memory, decay, workspace.data(), workspace.size()));
  return launcher.launches();
}

int EmulatedCuda::measure_retention(std::span<const ScoreInputs> tensors, std::span<const CoherenceMemory> memory,
                                    double* found) {
  std::vector<unsigned char> workspace = workspace_of(tensors);
  simt::Launcher launcher(seed_++ * 1000, processors_);
  cuda::measure_retention(launcher, cuda::make_retention(tensors, memory, found, workspace.data(), workspace.size()));
  return launcher.launches();
}

int EmulatedCuda::track_sketch(std::span<const ScoreInputs> tensors, std::span<const SketchMemory> memory,
                               double decay) {
  simt::Launcher launcher(seed_++ * 1000, processors_);
  cuda::track_sketch(launcher, cuda::make_sketch(tensors, memory, decay));
  return launcher.launches();
}

int EmulatedCuda::compare_snapshot(std::span<const ScoreInputs> tensors, std::span<const SnapshotMemory> memory) {
  std::vector<unsigned char> workspace = workspace_of(tensors);
  simt::Launcher launcher(seed_++ * 1000, processors_);
  cuda::compare_snapshot(launcher, cuda::make_snapshot(tensors, memory, workspace.data(), workspace.size()));
  return launcher.launches();
}

int EmulatedCuda::accumulate_movement(std::span<const ScoreInputs> tensors, std::span<const MovementMemory> memory) {
  simt::Launcher launcher(seed_++ * 1000, processors_);
  cuda::accumulate_movement(launcher, cuda::make_movement(tensors, memory));
  return launcher.launches();
}

}  // namespace bittersweet::test
