// The public functions for memory of the host (cuda.hpp has those of a GPU). They validate and run the flow of flow.hpp
// on the CPU engine. Link bittersweet::bittersweet for these; headers alone give the same flow on the reference engine.
//
// Promises of every function here: an error changes nothing but the mask buffers that it was writing; weights, states
// and gradients are written only by apply_masks and prune; the same inputs and seed give the same bits whatever the
// number of threads or the instruction set; any floating-point environment of the caller is respected and restored.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "bittersweet/bounds.hpp"
#include "bittersweet/engine/engine.hpp"
#include "bittersweet/engine/workspace.hpp"
#include "bittersweet/scope.hpp"
#include "bittersweet/score/scorers.hpp"
#include "bittersweet/select/selectors.hpp"
#include "bittersweet/tensor_view.hpp"

namespace bittersweet {

struct PruneOptions {
  Selector selector = Exact{};
  std::optional<Ties> ties{};              // default: exact, or at_or_below with an approximate selector
  NonFinite nonfinite = NonFinite::error;  // keep: NaN scores are never pruned
  std::uint64_t seed = 0;
  bool regrow = false;  // true: dead elements compete again with their plain score
  Scope scope{};
  std::optional<Distribution> distribution{};   // scopes other than global; default uniform
  Rounding rounding = Rounding::nearest;        // scope row
  Remainder remainder = Remainder::error;       // scope N:M
  std::optional<double> max_tensor_sparsity{};  // scope global: no tensor loses more than this share
  // scope global, ties exact: of each tensor go so many, and of all of them exactly k (bounds.hpp); empty: no bounds
  std::vector<CountRange> tensor_sparsity{};
  std::function<void()> between_passes = {};  // called between reads of the inputs; may throw to interrupt
};

// The outcome of a selection. Counts are of live scores, `pruned`, `k` and `total` include the dead.
struct PruneReport {
  std::optional<float> value{};            // the threshold, where the scope has a single one
  std::int64_t k = 0;                      // asked for
  std::int64_t total = 0;                  // eligible elements
  std::int64_t pruned = 0;                 // by the rule of ties
  std::int64_t dead = 0;                   // were pruned before
  std::int64_t count_below = 0;            // live scores under the threshold; -1 where nobody counted
  std::int64_t count_equal = 0;            // live scores equal to it; -1 likewise
  double passes = 0;                       // reads of the inputs
  std::int64_t extra_bytes = 0;            // scratch memory used
  std::int64_t nonfinite = 0;              // NaN scores met
  std::optional<double> standard_error{};  // sampling: of the achieved sparsity
  bool converged = true;
  std::string path{};                   // how the exact selector came to its answer
  std::optional<double> v_below_eps{};  // share of live exp_avg_sq below the scorer's eps (sampled on large models)
  std::optional<double> v_zero{};       // share of live exp_avg_sq that is zero
  std::vector<std::int64_t> tensor_pruned{};             // masks: pruned elements per tensor
  std::vector<std::optional<float>> tensor_threshold{};  // masks: per tensor, where it has one
  std::int64_t churn = 0;                                // masks: bits that differ from the current mask
  std::int64_t empty_rows = 0;                           // masks: output rows that became all zero
};

// scores[t][i] = f32 score of element i of tensor t (its modifier included).
void write_scores(std::span<const ScoreInputs> tensors, const Scorer& scorer, std::span<float* const> scores);

// The threshold that meets the budget over all tensors as one sequence; no masks. O(1) memory but for `selector`.
PruneReport threshold(std::span<const ScoreInputs> tensors, const Scorer& scorer, const Budget& budget,
                      const PruneOptions& options, Workspace& workspace);

// Writes new keep bits for every tensor (mask/bit_layout.hpp; masks[t] has bits::words(numel) words, which may not
// alias the current masks). Threshold, counts and bits come from about one read of the inputs.
PruneReport make_masks(std::span<const ScoreInputs> tensors, const Scorer& scorer, const Budget& budget,
                       const PruneOptions& options, MaskTable masks, Workspace& workspace);

// Writes +0 where a keep bit is 0, in one pass over the arrays chosen by `which` (bits of bittersweet::roles).
void apply_masks(std::span<const ScoreInputs> tensors, std::span<const std::uint64_t* const> masks,
                 std::uint32_t which = roles::weight);

// make_masks, then apply_masks of `which`.
PruneReport prune(std::span<const ScoreInputs> tensors, const Scorer& scorer, const Budget& budget,
                  const PruneOptions& options, MaskTable masks, Workspace& workspace,
                  std::uint32_t which = roles::weight);

// Per tensor: elements of the chosen arrays whose keep bit is 0 and whose value is not zero.
std::vector<std::int64_t> count_violations(std::span<const ScoreInputs> tensors,
                                           std::span<const std::uint64_t* const> masks, std::uint32_t which);

// Per tensor: live elements (all of them where masks[t] is null).
std::vector<std::int64_t> count_live(std::span<const ScoreInputs> tensors, std::span<const std::uint64_t* const> masks);

// Threads of one call: at least 1, at most `n`; 0 restores the default (CPU affinity and cgroup quota).
void set_num_threads(int n);
int num_threads();

// From now on calls run on the threads of the OpenMP runtime that the loaded library `name` is linked with (null: any
// that the process has), where it has as many as the call would use, and start none of their own. False, with nothing
// changed, where that library is not loaded or has no such runtime. A child of the process after a fork starts its own.
bool lend_openmp_threads(const char* name = nullptr);

struct BuildInfo {
  std::string version, compiler, build_type, cuda;
  std::string isa;                         // instruction set in use; BITTERSWEET_CPU_ISA forces one
  std::vector<std::string> isa_available;  // on this machine and in this build
};
BuildInfo build_info();

}  // namespace bittersweet
