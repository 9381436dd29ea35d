// The public face of the optimizer's pass: one step of Adam or AdamW over the whole model, which leaves pruned weights
// and their states at +0. It costs what the step alone costs, so that holding masks costs nothing.
//
// Promises: an error changes nothing; the same inputs give the same bits whatever the number of threads or the
// instruction set; with the rounding of an installation of torch and no draws, those of its fused=True step followed by
// apply_masks; the caller's floating-point environment is the one that is computed in.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "bittersweet/engine/optim.hpp"
#include "bittersweet/prune.hpp"

namespace bittersweet {

// Updates weight, exp_avg, exp_avg_sq (and max_exp_avg_sq where its options say amsgrad) of every tensor; `mask` keeps
// its dead elements at +0, and a null one keeps everything alive. Arrays of one tensor are stored as f32, bf16, or
// 16-bit weight and gradient with f32 states (adam_takes). `steps[t]` counts the steps of tensor t, this one included.
// `trusted[t]`, if there are any: the dead elements of tensor t are known to hold zeros and may be left unread.
// With `call.draws`, bf16 weights and moments are rounded stochastically; 16 bits a number are then enough to train in.
// Returns, per tensor, whether a dead weight that was read was not zero before it.
//
// Throws MissingStateError, DTypeError, LayoutError, ShapeError, or ArgumentError for options outside lr >= 0,
// 0 <= betas < 1, eps >= 0, weight_decay >= 0, or a step below 1.
std::vector<std::uint8_t> step_adam(std::span<const ScoreInputs> tensors, std::span<const AdamOptions> options,
                                    std::span<const double> steps, const AdamCall& call = {},
                                    std::span<const std::uint8_t> trusted = {});

// What step_adam returns, and the report of the masks; none if they could not be made of what the step left.
struct SteppedMasks {
  std::vector<std::uint8_t> dirty{};
  std::optional<PruneReport> report{};
};

// step_adam (nothing trusted), and make_masks of what it leaves, in one read of memory: each tile is scored while it
// is in the cache. Same bits as the one after the other. bias_correction1 is that of each tensor's step. With regrow
// the step goes without masks: what is dead competes with what it becomes.
//
// Throws what step_adam and make_masks throw for their arguments, before anything is written. What is seen after the
// step (a NaN score under NonFinite::error) is no error here: there is no report, and make_masks would throw.
SteppedMasks step_adam_and_make_masks(std::span<const ScoreInputs> tensors, std::span<const AdamOptions> options,
                                      std::span<const double> steps, const AdamCall& call, const Scorer& scorer,
                                      const Budget& budget, const PruneOptions& prune_options, MaskTable masks,
                                      Workspace& workspace);

}  // namespace bittersweet
