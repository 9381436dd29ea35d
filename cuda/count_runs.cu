#include "count_runs.cuh"

#include "chunk_scores.cuh"

#include "launch.cuh"

namespace bittersweet::cuda {

template void count_runs(Stream&, const Scorer&, const Row&, float, const RunRange&, std::span<std::int64_t>);
template void count_chunks(Stream&, const Scorer&, const Tasks&, float, float, BracketCounts*);

}  // namespace bittersweet::cuda
