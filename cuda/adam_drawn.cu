#include "adam.cuh"
#include "launch.cuh"

namespace bittersweet::cuda {

template void adam_drawn(Stream&, const AdamPlan&);

}  // namespace bittersweet::cuda
