#include "select_streaming.cuh"

#include "launch.cuh"

namespace bittersweet::cuda {

template void stream(Stream&, const Scorer&, const SearchContext&, const Work&, const Work&);

}  // namespace bittersweet::cuda
