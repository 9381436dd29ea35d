// The vocabulary of kernel bodies: integer names and what a warp or a block does together. nvcc compiles the bodies for
// a device; the host compiler compiles the same text against the SIMT emulator of tests/support/simt.
#pragma once

#include <cstdint>

#include "bittersweet/config.hpp"
#if defined(__CUDACC__)
#include <cuda_runtime.h>
#else
#include "support/simt/simt.hpp"
#endif

#include "bittersweet/engine/device_steps.hpp"

#define BITTERSWEET_DEVICE __device__ __forceinline__

namespace bittersweet::cuda {

using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = unsigned long long;  // the type of 64-bit atomics
static_assert(sizeof(u64) == sizeof(std::uint64_t));

inline constexpr u32 everyone = ~0u;  // all lanes of a warp: no collective here is called by fewer

// Memory other than HBM (compute capability 7.5, 8.6 to 8.9, 12) needs far fewer loads in flight, by the rates of data
// sheets: registers are spared there. From 10.0 on the compiler takes more of them for the same code.
#if defined(__CUDA_ARCH__)
inline constexpr bool narrow_memory =
    __CUDA_ARCH__ < 800 || (__CUDA_ARCH__ > 800 && __CUDA_ARCH__ < 900) || __CUDA_ARCH__ >= 1200;
inline constexpr bool blackwell = __CUDA_ARCH__ >= 1000;
#else
inline constexpr bool narrow_memory = false, blackwell = false;
#endif

BITTERSWEET_DEVICE u32 lane_id() { return threadIdx.x & 31u; }
BITTERSWEET_DEVICE u32 warp_id() { return threadIdx.x >> 5; }
BITTERSWEET_DEVICE u32 lanes_below() { return (1u << lane_id()) - 1; }
BITTERSWEET_DEVICE u64 first_warp() { return u64{blockIdx.x} * (blockDim.x >> 5) + warp_id(); }
BITTERSWEET_DEVICE u64 warps() { return u64{gridDim.x} * (blockDim.x >> 5); }
BITTERSWEET_DEVICE u64 first_thread() { return u64{blockIdx.x} * blockDim.x + threadIdx.x; }
BITTERSWEET_DEVICE u64 all_threads() { return u64{gridDim.x} * blockDim.x; }

// A block among those that do one thing together: the whole grid, or a part of it.
struct Part {
  u32 block, blocks;
  BITTERSWEET_DEVICE u64 first_thread() const { return u64{block} * blockDim.x + threadIdx.x; }
  BITTERSWEET_DEVICE u64 threads() const { return u64{blocks} * blockDim.x; }
  BITTERSWEET_DEVICE u64 first_warp() const { return u64{block} * (blockDim.x >> 5) + warp_id(); }
  BITTERSWEET_DEVICE u64 warps() const { return u64{blocks} * (blockDim.x >> 5); }
};

BITTERSWEET_DEVICE void add(std::uint64_t* to, u64 count) { atomicAdd(reinterpret_cast<u64*>(to), count); }
BITTERSWEET_DEVICE void add(std::int64_t* to, std::int64_t count) {
  atomicAdd(reinterpret_cast<u64*>(to), static_cast<u64>(count));
}

BITTERSWEET_DEVICE u64 warp_sum(u64 value) {
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(everyone, value, step);
  return value;
}

BITTERSWEET_DEVICE u32 warp_sum32(u32 value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(everyone, value, step);
  return value;
#else
  return __reduce_add_sync(everyone, value);
#endif
}

// Adds a count of every lane to one number, by one atomic a warp.
template <class T>
BITTERSWEET_DEVICE void add_warp(T* to, u64 count) {
  const u64 sum = warp_sum(count);
  if (lane_id() == 0 && sum != 0) add(to, sum);
}

// Adds every lane's count to its bin (`device::none`: no bin), called by a whole warp. Equal scores share a bin, and a
// thousand atomics on one number wait for each other: those of the first lane's bin go as one.
BITTERSWEET_DEVICE void add_to_bins(std::int64_t* bins, u64 bin, u32 count) {
  const bool counts = bin != device::none && count > 0;
  const u32 all = __ballot_sync(everyone, counts);
  if (all == 0) return;
  const u32 leader = static_cast<u32>(__ffs(all)) - 1;
  const u64 common = __shfl_sync(everyone, bin, leader);
  const bool together = counts && bin == common;
  const u32 sum = warp_sum32(together ? count : 0);
  if (lane_id() == leader) add(bins + common, static_cast<std::int64_t>(sum));
  if (counts && !together) add(bins + bin, static_cast<std::int64_t>(count));
}

struct FindShared {
  u64 warp[32];
  device::Found found;
};

// The bin, of `bins` with counts count_at(b), that holds the order_of(total)-th. Called by a whole block; every thread
// gets the answer. An order of 0, or beyond the total, gives bin 0 with nothing in it.
template <class CountAt, class OrderOf>
BITTERSWEET_DEVICE device::Found find_bin(u64 bins, const CountAt& count_at, const OrderOf& order_of,
                                          FindShared& shared) {
  const u64 each = (bins + blockDim.x - 1) / blockDim.x;
  const u64 first = threadIdx.x * each, last = first + each < bins ? first + each : bins;
  u64 mine = 0;
  for (u64 b = first; b < last; ++b) mine += count_at(b);
  u64 upto = mine;
  for (u32 step = 1; step < 32; step *= 2) {
    const u64 other = __shfl_up_sync(everyone, upto, step);
    if (lane_id() >= step) upto += other;
  }
  __syncthreads();  // the last use of `shared` is over
  if (lane_id() == 31) shared.warp[warp_id()] = upto;
  if (threadIdx.x == 0) shared.found = {};
  __syncthreads();
  u64 before = 0, total = 0;
  for (u32 w = 0; w < blockDim.x >> 5; ++w) {
    if (w < warp_id()) before += shared.warp[w];
    total += shared.warp[w];
  }
  upto += before;
  const u64 order = order_of(total);
  if (order > upto - mine && order <= upto) {
    u64 below = upto - mine, b = first, count = count_at(b);
    while (order > below + count) {
      below += count;
      count = count_at(++b);
    }
    shared.found = {b, below, count, total};
  }
  __syncthreads();
  device::Found found = shared.found;
  found.total = total;
  return found;
}

// A block's own histogram, merged into one in device memory.
struct BinsShared {
  u32 bin[device::bins];
};

BITTERSWEET_DEVICE void clear_bins(BinsShared& shared) {
  for (u32 b = threadIdx.x; b < device::bins; b += blockDim.x) shared.bin[b] = 0;
  __syncthreads();
}

template <class Count>
BITTERSWEET_DEVICE void merge_bins(const BinsShared& shared, Count* bins) {
  __syncthreads();
  for (u32 b = threadIdx.x; b < device::bins; b += blockDim.x)
    if (shared.bin[b] != 0) {
      if constexpr (sizeof(Count) == 4)
        atomicAdd(bins + b, shared.bin[b]);
      else
        add(bins + b, shared.bin[b]);
    }
}

// For a whole block, behind its last look at the digits that were counted.
BITTERSWEET_DEVICE void clear_digits(device::State& state) {
  __syncthreads();
  for (u32 b = threadIdx.x; b < sizeof state.sample_bins / 4; b += blockDim.x)
    state.sample_bins[b / device::bins][b % device::bins] = 0;
}

}  // namespace bittersweet::cuda
