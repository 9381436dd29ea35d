#include "support/simt/emulated_ranks.hpp"

#include "cuda/bracket.cuh"
#include "cuda/chunk_scores.cuh"
#include "cuda/count_runs.cuh"
#include "cuda/digit_bins.cuh"
#include "cuda/gather.cuh"
#include "cuda/group_digits.cuh"
#include "cuda/ordered.cuh"

namespace bittersweet::cuda {

template void bracket(Launcher&, const Scorer&, const Context&, const Plan&, u32);
template void find_nan(Launcher&, const Scorer&, const Context&, const Work&, const std::uint64_t*);
template void count_runs(Launcher&, const Scorer&, const Row&, float, const RunRange&, std::span<std::int64_t>);
template void gather(Launcher&, const Scorer&, const Work&, u32, u32, u64, const std::int64_t*, float*);
template void digit_bins(Launcher&, const Scorer&, const Work&, const Digit&, std::span<std::int64_t>);
template void count_chunks(Launcher&, const Scorer&, const Tasks&, float, float, BracketCounts*);
template void write_chunks(Launcher&, const Scorer&, const Tasks&, float, std::uint64_t*);
template void rank_groups(Launcher&, const Scorer&, const GroupContext&, const Work&, const Work&);
template void cut_rows(Launcher&, const Scorer&, const GroupContext&, const Work&, const Work&);
template void cut_by_digits(Launcher&, const Scorer&, const GroupContext&, const Work&);

template class RanksEngine<Launcher>;

}  // namespace bittersweet::cuda
