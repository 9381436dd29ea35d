#include "tally.cuh"

#include "launch.cuh"

namespace bittersweet::cuda {

template void tally(Stream&, const Context&, const u32*, const KeyRange&, std::span<std::int64_t>);

}  // namespace bittersweet::cuda
