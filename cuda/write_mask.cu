#include "write_mask.cuh"

#include "chunk_scores.cuh"

#include "launch.cuh"

namespace bittersweet::cuda {

template void write_mask(Stream&, const Scorer&, const Context&, const Work&);
template void write_chunks(Stream&, const Scorer&, const Tasks&, float, std::uint64_t*);

}  // namespace bittersweet::cuda
