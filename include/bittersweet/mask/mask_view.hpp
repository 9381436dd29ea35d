// What can be read off masks alone: live counts, rows without a live weight, bits that differ.
#pragma once

#include <numeric>
#include <span>
#include <vector>

#include "bittersweet/engine/engine.hpp"
#include "bittersweet/mask/bit_layout.hpp"

namespace bittersweet {

// Live elements per tensor by the tensors' own masks.
template <Engine E>
void live_elements(E& engine, std::span<const ScoreInputs> tensors, std::span<std::int64_t> per_tensor) {
  std::vector<const std::uint64_t*> masks;
  for (const ScoreInputs& tensor : tensors) masks.push_back(tensor.mask);
  engine.popcount(tensors, masks, per_tensor);
}

template <Engine E>
std::int64_t live_elements(E& engine, std::span<const ScoreInputs> tensors) {
  std::vector<std::int64_t> live(tensors.size());
  live_elements(engine, tensors, live);
  return std::accumulate(live.begin(), live.end(), std::int64_t{0});
}

inline bool row_is_empty(const std::uint64_t* mask, const Geometry& g, std::int64_t row) {
  if (g.rows_are_contiguous()) return bits::none(mask, row * g.row_stride, g.row_size());
  for (std::int64_t input = 0; input < g.inputs; ++input)
    if (!bits::none(mask, row * g.row_stride + input * g.input_stride, g.inner)) return false;
  return true;
}

// Output rows that had a live weight under the tensor's current mask and have none under `mask`.
inline std::int64_t emptied_rows(const ScoreInputs& tensor, const std::uint64_t* mask) {
  const Geometry& g = tensor.geometry;
  if (tensor.numel == 0) return 0;
  std::int64_t count = 0;
  for (std::int64_t row = 0; row < g.rows; ++row)
    count += row_is_empty(mask, g, row) && !(tensor.mask && row_is_empty(tensor.mask, g, row));
  return count;
}

// Bits of `mask` that differ from the tensor's current mask.
inline std::int64_t differing(const ScoreInputs& tensor, const std::uint64_t* mask) {
  std::int64_t count = 0;
  for (std::int64_t word = 0; word < bits::words(tensor.numel); ++word)
    count += bits::count(mask[word] ^ bits::live(tensor.mask, tensor.numel, word));
  return count;
}

}  // namespace bittersweet
