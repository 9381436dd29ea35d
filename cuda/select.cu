#include "select.cuh"

#include "guess.cuh"
#include "launch.cuh"

namespace bittersweet::cuda {

template void guess(Stream&, const Context&);
template void plan_retry(Stream&, const Context&);
template void select_candidates(Stream&, const Context&);

}  // namespace bittersweet::cuda
