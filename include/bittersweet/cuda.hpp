// The public face of the CUDA engine: a whole prune step on a stream. It names no CUDA header; a build without CUDA
// links cuda_absent.cpp, where every function throws DeviceError with the reason.
//
// Promises of every function that takes a Queue:
//   - all work is enqueued on the caller's stream; no synchronisation with the host, no allocation, no host memory read
//     after the call returns (tables travel as kernel arguments), so a call can be captured in a CUDA graph (global
//     capture mode) and replayed on the same pointers, with a new budget read from device memory;
//   - pointers inside ScoreInputs, masks, workspace and reports are device memory of queue.device;
//   - arguments are checked on the host before anything is enqueued (the errors of make_view, DeviceError,
//   ArgumentError
//     for a workspace that is too small); what only the device can see is a bit of StepReport::status;
//   - same bits as the CPU engine for every scorer but bitter8 (approximate reciprocal square roots; score/bitter8.hpp
//     and docs/selectors.md state the bound), whatever the grid or the order of blocks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "bittersweet/engine/engine.hpp"
#include "bittersweet/engine/optim.hpp"
#include "bittersweet/engine/rounding.hpp"
#include "bittersweet/prune.hpp"

namespace bittersweet::cuda {

struct Queue {
  int device = 0;
  void* stream = nullptr;  // cudaStream_t; null is the device's default stream
};

// Bits of StepReport::status. `nan` under NonFinite::error is the only one that makes a step void: then no mask bit
// that the step was to commit and no weight or state has been written.
namespace status {
inline constexpr std::uint32_t nan = 1;       // a live score is NaN
inline constexpr std::uint32_t overflow = 2;  // more candidates than the capacity; a narrower retry or radix passes ran
inline constexpr std::uint32_t missed = 4;    // the bracket missed the rank; radix passes ran
// k outside 0..total, or outside what tensor_sparsity allows, from StepReport::below to ::equal; the step is void
inline constexpr std::uint32_t bad_k = 8;
inline constexpr std::uint32_t failed = 128;  // void: NaN under NonFinite::error, or bad_k
}  // namespace status

inline constexpr double no_number = std::numeric_limits<double>::quiet_NaN();

// What a step found. It lies in device memory (8-byte aligned) and is copied to the host by whoever reads it.
struct StepReport {
  std::uint32_t status = 0;
  std::uint32_t place = 0;  // bittersweet::Place
  float value = 0;          // the threshold; NaN: scope tensor, which has one for each
  float passes = 0;         // reads of the inputs; tiles scored again for the sake of ties not included
  std::int64_t k = 0;       // asked for, dead elements included
  std::int64_t total = 0;
  std::int64_t dead = 0;
  std::int64_t below = 0;      // live scores below the threshold
  std::int64_t equal = 0;      // live scores equal to it
  std::int64_t ties = 0;       // of those, pruned
  std::int64_t nan = 0;        // live NaN scores
  std::int64_t first_nan = 0;  // the lowest position of one in the whole sequence
  std::int64_t pruned = 0;     // dead + below + ties
  std::int64_t churn = 0;      // new mask bits that differ from the current ones
  std::int64_t empty_rows = 0;
  std::int64_t v_sampled = 0, v_below_eps = 0, v_zero = 0;  // as flow::report_second_moment samples exp_avg_sq
  double standard_error = no_number;                        // selector sampling: of the achieved sparsity; else NaN
  std::int64_t converged = 1;                               // selector streaming: within its tolerance
};

// How much to prune, in device memory, so that a captured step can be replayed with another budget.
struct StepBudget {
  std::int64_t k = 0;           // elements, dead ones included
  double sparsity = no_number;  // the share as it was asked for; NaN: k / total. Scope global looks at k alone
};

// The fields of PruneOptions (prune.hpp), with what a step does beside.
struct StepOptions {
  std::optional<Ties> ties{};
  NonFinite nonfinite = NonFinite::error;
  std::uint64_t seed = 0;
  bool regrow = false;     // true: dead elements compete again
  std::uint32_t zero = 0;  // bits of roles: arrays that get +0 where the new keep bit is 0, in the same step
  Selector selector = Exact{};
  Scope scope{};
  std::optional<Distribution> distribution{};
  Rounding rounding = Rounding::nearest;
  Remainder remainder = Remainder::error;
  std::optional<double> max_tensor_sparsity{};
  std::span<const CountRange> tensor_sparsity{};
  // Device memory, one a tensor, or null: thresholds of scope tensor, and those under bounds. NaN: a tensor has none,
  // since a bound decided.
  float* tensor_threshold = nullptr;
};

inline PruneOptions prune_options(const StepOptions& options) {
  return {.selector = options.selector,
          .ties = options.ties,
          .nonfinite = options.nonfinite,
          .seed = options.seed,
          .regrow = options.regrow,
          .scope = options.scope,
          .distribution = options.distribution,
          .rounding = options.rounding,
          .remainder = options.remainder,
          .max_tensor_sparsity = options.max_tensor_sparsity,
          .tensor_sparsity = {options.tensor_sparsity.begin(), options.tensor_sparsity.end()}};
}

// What a scope makes of a budget. Throws the errors of `ask` (scope.hpp).
inline StepBudget step_budget(const Budget& budget, const Scope& scope, std::int64_t total) {
  const Asked asked = ask(budget, scope, total);
  return {asked.k, asked.sparsity.value_or(no_number)};
}

// A void step's new masks are copies of the current ones; with regrow, too.
//
// Under bounds `value`, `below`, `equal` and `ties` are of the tensors that the last element under the cut leaves
// within their bounds (bounds.hpp); NonFinite::keep and ranges that ask for more than a tensor's numbers ask for those.
// Tensors in any order of memory (ScoreInputs::order), with masks in that order; ties and first_nan go by the logical
// index. Scopes row and N:M need `new_masks`.
//
// Threshold (scope global), and unless `new_masks` is empty the keep bits, and then the zeros. `budget` and `report`
// are device memory; `tensor_pruned` too (one count per tensor) or null. Throws the errors of make_masks (or of
// threshold) for options that do not go together, but for those that depend on the budget: they are status::bad_k. So
// does step_workspace_bytes, before there is a budget.
std::size_t step_workspace_bytes(std::span<const ScoreInputs> tensors, const Scorer& scorer, const StepOptions& options,
                                 bool masks);
void step(const Queue& queue, std::span<const ScoreInputs> tensors, const Scorer& scorer, const StepBudget* budget,
          const StepOptions& options, MaskTable new_masks, std::int64_t* tensor_pruned, void* workspace,
          std::size_t workspace_bytes, StepReport* report);

// ---- verbs of engine.hpp on their own, for a selection that several ranks make together ----

// What one read found. It lies in device memory (8-byte aligned).
struct BracketReport {
  BracketCounts counts;
  std::int64_t first_nan = 0;  // the lowest position of a NaN in this rank's sequence; 0 where there is none
  std::int64_t overflow = 0;   // 1: more inside than the workspace has room for. The counts are exact all the same
};

// One read against a bracket: counts, mask bits unless `new_masks` is empty, and candidates, which stay in the
// workspace (step_workspace_bytes with default options). The keys of its ends are less than 2^31 apart.
void bracket(const Queue& queue, std::span<const ScoreInputs> tensors, const Scorer& scorer, const Bracket& ends,
             MaskTable new_masks, void* workspace, std::size_t workspace_bytes, BracketReport* report);

// The candidates that the last bracket() left in this workspace, by key and unit: those for which it found room. Same
// tensors as there; `units`: one for each, negative where this rank does not count. `bins` is device memory.
void tally(const Queue& queue, std::span<const ScoreInputs> tensors, std::span<const std::int64_t> units,
           const KeyRange& keys, void* workspace, std::size_t workspace_bytes, std::span<std::int64_t> bins);

// Scores of tensor t that equal the value, by run. `bins` is device memory.
void count_runs(const Queue& queue, std::span<const ScoreInputs> tensors, const Scorer& scorer, std::size_t t,
                float value, const RunRange& runs, std::span<std::int64_t> bins);

// *budget = value, by a kernel argument.
void write_budget(const Queue& queue, StepBudget* budget, const StepBudget& value);

// scores[t][i] = f32 score of element i of tensor t, dead or alive.
void write_scores(const Queue& queue, std::span<const ScoreInputs> tensors, const Scorer& scorer,
                  std::span<float* const> scores);

// +0 where a keep bit is 0. Writes nothing where `gate` (a StepReport::status in device memory, or null) says failed.
void apply_masks(const Queue& queue, std::span<const ScoreInputs> tensors, std::span<const std::uint64_t* const> masks,
                 std::uint32_t which, const std::uint32_t* gate = nullptr);

// Per tensor: live elements; elements of the chosen arrays that are not 0 although their keep bit is. Device memory.
void count_live(const Queue& queue, std::span<const ScoreInputs> tensors, std::span<const std::uint64_t* const> masks,
                std::int64_t* live);
void count_violations(const Queue& queue, std::span<const ScoreInputs> tensors,
                      std::span<const std::uint64_t* const> masks, std::uint32_t which, std::int64_t* found);

// One step of Adam or AdamW over the whole model: what step_adam of optim.hpp does, its contract included, in one pass
// for each storage (and each 440 tensors). `mask` keeps a tensor's dead elements at +0, and a null one keeps all alive.
struct AdamArguments {
  AdamRounding rounding{};
  bool weights_only = false;  // as of AdamCall
  // One a tensor. `steps`: its count in device memory, which the call raises by 1. `lr`, where there are any and one is
  // not null: a learning rate in device memory that stands for the options'. `trusted` is read on the host.
  std::span<float* const> steps{};
  std::span<const float* const> lr{};
  std::span<const std::uint8_t> trusted{};
  // Tensors whose bf16 arrays are rounded stochastically; or empty. A key's step is not read: the tensor's own count,
  // this step included, is that of its draws, so that each replay of a captured call draws anew.
  std::span<const std::optional<RoundingKey>> draws{};
  // Device memory, or null. `grad_scale`: what the gradients were multiplied by; they are divided by it in place (0:
  // nothing). `found_inf`: not 0: the call changes nothing, counts included.
  const float* grad_scale = nullptr;
  const float* found_inf = nullptr;
  std::uint32_t* dirty = nullptr;  // device memory, one a tensor: 1 if a dead weight that was read was not zero, else 0
};

// Same bits as the reference engine given the same rounding and counts, denormals included, but for: the bits of a NaN
// (it stays one), and a constant of the step that differs by an ulp of a float. Those are computed in double on the
// device, whose pow may be 2 ulp off, and rounded to float once; 1 - beta2^step magnifies that by up to
// 1 / (1 - beta2), so that with 0.999 one constant in about 10^5 may be the other neighbour.
//
// Throws the errors of step_adam of optim.hpp, and ArgumentError for null `steps` or `dirty`. Values in device memory
// are not looked at: a learning rate there is taken as it is.
std::size_t adam_workspace_bytes(std::span<const ScoreInputs> tensors);
void step_adam(const Queue& queue, std::span<const ScoreInputs> tensors, std::span<const AdamOptions> options,
               const AdamArguments& call, void* workspace, std::size_t workspace_bytes);

// Rounds every array as stochastic_round of rounding.hpp does, to the same bits, NaN included: up to 600 arrays a
// launch. Throws its errors.
void stochastic_round(const Queue& queue, std::span<const RoundedArray> arrays);

// What the bracket pass rests on, measured over every float from 0 to infinity on the device. `proof` is device memory.
// Sound where wrong_roots is 0 and rough_error below 2^-21 (the pass allows 2^-20, for the score's own roundings, too).
struct MarginProof {
  std::uint64_t checked = 0;
  std::uint64_t wrong_roots = 0;  // square roots without a branch that are not sqrt.rn's bits
  float rough_error = 0;          // relative, of the rough fourth and square roots of normal numbers
  float reciprocal_error = 0;     // of bitter8's, denormals included
};
void prove_margin(const Queue& queue, MarginProof* proof);

// Host side: what is there, and whether this build can use it. Never throws for a missing driver or device.
struct DeviceVerdict {
  int index = 0;
  std::string name;
  int major = 0, minor = 0;
  std::string verdict;  // "native code", "PTX, compiled at first use", "unsupported: ...", "driver too old: ..."
  bool usable = false;
};
std::vector<DeviceVerdict> devices();
std::string describe();             // one line for build_info()
std::string self_test(int device);  // "" where a small step gives the reference engine's bits, else what differed

}  // namespace bittersweet::cuda
