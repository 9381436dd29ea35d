// Compiled, never run: the umbrella header is fit for nvcc, and each formula of THE LIST is device code as it stands.
// A text for both sides may be given what only the host has: no warning.
#include "bittersweet/bittersweet.hpp"

namespace {

template <class S>
__global__ void score_all(S scorer, const bittersweet::Elements<float>* elements, float* scores) {
  scores[threadIdx.x] = scorer(elements[threadIdx.x]);
  if constexpr (bittersweet::HasPower<S>) scores[blockDim.x + threadIdx.x] = scorer.powered(elements[threadIdx.x]);
}

}  // namespace

void launch_every_scorer(const bittersweet::Elements<float>* elements, float* scores) {
  bittersweet::for_each_scorer([&](const auto& scorer) { score_all<<<1, 32>>>(scorer, elements, scores); });
}

std::vector<std::int64_t> share_on_the_host(std::span<const bittersweet::ScoreInputs> tensors,
                                            std::span<const std::int64_t> dead) {
  return bittersweet::allocate(tensors, dead, bittersweet::Distribution::erk, 5, 10, {});
}
