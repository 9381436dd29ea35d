#include "ordered.cuh"

#include "launch.cuh"

namespace bittersweet::cuda {

template void place_candidates(Stream&, const Context&);
template void find_nan(Stream&, const Scorer&, const Context&, const Work&, const std::uint64_t*);
template void order_ties(Stream&, const Scorer&, const Context&, const Work&);

}  // namespace bittersweet::cuda
