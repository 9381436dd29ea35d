// What an optimizer's pass asks of its arguments, wherever it runs.
#pragma once

#include <string>

#include "bittersweet/engine/optim.hpp"
#include "bittersweet/error.hpp"

namespace bittersweet {

inline void check_adam_length(const char* what, std::size_t found, std::size_t tensors) {
  if (found != tensors)
    throw ShapeError(std::string(what) + ": " + std::to_string(found) + " for " + std::to_string(tensors) +
                     " tensors; one is needed for each");
}

inline void check_adam_options(const AdamOptions& o) {
  const auto require = [](const char* what, double found, bool good, const char* accepted) {
    if (!good) throw ArgumentError(std::string(what) + ": " + std::to_string(found) + "; accepted: " + accepted);
  };
  require("lr", o.lr, o.lr >= 0, "a number from 0");
  require("beta1", o.beta1, o.beta1 >= 0 && o.beta1 < 1, "a number from 0 to below 1");
  require("beta2", o.beta2, o.beta2 >= 0 && o.beta2 < 1, "a number from 0 to below 1");
  require("eps", o.eps, o.eps >= 0, "a number from 0");
  require("weight_decay", o.weight_decay, o.weight_decay >= 0, "a number from 0");
}

inline void check_adam_rounding(const AdamRounding& rounding) {
  if (rounding.lanes_f32 < 1 || rounding.lanes_f32 > 16 || rounding.lanes_16bit < 1 || rounding.lanes_16bit > 32)
    throw ArgumentError("rounding: lanes of " + std::to_string(rounding.lanes_f32) + " and " +
                        std::to_string(rounding.lanes_16bit) + "; accepted: 1 to 16, and 1 to 32");
}

inline void check_adam_draw(const ScoreInputs& tensor, const RoundingKey& key) {
  const std::string name(tensor.name);
  if (key.stream >= RoundingKey::streams / 4)
    throw ArgumentError("draws: stream " + std::to_string(key.stream) + " of tensor '" + name +
                        "'; accepted: below 2^22");
  if (tensor.weight.dtype == DType::f16)
    throw DTypeError(
        "weight of '" + name +
        "' is float16, and stochastic rounding is to bfloat16; accepted: bfloat16, or float32, which needs "
        "none");
}

inline void check_adam_tensor(const ScoreInputs& tensor, bool amsgrad) {
  const std::string name(tensor.name);
  if (tensor.numel < 0) throw ShapeError("numel: " + std::to_string(tensor.numel) + " in tensor '" + name + "'");
  const auto require = [&](const TensorView& array, const char* what) {
    if (array.dtype == DType::none || (array.data == nullptr && tensor.numel > 0))
      throw MissingStateError(std::string(what) + ": the step needs it and tensor '" + name + "' has none; give it");
  };
  require(tensor.weight, "weight");
  require(tensor.grad, "grad");
  require(tensor.exp_avg, "exp_avg");
  require(tensor.exp_avg_sq, "exp_avg_sq");
  if (amsgrad) require(tensor.max_exp_avg_sq, "max_exp_avg_sq");
  if (!adam_takes(tensor, amsgrad))
    throw DTypeError("weight of '" + name + "' is " + name_of(tensor.weight.dtype) + ", its gradient " +
                     name_of(tensor.grad.dtype) + ", exp_avg " + name_of(tensor.exp_avg.dtype) + ", exp_avg_sq " +
                     name_of(tensor.exp_avg_sq.dtype) +
                     "; accepted: all float32, all bfloat16, or a 16-bit weight and gradient with float32 states");
}

}  // namespace bittersweet
