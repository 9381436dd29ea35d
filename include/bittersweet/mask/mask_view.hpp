// What can be read off masks alone: live counts.
#pragma once

#include <numeric>
#include <span>
#include <vector>

#include "bittersweet/engine/engine.hpp"

namespace bittersweet {

// Live elements per tensor by the tensors' own masks.
template <RankEngine E>
void live_elements(E& engine, std::span<const ScoreInputs> tensors, std::span<std::int64_t> per_tensor) {
  std::vector<const std::uint64_t*> masks;
  for (const ScoreInputs& tensor : tensors) masks.push_back(tensor.mask);
  engine.popcount(tensors, masks, per_tensor);
}

template <RankEngine E>
std::int64_t live_elements(E& engine, std::span<const ScoreInputs> tensors) {
  std::vector<std::int64_t> live(tensors.size());
  live_elements(engine, tensors, live);
  return std::accumulate(live.begin(), live.end(), std::int64_t{0});
}

}  // namespace bittersweet
