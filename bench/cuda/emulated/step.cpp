// The functions of cuda.hpp that equal_bits.cpp calls, by the kernels of the engine on the SIMT emulator.
#include <algorithm>

#include "support/simt/emulated.hpp"

namespace bittersweet::cuda {
namespace {

test::EmulatedCuda& engine() {
  static test::EmulatedCuda one;
  return one;
}

}  // namespace

// The emulated engine brings a workspace of its own, of just the right size.
std::size_t step_workspace_bytes(std::span<const ScoreInputs>, const Scorer&, const StepOptions&, bool) { return 1; }

void step(const Queue&, std::span<const ScoreInputs> tensors, const Scorer& scorer, const StepBudget* budget,
          const StepOptions& options, MaskTable new_masks, std::int64_t* tensor_pruned, void*, std::size_t,
          StepReport* report) {
  std::vector<std::int64_t> pruned;
  *report = engine().step(tensors, scorer, *budget, options, new_masks, &pruned);
  if (tensor_pruned) std::copy(pruned.begin(), pruned.end(), tensor_pruned);
}

void write_budget(const Queue&, StepBudget* budget, const StepBudget& value) { *budget = value; }

void write_scores(const Queue&, std::span<const ScoreInputs> tensors, const Scorer& scorer,
                  std::span<float* const> scores) {
  engine().write_scores(tensors, scorer, scores);
}

std::size_t adam_workspace_bytes(std::span<const ScoreInputs>) { return 1; }

void step_adam(const Queue&, std::span<const ScoreInputs> tensors, std::span<const AdamOptions> options,
               const AdamArguments& call, void*, std::size_t) {
  engine().step_adam(tensors, options, call);
}

}  // namespace bittersweet::cuda
