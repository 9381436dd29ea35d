// What stochastic rounding asks of an array, wherever it is done.
#pragma once

#include <string>

#include "bittersweet/engine/rounding.hpp"
#include "bittersweet/error.hpp"

namespace bittersweet {

inline void check_rounded(const RoundedArray& array, std::size_t number) {
  const std::string which = "array " + std::to_string(number);
  if (array.numel < 0) throw ShapeError("numel: " + std::to_string(array.numel) + " in " + which);
  const auto lies_well = [&](const void* data, std::size_t size) {
    return (data != nullptr || array.numel == 0) && reinterpret_cast<std::uintptr_t>(data) % size == 0;
  };
  if (!lies_well(array.from, sizeof *array.from) || !lies_well(array.to, sizeof *array.to))
    throw LayoutError(which + ": a null pointer, or an address that is not a multiple of its elements' size");
  if (array.key.stream >= RoundingKey::streams)
    throw ArgumentError("stream: " + std::to_string(array.key.stream) + " in " + which + "; accepted: below 2^24");
}

}  // namespace bittersweet
