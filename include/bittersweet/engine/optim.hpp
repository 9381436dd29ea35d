// The verb that is an optimizer's own pass, with the masks in it.
//
// Contracts, beside those of engine.hpp: tensors have w, g, m, v (and max_exp_avg_sq where the options say amsgrad)
// stored as one of adam_arrays(); every element is adam() of optim/adam.hpp, the last numel % lanes ones of each tensor
// by Contraction::fused_rest. Where a tensor's keep bit is 0, w, m, v and the buffer end as +0 whatever they and the
// gradient were, NaN included. The floating-point environment is the caller's, on every thread: a mode that flushes
// denormals flushes here as in the step that this one stands for. bf16 weights and moments of a tensor that draws are
// rounded stochastically, element i by rounding_bits(adam_key(...), i), i in the order of memory. Everything else, and
// the AMSGrad buffer, which sums nothing, is rounded to nearest.
#pragma once

#include <concepts>
#include <cstdint>
#include <optional>
#include <span>

#include "bittersweet/engine/summaries.hpp"
#include "bittersweet/optim/adam.hpp"
#include "bittersweet/stochastic_rounding.hpp"

namespace bittersweet {

// Are a tensor's arrays stored as the verb takes them? f32; bf16; or 16-bit weights and gradients with f32 states.
constexpr bool adam_takes(const ScoreInputs& tensor, bool amsgrad) noexcept {
  const DType weight = tensor.weight.dtype, state = tensor.exp_avg.dtype;
  const bool pair = weight != DType::none && (state == DType::f32 || (state == DType::bf16 && weight == DType::bf16));
  return pair && tensor.grad.dtype == weight && tensor.exp_avg_sq.dtype == state &&
         (!amsgrad || tensor.max_exp_avg_sq.dtype == state);
}

// Elements at a tensor's end that fill no vector of the build that is matched.
constexpr std::int64_t adam_rest(const ScoreInputs& tensor, const AdamRounding& rounding) noexcept {
  return tensor.numel % (tensor.weight.dtype == DType::f32 ? rounding.lanes_f32 : rounding.lanes_16bit);
}

// The arrays of a tensor that may draw, each from a stream of its own.
enum class AdamArray : std::uint32_t { weight, exp_avg, exp_avg_sq };

// That of one array; `tensor.stream` counts tensors.
constexpr RoundingKey adam_key(const RoundingKey& tensor, AdamArray array) noexcept {
  return {tensor.seed, tensor.step, 4 * tensor.stream + static_cast<std::uint32_t>(array)};
}

// What is the same for all tensors of a call, or stands for each.
struct AdamCall {
  AdamRounding rounding{};
  float scale = 0.0f;         // what the gradients were multiplied by; they are divided by it in place. 0: nothing
  bool weights_only = false;  // masks hold the weights alone: states of dead ones go on, and none is trusted
  std::span<const std::optional<RoundingKey>>
      draws{};  // tensors whose bf16 arrays are rounded stochastically; or empty

  const RoundingKey* draw_of(std::size_t t) const { return !draws.empty() && draws[t] ? &*draws[t] : nullptr; }
};

template <class E>
concept SteppingEngine = requires(E& engine, std::span<const ScoreInputs> tensors, std::span<const Chunk> chunks,
                                  std::span<const AdamStep> steps, const AdamCall& call,
                                  std::span<const std::uint8_t> trusted, std::span<std::uint8_t> dirty) {
  // One step of every tensor by its own constants; a buffer is kept where max_exp_avg_sq is there.
  // trusted[t]: what is dead in tensor t is known to be zero, and may be left unread and unwritten.
  // dirty[t] = was a dead weight that was read not zero?
  engine.step_adam(tensors, chunks, steps, call, trusted, dirty);
};

}  // namespace bittersweet
