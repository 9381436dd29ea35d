#include "sample.cuh"

#include "gather.cuh"

#include "launch.cuh"

namespace bittersweet::cuda {

template void sample(Stream&, const Scorer&, const Context&);
template void gather(Stream&, const Scorer&, const Work&, u32, u32, u64, const std::int64_t*, float*);

}  // namespace bittersweet::cuda
