#include "count_runs.cuh"

#include "launch.cuh"

namespace bittersweet::cuda {

template void count_runs(Stream&, const Scorer&, const Row&, float, const RunRange&, std::span<std::int64_t>);

}  // namespace bittersweet::cuda
