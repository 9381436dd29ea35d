// The reference engine of the optimizer's pass: the plainest loop that is right, and the oracle of the tests.
#pragma once

#include "bittersweet/engine/optim.hpp"

namespace bittersweet {

class ReferenceStepper {
 public:
  void step_adam(std::span<const ScoreInputs> tensors, std::span<const Chunk>, std::span<const AdamStep> steps,
                 AdamRounding rounding, std::span<const std::uint8_t>, std::span<std::uint8_t> dirty) {
    for (std::size_t t = 0; t < tensors.size(); ++t) {
      const ScoreInputs& tensor = tensors[t];
      const std::int64_t rest = adam_rest(tensor, rounding);
      dirty[t] = 0;
      for (std::int64_t i = 0; i < tensor.numel; ++i) {
        const bool live = is_live(tensor, i);
        dirty[t] |= !live && load_as_float(tensor.weight.data, tensor.weight.dtype, i) != 0.0f;
        if (!rounding.contracted)
          step<Contraction::none>(tensor, steps[t], i, live);
        else if (i < tensor.numel - rest)
          step<Contraction::fused>(tensor, steps[t], i, live);
        else
          step<Contraction::fused_rest>(tensor, steps[t], i, live);
      }
    }
  }

 private:
  template <Contraction C>
  static void step(const ScoreInputs& tensor, const AdamStep& constants, std::int64_t i, bool live) {
    const bool amsgrad = tensor.max_exp_avg_sq.data != nullptr;
    const auto read = [&](const TensorView& array) { return load_as_float(array.data, array.dtype, i); };
    float w = read(tensor.weight), g = read(tensor.grad), m = read(tensor.exp_avg), v = read(tensor.exp_avg_sq);
    float largest = amsgrad ? read(tensor.max_exp_avg_sq) : 0.0f;
    adam<C>(constants, w, g, m, v, amsgrad ? &largest : nullptr);
    const auto write = [&](const TensorView& array, float value) {
      store_from_float(array.data, array.dtype, i, live ? value : 0.0f);
    };
    write(tensor.weight, w);
    write(tensor.exp_avg, m);
    write(tensor.exp_avg_sq, v);
    if (amsgrad) write(tensor.max_exp_avg_sq, largest);
    if (constants.scaled) store_from_float(tensor.grad.data, tensor.grad.dtype, i, g);
  }
};

static_assert(SteppingEngine<ReferenceStepper>);

}  // namespace bittersweet
