// The emulator itself: collectives and memory do what a device's do, and it finds the faults that it is there to find.
#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "support/simt/simt.hpp"

namespace {

// A known fault of selection kernels: the block that counts itself last reads what all have added up, although other
// threads of the same block, or of others, may not have added yet when their block's first thread says "done".
struct LastBlock {
  static constexpr unsigned threads = 64, blocks = 4;
  struct Args {
    unsigned* bins;
    unsigned* done;
    unsigned* seen;
    bool barrier;
  };
  struct Shared {
    bool last;
  };
  static void body(const Args& args, Shared& shared) {
    atomicAdd(args.bins + threadIdx.x, 1u);
    if (args.barrier) __syncthreads();
    if (threadIdx.x == 0) shared.last = atomicAdd(args.done, 1u) == gridDim.x - 1;
    __syncthreads();
    if (shared.last && threadIdx.x == 0)
      for (unsigned t = 0; t < threads; ++t) *args.seen += args.bins[t];
  }
};

int wrong_sums(bool barrier) {
  int wrong = 0;
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    std::vector<unsigned> bins(LastBlock::threads);
    unsigned done = 0, seen = 0;
    simt::Launcher(seed).launch<LastBlock>(LastBlock::blocks, {bins.data(), &done, &seen, barrier});
    EXPECT_EQ(std::accumulate(bins.begin(), bins.end(), 0u), LastBlock::threads * LastBlock::blocks);
    wrong += seen != LastBlock::threads * LastBlock::blocks;
  }
  return wrong;
}

TEST(Simt, FindsTheLastBlockRace) {
  EXPECT_GT(wrong_sums(false), 0);
  EXPECT_EQ(wrong_sums(true), 0);
}

struct Collectives {
  static constexpr unsigned threads = 96, blocks = 3;
  struct Args {
    std::vector<std::uint64_t>* sum;
  };
  struct Shared {
    unsigned value[threads];
  };
  static void body(const Args& args, Shared& shared) {
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    shared.value[threadIdx.x] = threadIdx.x * (blockIdx.x + 1);
    __syncthreads();
    const unsigned across = shared.value[blockDim.x - 1 - threadIdx.x];
    EXPECT_EQ(across, (blockDim.x - 1 - threadIdx.x) * (blockIdx.x + 1));
    for (unsigned round = 0; round < 5; ++round) {
      EXPECT_EQ(__shfl_xor_sync(~0u, lane + round, 1), (lane ^ 1u) + round);
      EXPECT_EQ(__shfl_sync(~0u, double(lane), round), double(round));
      EXPECT_EQ(__shfl_up_sync(~0u, lane, 4), lane < 4 ? lane : lane - 4);
      EXPECT_EQ(__ballot_sync(~0u, (lane + round) % 2 == 0), round % 2 ? 0xaaaaaaaau : 0x55555555u);
      EXPECT_EQ(__reduce_add_sync(~0u, lane), 496u);
    }
    atomicAdd(&(*args.sum)[blockIdx.x], std::uint64_t{warp});
  }
};

TEST(Simt, Collectives) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    std::vector<std::uint64_t> sum(Collectives::blocks);
    simt::Launcher(seed).launch<Collectives>(Collectives::blocks, {&sum});
    EXPECT_EQ(sum, std::vector<std::uint64_t>(Collectives::blocks, 96));
  }
}

// Lanes run apart: what one writes to shared memory is there for another only after a meeting.
struct WithoutSync {
  static constexpr unsigned threads = 32, blocks = 1;
  struct Args {
    bool sync;
    int* stale;
  };
  struct Shared {
    unsigned value[threads];
  };
  static void body(const Args& args, Shared& shared) {
    shared.value[threadIdx.x] = threadIdx.x;
    if (args.sync) __syncwarp();
    *args.stale += shared.value[31 - threadIdx.x] != 31 - threadIdx.x;
  }
};

TEST(Simt, MissingSyncwarpShows) {
  int stale = 0;
  simt::Launcher(1).launch<WithoutSync>(1, {false, &stale});
  EXPECT_GT(stale, 0);
  stale = 0;
  simt::Launcher(1).launch<WithoutSync>(1, {true, &stale});
  EXPECT_EQ(stale, 0);
}

struct Fault {
  static constexpr unsigned threads = 64, blocks = 1;
  using Args = int;
  struct Shared {};
  static void body(const int& kind, Shared&) {
    alignas(16) char bytes[32] = {};
    if (kind == 0 && threadIdx.x == 3) (void)__ldcs(reinterpret_cast<const uint4*>(bytes + 4));
    if (kind == 1 && threadIdx.x != 5) __syncthreads();
    if (kind == 2) {
      if (threadIdx.x % 2)
        __syncwarp();
      else
        (void)__ballot_sync(~0u, true);
    }
    if (kind == 3) (void)__ballot_sync(0xffffu, true);
  }
};

TEST(SimtDeathTest, FaultsStopTheProgram) {
  const auto launch = [](int kind) { simt::Launcher(7).launch<Fault>(1, kind); };
  EXPECT_DEATH(launch(0), "misaligned vector");
  EXPECT_DEATH(launch(1), "never come");
  EXPECT_DEATH(launch(2), "different collectives");
  EXPECT_DEATH(launch(3), "without all lanes");
}

}  // namespace
