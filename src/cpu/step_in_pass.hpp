// An optimizer's step within another pass: each tile is stepped when it comes up, and read while it is in the cache.
#pragma once

#include <span>

#include "bittersweet/engine/optim.hpp"
#include "cpu/kernels.hpp"
#include "fp_environment.hpp"

namespace bittersweet::cpu {

// A step often follows others' parallel work, whose threads are awake for a while and hold their processors: a thread
// of ours is worth its start for this many times the work that it is elsewhere.
inline constexpr std::int64_t step_share = 4;

// The arguments of step_adam, for the tensors of the pass.
struct StepInPass {
  std::span<const AdamStep> steps;
  const AdamCall& call;
  FpEnvironment::Mode mode;  // of the step; the pass around it has its own
  std::span<std::uint8_t> dirty;
};

// Elements first .. first + count of tensor t of the pass, a multiple of a mask word each unless they reach its end.
AdamChunk adam_chunk(const ScoreInputs& tensor, std::size_t t, std::int64_t first, std::int64_t count,
                     const AdamCall& call);

// Steps them.
void step_chunk(const Kernels& kernels, const ScoreInputs& tensor, const AdamStep& step, const AdamCall& call,
                const AdamChunk& chunk, std::uint8_t& dirty);

}  // namespace bittersweet::cpu
