#include "rows.cuh"

#include "launch.cuh"

namespace bittersweet::cuda {

template void cut_rows(Stream&, const Scorer&, const GroupContext&, const Work&, const Work&);

}  // namespace bittersweet::cuda
