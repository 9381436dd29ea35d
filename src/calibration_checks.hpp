// What calibration asks of its arguments, wherever it is done.
#pragma once

#include <string>

#include "bittersweet/dtype.hpp"
#include "bittersweet/engine/calibration.hpp"
#include "bittersweet/error.hpp"

namespace bittersweet {

inline void check_squares(const LayerInput& input, const SquareSums& to) {
  if (input.rows < 0 || input.columns < 0)
    throw ShapeError("x: " + std::to_string(input.rows) + " x " + std::to_string(input.columns));
  if (input.together < 1 || input.period < 1)
    throw ShapeError("together, period: " + std::to_string(input.together) + ", " + std::to_string(input.period) +
                     "; accepted: 1 or more");
  if (input.x.dtype == DType::none) throw DTypeError("x: it has no dtype; f32, bf16 and f16 are accepted");
  const auto check = [](const void* data, std::size_t size, bool needed, const char* what) {
    if ((data == nullptr && needed) || reinterpret_cast<std::uintptr_t>(data) % size != 0)
      throw LayoutError(std::string(what) +
                        ": a null pointer, or an address that is not a multiple of its elements' size");
  };
  check(input.x.data, size_of(input.x.dtype), input.rows * input.columns > 0, "x");
  check(input.times, sizeof *input.times, false, "times");
  check(to.sums, sizeof *to.sums, input.columns > 0, "sums");
  check(to.counts, sizeof *to.counts, true, "counts");
}

}  // namespace bittersweet
