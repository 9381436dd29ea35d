// The functions of cuda.hpp over host memory, by the kernels of cuda/ on the SIMT emulator: the CUDA engine itself
// under the Python package.
#include <algorithm>

#include "bittersweet/flow.hpp"
#include "stand_in.hpp"
#include "support/simt/emulated.hpp"

namespace bittersweet::cuda {

std::size_t step_workspace_bytes(std::span<const ScoreInputs> tensors, const Scorer& scorer, const StepOptions& options,
                                 bool) {
  make_view(tensors, scorer);
  flow::check(tensors, prune_options(options));
  return 64;  // the emulator brings its own
}

void step(const Queue& queue, std::span<const ScoreInputs> tensors, const Scorer& scorer, const StepBudget* budget,
          const StepOptions& options, MaskTable new_masks, std::int64_t* tensor_pruned, void*, std::size_t,
          StepReport* report) {
  check(queue);
  std::vector<std::int64_t> pruned;
  *report = test::EmulatedCuda{}.step(tensors, scorer, *budget, options, new_masks, &pruned);
  if (tensor_pruned && !new_masks.empty()) std::copy(pruned.begin(), pruned.end(), tensor_pruned);
}

void write_scores(const Queue& queue, std::span<const ScoreInputs> tensors, const Scorer& scorer,
                  std::span<float* const> scores) {
  check(queue);
  test::EmulatedCuda{}.write_scores(tensors, scorer, scores);
}

void apply_masks(const Queue& queue, std::span<const ScoreInputs> tensors, std::span<const std::uint64_t* const> masks,
                 std::uint32_t which, const std::uint32_t* gate) {
  check(queue);
  test::EmulatedCuda{}.apply_masks(tensors, masks, which, gate);
}

void count_live(const Queue& queue, std::span<const ScoreInputs> tensors, std::span<const std::uint64_t* const> masks,
                std::int64_t* live) {
  check(queue);
  std::ranges::copy(test::EmulatedCuda{}.count_live(tensors, masks), live);
}

void count_violations(const Queue& queue, std::span<const ScoreInputs> tensors,
                      std::span<const std::uint64_t* const> masks, std::uint32_t which, std::int64_t* found) {
  check(queue);
  std::ranges::copy(test::EmulatedCuda{}.count_violations(tensors, masks, which), found);
}

std::size_t adam_workspace_bytes(std::span<const ScoreInputs>) { return 64; }

void step_adam(const Queue& queue, std::span<const ScoreInputs> tensors, std::span<const AdamOptions> options,
               const AdamArguments& call, void*, std::size_t) {
  check(queue);
  test::EmulatedCuda{}.step_adam(tensors, options, call);
}

void stochastic_round(const Queue& queue, std::span<const RoundedArray> arrays) {
  check(queue);
  test::EmulatedCuda{}.stochastic_round(arrays);
}

void count_strips(const Queue& queue, const DenseMatrix& dense, const std::uint64_t* keep, std::uint32_t* masks,
                  std::uint64_t* offsets, std::int64_t* lost) {
  check(queue);
  test::EmulatedCuda{}.count_strips(dense, keep, masks, offsets, lost);
}

void pack_strips(const Queue& queue, const DenseMatrix& dense, const std::uint32_t* masks, const std::uint64_t* offsets,
                 void* values) {
  check(queue);
  test::EmulatedCuda{}.pack_strips(dense, masks, offsets, values);
}

void unpack_strips(const Queue& queue, const PackedMatrix& packed, std::int64_t first_row, std::int64_t rows,
                   void* out) {
  check(queue);
  test::EmulatedCuda{}.unpack_strips(packed, first_row, rows, out);
}

void multiply_strips(const Queue& queue, const PackedMatrix& packed, const StripProduct& product) {
  check(queue);
  test::EmulatedCuda{}.multiply_strips(packed, product);
}

void count_delta(const Queue& queue, const DenseMatrix& dense, const std::uint64_t* keep, std::uint64_t* offsets,
                 std::int64_t* lost) {
  check(queue);
  test::EmulatedCuda{}.count_delta(dense, keep, offsets, lost);
}

void pack_delta(const Queue& queue, const DenseMatrix& dense, const std::uint64_t* keep, const std::uint64_t* offsets,
                std::uint8_t* codes, void* values) {
  check(queue);
  test::EmulatedCuda{}.pack_delta(dense, keep, offsets, codes, values);
}

void unpack_delta(const Queue& queue, const DeltaMatrix& packed, std::int64_t first_row, std::int64_t rows, void* out) {
  check(queue);
  test::EmulatedCuda{}.unpack_delta(packed, first_row, rows, out);
}

std::size_t delta_workspace_bytes(std::int64_t, std::int64_t, std::int64_t) { return 64; }

void multiply_delta(const Queue& queue, const DeltaMatrix& packed, const StripProduct& product, void*, std::size_t) {
  check(queue);
  test::EmulatedCuda{}.multiply_delta(packed, product);
}

std::size_t calibration_workspace_bytes(std::int64_t, std::int64_t) { return 64; }

void add_squares(const Queue& queue, const LayerInput& input, const SquareSums& to, void*, std::size_t) {
  check(queue);
  test::EmulatedCuda{}.add_squares(input, to);
}

std::size_t track_workspace_bytes(std::span<const ScoreInputs>) { return 64; }

void track_coherence(const Queue& queue, std::span<const ScoreInputs> tensors, std::span<const CoherenceMemory> memory,
                     double decay, void*, std::size_t) {
  check(queue);
  test::EmulatedCuda{}.track_coherence(tensors, memory, decay);
}

void measure_retention(const Queue& queue, std::span<const ScoreInputs> tensors,
                       std::span<const CoherenceMemory> memory, double* found, void*, std::size_t) {
  check(queue);
  test::EmulatedCuda{}.measure_retention(tensors, memory, found);
}

void track_sketch(const Queue& queue, std::span<const ScoreInputs> tensors, std::span<const SketchMemory> memory,
                  double decay) {
  check(queue);
  test::EmulatedCuda{}.track_sketch(tensors, memory, decay);
}

void compare_snapshot(const Queue& queue, std::span<const ScoreInputs> tensors, std::span<const SnapshotMemory> memory,
                      void*, std::size_t) {
  check(queue);
  test::EmulatedCuda{}.compare_snapshot(tensors, memory);
}

void accumulate_movement(const Queue& queue, std::span<const ScoreInputs> tensors,
                         std::span<const MovementMemory> memory) {
  check(queue);
  test::EmulatedCuda{}.accumulate_movement(tensors, memory);
}

}  // namespace bittersweet::cuda
