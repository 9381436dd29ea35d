// A SIMT emulator: runs kernel bodies on the host, without a GPU, to find out whether they are right.
//
// Every CUDA thread is a fibre. All blocks of a launch are alive at once, and a seeded generator picks which fibre goes
// on at every point where the order of threads can matter: collectives of a warp or a block, and atomics. The same seed
// gives the same order; different seeds give different ones.
//   - Collectives meet: all 32 lanes of a warp, or all threads of a block. A launch in which some wait for ever, lanes
//     that meet in different collectives, or a mask that is not full, stop the program with a message.
//   - A warp's lanes run apart between collectives, so what needs __syncwarp() or __syncthreads() fails without it.
//   - Shared memory is one object a block, filled with rubbish before the block begins.
//   - Vector loads and stores stop the program on a misaligned address.
// What it cannot show: rates, weakly ordered memory, approximate instructions (reciprocal roots are IEEE here).
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <type_traits>

#define __device__
#define __forceinline__ inline __attribute__((always_inline))

struct uint2 {
  unsigned x, y;
};
struct uint4 {
  unsigned x, y, z, w;
};

namespace simt {

struct Index {
  unsigned x = 0;
};

enum class Meet : unsigned { shuffle, ballot, sum, sync };

// Runs `body(block)` in grid * threads fibres, in an order drawn from `seed`.
void run(unsigned grid, unsigned threads, std::uint64_t seed, const std::function<void(unsigned block)>& body);

std::uint64_t switches() noexcept;  // between fibres, since the program began

// Called by fibres.
void yield();                                    // perhaps lets another go on
void meet_warp(Meet kind, std::uint64_t value);  // all lanes leave a value and go on when the last has come
std::uint64_t left_by(unsigned lane);            // at the last meeting
void meet_block();
[[noreturn]] void stop(const char* message);

template <class T>
std::uint64_t pack(T value) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8);
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}

template <class T>
T exchange(unsigned mask, T value, unsigned from) {
  if (mask != ~0u) stop("a collective without all lanes");
  meet_warp(Meet::shuffle, pack(value));
  const std::uint64_t bits = left_by(from & 31u);
  T result;
  std::memcpy(&result, &bits, sizeof(T));
  return result;
}

template <class T>
void check_alignment(const T* address) {
  if (reinterpret_cast<std::uintptr_t>(address) % sizeof(T) != 0) stop("a misaligned vector load or store");
}

// A launcher with the face of the CUDA one: kernel structs with Args, Shared, threads and body(args, shared).
class Launcher {
 public:
  explicit Launcher(std::uint64_t seed, unsigned processors = 2) : seed_(seed), processors_(processors) {}

  unsigned processors() const { return processors_; }

  template <class K>
  void launch(unsigned grid, const typename K::Args& args) {
    const typename K::Args copy = args;  // kernels see the arguments of the moment of the launch
    std::unique_ptr<Aligned<typename K::Shared>[]> shared(new Aligned<typename K::Shared>[grid]);
    std::memset(static_cast<void*>(shared.get()), 0xa5, grid * sizeof(Aligned<typename K::Shared>));
    ++launches_;
    run(grid, K::threads, seed_++, [&](unsigned block) { K::body(copy, shared[block].value); });
  }

  int launches() const { return launches_; }

 private:
  template <class T>
  struct Aligned {
    alignas(16) T value;
  };

  std::uint64_t seed_;
  unsigned processors_;
  int launches_ = 0;
};

// A float whose quick reciprocal root is off by up to 2^-22 either way, as a device's may be, by a hash of its
// argument: what is decided by rough scores must hold for any such instruction.
struct Rough {
  float value;
  friend Rough operator+(Rough a, Rough b) { return {a.value + b.value}; }
  friend Rough operator+(Rough a, float b) { return {a.value + b}; }
  friend Rough operator*(Rough a, Rough b) { return {a.value * b.value}; }
  friend Rough abs(Rough a) { return {std::fabs(a.value)}; }
  friend Rough quick_rsqrt(Rough a) {
    const std::uint32_t hash = std::bit_cast<std::uint32_t>(a.value) * 0x9e3779b1u >> 16;
    return {1.0f / std::sqrt(a.value) * (1.0f + (static_cast<float>(hash) * 0x1p-15f - 1.0f) * 0x1p-22f)};
  }
};

}  // namespace simt

// ---- the names that kernel bodies use ----

extern simt::Index threadIdx, blockIdx, blockDim, gridDim;

inline void __syncwarp() { simt::meet_warp(simt::Meet::sync, 0); }
inline void __syncthreads() { simt::meet_block(); }

template <class T>
T __shfl_sync(unsigned mask, T value, unsigned lane) {
  return simt::exchange(mask, value, lane);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, unsigned bits) {
  return simt::exchange(mask, value, (threadIdx.x & 31u) ^ bits);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned step) {
  const unsigned lane = threadIdx.x & 31u;
  return simt::exchange(mask, value, lane < step ? lane : lane - step);
}

inline unsigned __ballot_sync(unsigned mask, bool bit) {
  if (mask != ~0u) simt::stop("a collective without all lanes");
  simt::meet_warp(simt::Meet::ballot, bit);
  unsigned all = 0;
  for (unsigned lane = 0; lane < 32; ++lane) all |= static_cast<unsigned>(simt::left_by(lane)) << lane;
  return all;
}

inline unsigned __reduce_add_sync(unsigned mask, unsigned value) {
  if (mask != ~0u) simt::stop("a collective without all lanes");
  simt::meet_warp(simt::Meet::sum, value);
  unsigned sum = 0;
  for (unsigned lane = 0; lane < 32; ++lane) sum += static_cast<unsigned>(simt::left_by(lane));
  return sum;
}

template <class T, class F>
T simt_atomic(T* address, F&& change) {
  simt::yield();
  const T old = *address;
  *address = change(old);
  simt::yield();
  return old;
}
template <class T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  return simt_atomic(address, [&](T old) { return static_cast<T>(old + value); });
}
template <class T>
T atomicAnd(T* address, std::type_identity_t<T> value) {
  return simt_atomic(address, [&](T old) { return old & value; });
}
template <class T>
T atomicOr(T* address, std::type_identity_t<T> value) {
  return simt_atomic(address, [&](T old) { return old | value; });
}
template <class T>
T atomicMin(T* address, std::type_identity_t<T> value) {
  return simt_atomic(address, [&](T old) { return old < value ? old : value; });
}
template <class T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  return simt_atomic(address, [&](T old) { return old < value ? value : old; });
}

inline int __popc(unsigned x) { return std::popcount(x); }
inline int __ffs(int x) { return x == 0 ? 0 : std::countr_zero(static_cast<unsigned>(x)) + 1; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }

template <class T>
T __ldcs(const T* address) {
  simt::check_alignment(address);
  return *address;
}
template <class T>
void __stcs(T* address, T value) {
  simt::check_alignment(address);
  *address = value;
}
