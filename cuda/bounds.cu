#include "bounds.cuh"

#include "launch.cuh"

namespace bittersweet::cuda {

template void bound_digit(Stream&, const Scorer&, const BoundsArgs&, const Work&, u32);

}  // namespace bittersweet::cuda
