// The public function of stochastic rounding: checks, then the verb of the engine.
#include "bittersweet/rounding.hpp"

#include <string>

#include "bittersweet/engine/cpu.hpp"
#include "bittersweet/error.hpp"
#include "nvtx_range.hpp"

namespace bittersweet {
namespace {

void check(const RoundedArray& array, std::size_t number) {
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

}  // namespace

void stochastic_round(std::span<const RoundedArray> arrays) {
  const NvtxRange range("bittersweet::stochastic_round");
  for (std::size_t i = 0; i < arrays.size(); ++i) check(arrays[i], i);
  static CpuEngine engine;
  engine.stochastic_round(arrays);
}

}  // namespace bittersweet
