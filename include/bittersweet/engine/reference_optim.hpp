// The reference engine of the optimizer's pass: the plainest loop that is right, and the oracle of the tests.
#pragma once

#include "bittersweet/engine/optim.hpp"

namespace bittersweet {

class ReferenceStepper {
 public:
  void step_adam(std::span<const ScoreInputs> tensors, std::span<const Chunk>, std::span<const AdamStep> steps,
                 const AdamCall& call, std::span<const std::uint8_t>, std::span<std::uint8_t> dirty) {
    for (std::size_t t = 0; t < tensors.size(); ++t) {
      const ScoreInputs& tensor = tensors[t];
      const std::int64_t rest = adam_rest(tensor, call.rounding);
      const RoundingKey* const draw = call.draw_of(t);
      dirty[t] = 0;
      for (std::int64_t i = 0; i < tensor.numel; ++i) {
        const bool live = is_live(tensor, i);
        dirty[t] |= !live && load_as_float(tensor.weight.data, tensor.weight.dtype, i) != 0.0f;
        if (!call.rounding.contracted)
          step<Contraction::none>(tensor, steps[t], i, live, live || call.weights_only, draw);
        else if (i < tensor.numel - rest)
          step<Contraction::fused>(tensor, steps[t], i, live, live || call.weights_only, draw);
        else
          step<Contraction::fused_rest>(tensor, steps[t], i, live, live || call.weights_only, draw);
      }
    }
  }

 private:
  template <Contraction C>
  static void step(const ScoreInputs& tensor, const AdamStep& constants, std::int64_t i, bool live, bool state_lives,
                   const RoundingKey* draw) {
    const bool amsgrad = tensor.max_exp_avg_sq.data != nullptr;
    const auto read = [&](const TensorView& array) { return load_as_float(array.data, array.dtype, i); };
    float w = read(tensor.weight), g = read(tensor.grad), m = read(tensor.exp_avg), v = read(tensor.exp_avg_sq);
    float largest = amsgrad ? read(tensor.max_exp_avg_sq) : 0.0f;
    adam<C>(constants, w, g, m, v, amsgrad ? &largest : nullptr);
    const auto drawn = [&](const TensorView& array, AdamArray role, float value) {
      if (draw == nullptr || array.dtype != DType::bf16) return value;
      return stochastic_bf16(value, rounding_bits(adam_key(*draw, role), static_cast<std::uint64_t>(i)));
    };
    const auto write = [&](const TensorView& array, float value, bool alive) {
      store_from_float(array.data, array.dtype, i, alive ? value : 0.0f);
    };
    write(tensor.weight, drawn(tensor.weight, AdamArray::weight, w), live);
    write(tensor.exp_avg, drawn(tensor.exp_avg, AdamArray::exp_avg, m), state_lives);
    write(tensor.exp_avg_sq, drawn(tensor.exp_avg_sq, AdamArray::exp_avg_sq, v), state_lives);
    if (amsgrad) write(tensor.max_exp_avg_sq, largest, state_lives);
    if (constants.scaled) store_from_float(tensor.grad.data, tensor.grad.dtype, i, g);
  }
};

static_assert(SteppingEngine<ReferenceStepper>);

}  // namespace bittersweet
