#include "histogram.cuh"

#include "digit_bins.cuh"

#include "launch.cuh"

namespace bittersweet::cuda {

template void histogram(Stream&, const Scorer&, const Context&, const Work&, u32);
template void digit_bins(Stream&, const Scorer&, const Work&, const Digit&, std::span<std::int64_t>);

}  // namespace bittersweet::cuda
