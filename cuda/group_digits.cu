#include "group_digits.cuh"

#include "launch.cuh"

namespace bittersweet::cuda {

template void cut_by_digits(Stream&, const Scorer&, const GroupContext&, const Work&);

}  // namespace bittersweet::cuda
