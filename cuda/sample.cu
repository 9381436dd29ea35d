#include "sample.cuh"

#include "launch.cuh"

namespace bittersweet::cuda {

template void sample(Stream&, const Scorer&, const Context&);

}  // namespace bittersweet::cuda
