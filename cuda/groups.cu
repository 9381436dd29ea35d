#include "groups.cuh"

#include "launch.cuh"

namespace bittersweet::cuda {

template void rank_groups(Stream&, const Scorer&, const GroupContext&, const Work&, const Work&);

}  // namespace bittersweet::cuda
