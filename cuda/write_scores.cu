#include "write_scores.cuh"

#include "launch.cuh"

namespace bittersweet::cuda {

template void write_scores(Stream&, const Scorer&, std::span<const Row>);

}  // namespace bittersweet::cuda
