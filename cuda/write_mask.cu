#include "write_mask.cuh"

#include "launch.cuh"

namespace bittersweet::cuda {

template void write_mask(Stream&, const Scorer&, const Context&, const Work&);

}  // namespace bittersweet::cuda
