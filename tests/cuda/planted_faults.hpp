// Kernels with one fault each, K<Fault::planted>, and their twins without it, K<Fault::mended>. Both do the same thing.
#pragma once

#include "support/simt/simt.hpp"

namespace planted {

enum class Fault { planted, mended };

struct Args {
  unsigned* in;     // `room` numbers, each its own index
  unsigned* out;    // `room` zeros
  unsigned* count;  // a zero
};
inline constexpr unsigned room = 256;

struct Kernel {
  static constexpr unsigned threads = 64, grid = 2;
  using Args = planted::Args;
  struct Shared {
    unsigned value[threads];
    unsigned sum;
    bool last;
  };
};

inline unsigned mine() { return blockIdx.x * blockDim.x + threadIdx.x; }
inline unsigned lane() { return threadIdx.x % 32; }
inline void clear(Kernel::Shared& shared) {
  shared.value[threadIdx.x] = 0;
  __syncthreads();
}

// ---- races ----

template <Fault F>
struct SharedWritesOfTwoWarps : Kernel {
  static void body(const Args& args, Shared& shared) {
    if (F == Fault::planted ? threadIdx.x % 32 == 0 : threadIdx.x == 0) shared.sum = 7;
    __syncthreads();
    args.out[mine()] = shared.sum;
  }
};

template <Fault F>
struct SharedWritesOfTwoLanes : Kernel {
  static constexpr unsigned threads = 32;
  static void body(const Args& args, Shared& shared) {
    if (F == Fault::planted ? lane() < 2 : lane() == 1) shared.sum = lane();
    __syncwarp();
    args.out[mine()] = shared.sum;
  }
};

template <Fault F>
struct MissingSyncwarp : Kernel {
  static void body(const Args& args, Shared& shared) {
    clear(shared);
    shared.value[threadIdx.x] = threadIdx.x;
    if (F == Fault::mended) __syncwarp();
    args.out[mine()] = shared.value[threadIdx.x ^ 1u];
  }
};

template <Fault F>
struct ShuffleForSyncwarp : Kernel {
  static void body(const Args& args, Shared& shared) {
    clear(shared);
    shared.value[threadIdx.x] = __shfl_xor_sync(~0u, threadIdx.x, 1u);
    if (F == Fault::planted)
      (void)__shfl_sync(~0u, threadIdx.x, 0u);
    else
      __syncwarp();
    args.out[mine()] = shared.value[threadIdx.x ^ 1u];
  }
};

template <Fault F>
struct BallotForSyncwarp : Kernel {
  static void body(const Args& args, Shared& shared) {
    clear(shared);
    shared.value[threadIdx.x] = threadIdx.x;
    if (F == Fault::planted)
      (void)__ballot_sync(~0u, true);
    else
      __syncwarp();
    args.out[mine()] = shared.value[threadIdx.x ^ 1u];
  }
};

template <Fault F>
struct MissingSyncthreads : Kernel {
  static void body(const Args& args, Shared& shared) {
    clear(shared);
    shared.value[threadIdx.x] = threadIdx.x;
    if (F == Fault::planted)
      __syncwarp();  // of one warp; what is read is the other's
    else
      __syncthreads();
    args.out[mine()] = shared.value[threads - 1 - threadIdx.x];
  }
};

template <Fault F>
struct MissingSyncthreadsBeforeReuse : Kernel {
  static void body(const Args& args, Shared& shared) {
    for (unsigned round = 0; round < 2; ++round) {
      shared.value[threadIdx.x] = round;
      __syncthreads();
      args.out[mine()] += shared.value[threads - 1 - threadIdx.x];
      if (F == Fault::mended) __syncthreads();
    }
  }
};

template <Fault F>
struct GlobalWritesOfTwoBlocks : Kernel {
  static void body(const Args& args, Shared&) {
    if (threadIdx.x == 0) args.out[F == Fault::planted ? 0 : blockIdx.x] = 7;
  }
};

template <Fault F>
struct GlobalReadOfAnotherBlocksWrite : Kernel {
  static void body(const Args& args, Shared&) {
    args.in[mine()] = 7;
    __syncthreads();
    const unsigned from = F == Fault::planted ? mine() ^ blockDim.x : mine() ^ 1u;
    args.out[mine()] = args.in[from];
  }
};

template <Fault F>
struct GlobalReadOfAnotherWarpsWrite : Kernel {
  static void body(const Args& args, Shared&) {
    args.in[mine()] = 7;
    if (F == Fault::planted)
      __syncwarp();
    else
      __syncthreads();
    args.out[mine()] = args.in[mine() ^ 32u];
  }
};

template <Fault F>
struct GlobalReadOfAnotherLanesWrite : Kernel {
  static void body(const Args& args, Shared&) {
    args.in[mine()] = 7;
    if (F == Fault::mended) __syncwarp();
    args.out[mine()] = args.in[mine() ^ 1u];
  }
};

template <Fault F>
struct CountWithoutAtomic : Kernel {
  static void body(const Args& args, Shared&) {
    if (F == Fault::planted)
      ++*args.count;
    else
      atomicAdd(args.count, 1u);
  }
};

template <Fault F>
struct PlainReadBesideAtomics : Kernel {
  static void body(const Args& args, Shared&) {
    atomicAdd(args.count, 1u);
    const unsigned seen = F == Fault::planted ? *args.count : atomicAdd(args.count, 0u);
    if (seen > 0) args.out[mine()] = 1;
  }
};

template <Fault F>
struct BitsOfOneWord : Kernel {
  static void body(const Args& args, Shared&) {
    if (F == Fault::planted)
      args.in[blockIdx.x] &= ~(1u << lane());
    else
      atomicAnd(args.in + blockIdx.x, ~(1u << lane()));
  }
};

// The block that counts itself last adds up what all blocks have left.
template <bool Barrier, bool Release, bool Acquire>
struct LastBlock : Kernel {
  static void body(const Args& args, Shared& shared) {
    args.in[mine()] = 1;
    if (Barrier) __syncthreads();
    if (threadIdx.x == 0) {
      if (Release) __threadfence();
      shared.last = atomicAdd(args.count, 1u) == gridDim.x - 1;
      if (Acquire) __threadfence();
    }
    __syncthreads();
    if (!shared.last || threadIdx.x != 0) return;
    unsigned sum = 0;
    for (unsigned i = 0; i < gridDim.x * blockDim.x; ++i) sum += args.in[i];
    *args.out = sum;
  }
};
template <Fault F>
struct LastBlockWithoutFences : LastBlock<true, F == Fault::mended, F == Fault::mended> {};
template <Fault F>
struct LastBlockWithoutReleasingFence : LastBlock<true, F == Fault::mended, true> {};
template <Fault F>
struct LastBlockWithoutAcquiringFence : LastBlock<true, true, F == Fault::mended> {};
template <Fault F>
struct LastBlockWithoutBarrier : LastBlock<F == Fault::mended, true, true> {};

// ---- meetings ----

template <Fault F>
struct BarrierInDivergentCode : Kernel {
  static void body(const Args& args, Shared&) {
    if (F == Fault::mended || threadIdx.x != 5) __syncthreads();
    args.out[mine()] = 1;
  }
};

template <Fault F>
struct BarriersOfTwoBranches : Kernel {
  static void body(const Args& args, Shared&) {
    if (F == Fault::mended) {
      __syncthreads();
    } else if (threadIdx.x < 32) {
      __syncthreads();
      args.out[mine()] = 2;
    } else {
      __syncthreads();
    }
    args.out[mine()] = 1;
  }
};

template <Fault F>
struct ReturnBeforeBarrier : Kernel {
  static void body(const Args& args, Shared& shared) {
    const bool works = threadIdx.x < 40;
    if (F == Fault::planted && !works) return;
    if (works) shared.value[threadIdx.x] = 1;
    __syncthreads();
    if (works) args.out[mine()] = shared.value[39 - threadIdx.x];
  }
};

template <Fault F>
struct ShuffleWithLanesMissing : Kernel {
  static void body(const Args& args, Shared&) {
    unsigned other = 0;
    if (F == Fault::mended || lane() < 16) other = __shfl_xor_sync(~0u, lane(), 1u);
    args.out[mine()] = other;
  }
};

template <Fault F>
struct BallotAfterReturn : Kernel {
  static void body(const Args& args, Shared&) {
    const bool works = lane() != 31;
    if (F == Fault::planted && !works) return;
    const unsigned all = __ballot_sync(~0u, works);
    if (works) args.out[mine()] = all;
  }
};

template <Fault F>
struct MaskOfSomeLanes : Kernel {
  static void body(const Args& args, Shared&) {
    args.out[mine()] = __ballot_sync(F == Fault::planted ? 0xffffu : ~0u, lane() < 16);
  }
};

template <Fault F>
struct ShufflesAtTwoPlaces : Kernel {
  static void body(const Args& args, Shared&) {
    unsigned other;
    if (F == Fault::mended)
      other = __shfl_xor_sync(~0u, lane() % 2 + 1, 1u);
    else if (lane() % 2)
      other = __shfl_xor_sync(~0u, 2u, 1u);
    else
      other = __shfl_xor_sync(~0u, 1u, 1u);
    args.out[mine()] = other;
  }
};

template <Fault F>
struct SumAndBallotMeet : Kernel {
  static void body(const Args& args, Shared&) {
    unsigned sum;
    if (F == Fault::mended || lane() % 2)
      sum = __reduce_add_sync(~0u, 1u);
    else
      sum = __ballot_sync(~0u, true);
    args.out[mine()] = sum;
  }
};

template <Fault F>
struct WaitForALaterBlock : Kernel {  // run with one block alive at a time, as on a device that is full
  static void body(const Args& args, Shared&) {
    if (threadIdx.x != 0) return;
    atomicAdd(args.count, 1u);
    if (F == Fault::planted)
      while (atomicAdd(args.count, 0u) < gridDim.x) {
      }
  }
};

template <Fault F>
struct WaitForAFlagOfNobody : Kernel {
  static void body(const Args& args, Shared&) {
    const volatile unsigned* flag = args.count;
    if (F == Fault::planted && mine() == 0)
      while (*flag == 0) {
      }
    args.out[mine()] = 1;
  }
};

// ---- addresses ----

template <Fault F>
struct MisalignedVectorLoad : Kernel {
  static void body(const Args& args, Shared&) {
    args.out[mine()] = __ldcs(reinterpret_cast<const uint4*>(args.in + (F == Fault::planted ? 1 : 4))).x;
  }
};

template <Fault F>
struct MisalignedVectorStore : Kernel {
  static void body(const Args& args, Shared&) {
    if (mine() == 0) __stcs(reinterpret_cast<uint2*>(args.out + (F == Fault::planted ? 1 : 2)), uint2{1, 2});
  }
};

template <Fault F>
struct MisalignedVectorByPointer : Kernel {
  static void body(const Args& args, Shared&) {
    const uint4 x = *reinterpret_cast<const uint4*>(args.in + (F == Fault::planted ? 2 : 4));
    args.out[mine()] = x.x + x.y + x.z + x.w;
  }
};

template <Fault F>
struct MisalignedNumber : Kernel {
  static void body(const Args& args, Shared&) {
    const char* bytes = reinterpret_cast<const char*>(args.in) + (F == Fault::planted ? 6 : 8);
    args.out[mine()] = *reinterpret_cast<const unsigned*>(bytes);
  }
};

template <Fault F>
struct SharedOfLessAlignmentThanVectors : Kernel {
  struct Plain {
    unsigned value[threads];
  };
  struct alignas(16) Aligned : Plain {};
  using Shared = std::conditional_t<F == Fault::planted, Plain, Aligned>;
  static void body(const Args& args, Shared& shared) {
    shared.value[threadIdx.x] = 1;
    __syncthreads();
    args.out[mine()] = __ldcs(reinterpret_cast<const uint4*>(shared.value)).x;
  }
};

template <Fault F>
struct ReadBehindTheEnd : Kernel {
  static void body(const Args& args, Shared&) {
    for (unsigned i = mine(); F == Fault::planted ? i <= room : i < room; i += gridDim.x * blockDim.x)
      args.out[mine()] += args.in[i];
  }
};

template <Fault F>
struct WriteBehindTheEnd : Kernel {
  static void body(const Args& args, Shared&) {
    if (mine() == 0) args.out[F == Fault::planted ? room : room - 1] = 1;
  }
};

template <Fault F>
struct AtomicBehindTheEnd : Kernel {
  static void body(const Args& args, Shared&) { atomicAdd(args.count + (F == Fault::planted ? 1 : 0), 1u); }
};

template <Fault F>
struct ReadBeforeTheBegin : Kernel {
  static void body(const Args& args, Shared&) {
    const int at = static_cast<int>(mine()) - 1;
    if (F == Fault::planted || at >= 0) args.out[mine()] = args.in[at];
  }
};

template <Fault F>
struct VectorOverTheEnd : Kernel {
  static void body(const Args& args, Shared&) {
    const unsigned* from = F == Fault::planted ? args.count : args.in + room - 2;
    const uint2 pair = __ldcs(reinterpret_cast<const uint2*>(from));
    args.out[mine()] = pair.x + pair.y;
  }
};

template <Fault F>
struct NullPointer : Kernel {
  static void body(const Args& args, Shared&) {
    const unsigned* mask = nullptr;
    asm volatile("" : "+r"(mask));  // where the compiler does not see it
    if (F == Fault::planted || mask != nullptr) args.out[mine()] = mask[mine()];
  }
};

template <Fault F>
struct IndexBehindASharedArray : Kernel {
  static void body(const Args& args, Shared& shared) {
    const unsigned last = F == Fault::planted ? threads : threads - 1;  // `sum` lies behind
    shared.value[threadIdx.x] = 1;
    if (threadIdx.x == 0) shared.sum = 1;
    __syncthreads();
    for (unsigned i = threadIdx.x; i <= last; i += threads) args.out[mine()] = shared.value[i];
  }
};

template <Fault F>
struct PointerBehindSharedMemory : Kernel {
  struct Shared {
    unsigned value[threads];
  };
  static void body(const Args&, Shared& shared) {
    unsigned* to = shared.value + threadIdx.x;
    if (F == Fault::planted) to += 1;
    *to = 1;
  }
};

template <Fault F>
struct SharedMemoryOfAnotherBlock : Kernel {
  static void body(const Args& args, Shared& shared) {
    shared.value[threadIdx.x] = 1;
    unsigned* to = shared.value + threadIdx.x;
    if (F == Fault::planted && blockIdx.x == 1) {  // where block 0 has its own, as it was left in global memory
      std::uint64_t address = 0;
      while (address == 0) address = atomicMax(reinterpret_cast<std::uint64_t*>(args.out), std::uint64_t{0});
      to = reinterpret_cast<unsigned*>(address) + threadIdx.x;
    } else if (F == Fault::planted && threadIdx.x == 0) {
      atomicMax(reinterpret_cast<std::uint64_t*>(args.out), reinterpret_cast<std::uint64_t>(to));
    }
    *to = 2;
  }
};

template <Fault F>
struct WriteToArguments : Kernel {
  static void body(const Args& args, Shared&) {
    Args copy = args;
    (F == Fault::planted ? const_cast<Args&>(args) : copy).count = args.out;
    if (mine() == 0) *copy.count = 1;
  }
};

// ---- what nobody has written ----

template <Fault F>
struct UnwrittenShared : Kernel {
  static void body(const Args& args, Shared& shared) {
    if (F == Fault::mended && threadIdx.x == 0) shared.sum = 0;
    __syncthreads();
    atomicAdd(&shared.sum, threadIdx.x);
    __syncthreads();
    args.out[mine()] = shared.sum;
  }
};

struct Fill : Kernel {
  static void body(const Args& args, Shared&) { args.out[mine()] = 1; }
};
struct Take : Kernel {
  static void body(const Args& args, Shared&) { args.in[mine()] = args.out[mine()]; }
};

// ---- counters ----

template <Fault F>
struct WrappingCounter : Kernel {  // 128 threads add 2^25 each: 2^32
  static void body(const Args& args, Shared&) {
    if (F == Fault::planted)
      atomicAdd(args.count, 1u << 25);
    else
      atomicAdd(reinterpret_cast<std::uint64_t*>(args.out), std::uint64_t{1} << 25);
  }
};

template <Fault F>
struct WrappingSharedBin : Kernel {
  struct Shared {
    std::conditional_t<F == Fault::planted, unsigned, std::uint64_t> bin;
  };
  static void body(const Args& args, Shared& shared) {
    if (threadIdx.x == 0) shared.bin = 0;
    __syncthreads();
    atomicAdd(&shared.bin, 1u << 26);
    __syncthreads();
    if (mine() == 0) args.out[0] = static_cast<unsigned>(shared.bin >> 31);
  }
};

template <Fault F>
struct WrappingSumOfAWarp : Kernel {
  static void body(const Args& args, Shared&) {
    args.out[mine()] = __reduce_add_sync(~0u, F == Fault::planted ? 1u << 27 : 1u << 26);
  }
};

// ---- launches ----

template <unsigned Threads, std::size_t SharedBytes, std::size_t ArgsBytes>
struct Sized {
  static constexpr unsigned threads = Threads;
  struct Args {
    char bytes[ArgsBytes];
  };
  struct Shared {
    char bytes[SharedBytes];
  };
};

}  // namespace planted
