#include "bracket.cuh"

#include "launch.cuh"

namespace bittersweet::cuda {

template void bracket(Stream&, const Scorer&, const Context&, const Plan&, u32);

}  // namespace bittersweet::cuda
