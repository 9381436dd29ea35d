// The engine of decisions over ranks on the SIMT emulator, in device memory of its own.
#pragma once

#include <vector>

#include "cuda/ranks_engine.cuh"

namespace bittersweet::cuda {

// Compiled in emulated_ranks.cpp.
using simt::Launcher;
extern template void bracket(Launcher&, const Scorer&, const Context&, const Plan&, u32);
extern template void find_nan(Launcher&, const Scorer&, const Context&, const Work&, const std::uint64_t*);
extern template void count_runs(Launcher&, const Scorer&, const Row&, float, const RunRange&, std::span<std::int64_t>);
extern template void gather(Launcher&, const Scorer&, const Work&, u32, u32, u64, const std::int64_t*, float*);
extern template void digit_bins(Launcher&, const Scorer&, const Work&, const Digit&, std::span<std::int64_t>);
extern template void count_chunks(Launcher&, const Scorer&, const Tasks&, float, float, BracketCounts*);
extern template void write_chunks(Launcher&, const Scorer&, const Tasks&, float, std::uint64_t*);
extern template void rank_groups(Launcher&, const Scorer&, const GroupContext&, const Work&, const Work&);
extern template void cut_rows(Launcher&, const Scorer&, const GroupContext&, const Work&, const Work&);
extern template void cut_by_digits(Launcher&, const Scorer&, const GroupContext&, const Work&);
extern template class RanksEngine<Launcher>;

}  // namespace bittersweet::cuda

namespace bittersweet::test {

namespace detail {

struct DeviceMemory {
  std::vector<ScoreInputs> sizes;  // of the largest models
  std::vector<unsigned char> bytes;

  DeviceMemory() : sizes(64) {
    sizes[0].numel = std::int64_t{1} << 20;
    sizes[0].order = {2, std::int64_t{1} << 19};
    bytes.resize(cuda::ranks_layout(sizes).bytes);
    simt::fill_with_rubbish(bytes.data(), bytes.size());
  }
};

}  // namespace detail

// Up to 64 tensors of 2^20 elements together. `seed` draws the order in which threads go on.
class EmulatedRanks : private detail::DeviceMemory, public cuda::RanksEngine<simt::Launcher> {
 public:
  explicit EmulatedRanks(std::uint64_t seed = 1, unsigned processors = 2)
      : RanksEngine(sizes, DeviceMemory::bytes.data(), DeviceMemory::bytes.size()), launcher_(seed * 1000, processors) {
    use(launcher_);
  }
  EmulatedRanks(const EmulatedRanks&) = delete;
  EmulatedRanks& operator=(const EmulatedRanks&) = delete;

 private:
  simt::Launcher launcher_;
};

static_assert(RankEngine<EmulatedRanks>);

}  // namespace bittersweet::test
