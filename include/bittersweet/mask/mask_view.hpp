// What can be read off masks alone: live counts, bits that differ.
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

// Bits of `mask` that differ from the tensor's current mask.
inline std::int64_t differing(const ScoreInputs& tensor, const std::uint64_t* mask) {
  std::int64_t count = 0;
  for (std::int64_t word = 0; word < bits::words(tensor.numel); ++word)
    count += bits::count(mask[word] ^ bits::live(tensor.mask, tensor.numel, word));
  return count;
}

}  // namespace bittersweet
