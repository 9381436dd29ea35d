#include "histogram.cuh"

#include "launch.cuh"

namespace bittersweet::cuda {

template void histogram(Stream&, const Scorer&, const Context&, const Work&, u32);

}  // namespace bittersweet::cuda
