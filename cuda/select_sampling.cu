#include "select_sampling.cuh"

#include "launch.cuh"

namespace bittersweet::cuda {

template void sample_scores(Stream&, const Scorer&, const SearchContext&);

}  // namespace bittersweet::cuda
