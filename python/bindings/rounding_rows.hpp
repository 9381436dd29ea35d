// Rows of addresses for stochastic rounding. Nothing is read through them.
#pragma once

#include "bittersweet/rounding.hpp"
#include "table.hpp"

namespace bittersweet::python {

// Rows of (from, to, numel); row i draws from stream + i.
inline std::vector<RoundedArray> rounded_arrays(const pybind11::buffer& rows, std::uint64_t seed, std::uint32_t step,
                                                std::uint32_t stream) {
  const std::span<const std::uint64_t> words = words_of(rows, "rows");
  if (words.size() % 3 != 0) throw ArgumentError("rows: (from, to, numel) is needed for each array");
  std::vector<RoundedArray> arrays;
  for (std::size_t row = 0; row < words.size(); row += 3) {
    const auto numel = static_cast<std::int64_t>(words[row + 2]);
    arrays.push_back({address<const float>(words[row], numel, "from"),
                      address<std::uint16_t>(words[row + 1], numel, "to"),
                      numel,
                      {seed, step, stream++}});
  }
  return arrays;
}

}  // namespace bittersweet::python
