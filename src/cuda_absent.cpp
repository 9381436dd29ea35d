// Stands in for the CUDA engine in a build without it: every function says why, and how to get one that has it.
#include "bittersweet/cuda_calibration.hpp"
#include "bittersweet/cuda_sharded.hpp"
#include "bittersweet/cuda_sparse.hpp"
#include "bittersweet/cuda_track.hpp"
#include "bittersweet/error.hpp"

#ifndef BITTERSWEET_CUDA_ABSENT_REASON
#define BITTERSWEET_CUDA_ABSENT_REASON "it was configured without one"
#endif

namespace bittersweet::cuda {
namespace {

[[noreturn]] void refuse() {
  throw DeviceError(
      "device: CUDA memory, and this build of Bittersweet has no CUDA engine (" BITTERSWEET_CUDA_ABSENT_REASON
      "); memory of the host is accepted. Move the tensors there, or build with the CUDA Toolkit 12.4 or newer and "
      "-DBITTERSWEET_CUDA=on");
}

}  // namespace

std::size_t step_workspace_bytes(std::span<const ScoreInputs>, const Scorer&, const StepOptions&, bool) { refuse(); }

void step(const Queue&, std::span<const ScoreInputs>, const Scorer&, const StepBudget*, const StepOptions&, MaskTable,
          std::int64_t*, void*, std::size_t, StepReport*) {
  refuse();
}

void bracket(const Queue&, std::span<const ScoreInputs>, const Scorer&, const Bracket&, MaskTable, void*, std::size_t,
             BracketReport*) {
  refuse();
}

void tally(const Queue&, std::span<const ScoreInputs>, std::span<const std::int64_t>, const KeyRange&, void*,
           std::size_t, std::span<std::int64_t>) {
  refuse();
}

void count_runs(const Queue&, std::span<const ScoreInputs>, const Scorer&, std::size_t, float, const RunRange&,
                std::span<std::int64_t>) {
  refuse();
}

std::size_t sharded_workspace_bytes(std::span<const ScoreInputs>) { refuse(); }

ShardedPrune sharded_prune(const Queue&, const ShardMap&, std::int64_t, std::span<const ScoreInputs>,
                           std::span<const std::int64_t>, std::span<const std::string>, const Scorer&, const Budget&,
                           const PruneOptions&, const std::string&, std::optional<MaskTable>, void*, std::size_t,
                           Workspace&) {
  refuse();
}

void write_budget(const Queue&, StepBudget*, const StepBudget&) { refuse(); }

void write_scores(const Queue&, std::span<const ScoreInputs>, const Scorer&, std::span<float* const>) { refuse(); }

void apply_masks(const Queue&, std::span<const ScoreInputs>, std::span<const std::uint64_t* const>, std::uint32_t,
                 const std::uint32_t*) {
  refuse();
}

void count_live(const Queue&, std::span<const ScoreInputs>, std::span<const std::uint64_t* const>, std::int64_t*) {
  refuse();
}

void count_violations(const Queue&, std::span<const ScoreInputs>, std::span<const std::uint64_t* const>, std::uint32_t,
                      std::int64_t*) {
  refuse();
}

std::size_t adam_workspace_bytes(std::span<const ScoreInputs>) { refuse(); }

void step_adam(const Queue&, std::span<const ScoreInputs>, std::span<const AdamOptions>, const AdamArguments&, void*,
               std::size_t) {
  refuse();
}

void stochastic_round(const Queue&, std::span<const RoundedArray>) { refuse(); }

void count_strips(const Queue&, const DenseMatrix&, const std::uint64_t*, std::uint32_t*, std::uint64_t*,
                  std::int64_t*) {
  refuse();
}

void pack_strips(const Queue&, const DenseMatrix&, const std::uint32_t*, const std::uint64_t*, void*) { refuse(); }

void unpack_strips(const Queue&, const PackedMatrix&, std::int64_t, std::int64_t, void*) { refuse(); }

void multiply_strips(const Queue&, const PackedMatrix&, const StripProduct&) { refuse(); }

void count_delta(const Queue&, const DenseMatrix&, const std::uint64_t*, std::uint64_t*, std::int64_t*) { refuse(); }

void pack_delta(const Queue&, const DenseMatrix&, const std::uint64_t*, const std::uint64_t*, std::uint8_t*, void*) {
  refuse();
}

void unpack_delta(const Queue&, const DeltaMatrix&, std::int64_t, std::int64_t, void*) { refuse(); }

std::size_t delta_workspace_bytes(std::int64_t, std::int64_t, std::int64_t) { refuse(); }

void multiply_delta(const Queue&, const DeltaMatrix&, const StripProduct&, void*, std::size_t) { refuse(); }

std::size_t calibration_workspace_bytes(std::int64_t, std::int64_t) { refuse(); }

void add_squares(const Queue&, const LayerInput&, const SquareSums&, void*, std::size_t) { refuse(); }

std::size_t track_workspace_bytes(std::span<const ScoreInputs>) { refuse(); }

void track_coherence(const Queue&, std::span<const ScoreInputs>, std::span<const CoherenceMemory>, double, void*,
                     std::size_t) {
  refuse();
}

void measure_retention(const Queue&, std::span<const ScoreInputs>, std::span<const CoherenceMemory>, double*, void*,
                       std::size_t) {
  refuse();
}

void track_sketch(const Queue&, std::span<const ScoreInputs>, std::span<const SketchMemory>, double) { refuse(); }

void compare_snapshot(const Queue&, std::span<const ScoreInputs>, std::span<const SnapshotMemory>, void*, std::size_t) {
  refuse();
}

void accumulate_movement(const Queue&, std::span<const ScoreInputs>, std::span<const MovementMemory>) { refuse(); }

std::vector<DeviceVerdict> devices() { return {}; }

std::string describe() {
  return "absent: this build has no CUDA engine (" BITTERSWEET_CUDA_ABSENT_REASON "); tensors on the CPU only";
}

std::string self_test(int) { refuse(); }

}  // namespace bittersweet::cuda
