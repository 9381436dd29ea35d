// What every public function asks of the addresses it is given.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "bittersweet/error.hpp"
#include "bittersweet/tensor_view.hpp"

namespace bittersweet {

// Vector loads accept any element's own alignment, and no less.
inline void check_alignment(std::span<const ScoreInputs> tensors) {
  for (const ScoreInputs& tensor : tensors)
    for (const TensorView* array : {&tensor.weight, &tensor.exp_avg, &tensor.exp_avg_sq, &tensor.grad,
                                    &tensor.input_norm, &tensor.scores, &tensor.max_exp_avg_sq})
      if (array->dtype != DType::none && reinterpret_cast<std::uintptr_t>(array->data) % size_of(array->dtype) != 0)
        throw LayoutError("tensor '" + std::string(tensor.name) + "': its address is not a multiple of the size of " +
                          name_of(array->dtype) + "; copy it to aligned memory");
}

}  // namespace bittersweet
