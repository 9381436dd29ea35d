// A SIMT emulator: runs kernel bodies on the host, without a GPU, to find out whether they are right.
//
// Every CUDA thread is a fibre. A seeded generator picks which fibre goes on at every point where the order of threads
// can matter: collectives of a warp or a block, and atomics. The same seed gives the same order; different seeds give
// different ones. All blocks of a launch are alive at once, or as many as `resident` says.
//   - Collectives meet: all 32 lanes of a warp, or all threads of a block, at one place of the source. A launch in
//   which
//     some wait for ever, threads that meet in different collectives, or a mask that is not full, stop the program with
//     a message.
//   - A warp's lanes run apart between collectives, so what needs __syncwarp() or __syncthreads() fails without it.
//   - Shared memory is one object a block, filled with rubbish before the block begins, and aligned no better than its
//     type asks for.
//   - Vector loads and stores stop the program on a misaligned address, 32-bit counters where they wrap.
// Where kernels are compiled to tell of every access (watch.hpp), races and strays stop it too.
// What it cannot show: rates, weakly ordered memory, approximate instructions (reciprocal roots are IEEE here).
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <source_location>
#include <type_traits>

#define __device__
#define __forceinline__ inline __attribute__((always_inline))

struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

namespace simt {

struct Index {
  unsigned x = 0;
};

using Place = std::source_location;

enum class Meet : unsigned { shuffle, ballot, sum, sync };

struct Grid {
  unsigned blocks, threads;
  std::uint64_t seed;
  unsigned resident;  // blocks that are alive at once; the next begins when one has ended
  const char* kernel;
  const void* args;
  std::size_t args_bytes, shared_bytes, shared_alignment;
};

// Runs `body(shared memory of its block)` in all threads of the grid.
void run(const Grid& grid, const std::function<void(void* shared)>& body);

std::uint64_t switches() noexcept;  // between fibres, since the program began

// Device memory that nothing has been written to yet.
void fill_with_rubbish(void* data, std::size_t bytes);

// Stops a launch that takes more atomics, and accesses where they are watched, than this.
void set_patience(std::uint64_t steps);

// Called by fibres.
void meet_warp(Meet kind, std::uint64_t value, const Place& place);  // all lanes leave a value and go on with the last
std::uint64_t left_by(unsigned lane);                                // at the last meeting
void meet_block(const Place& place);
void begin_atomic(const void* address, std::size_t bytes);  // perhaps lets another go on before
void end_atomic();                                          // and after
void fence();
[[noreturn]] void stop(const char* message);

template <class T>
std::uint64_t pack(T value) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8);
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}

template <class T>
T exchange(unsigned mask, T value, unsigned from, const Place& place) {
  if (mask != ~0u) stop("a collective without all lanes");
  meet_warp(Meet::shuffle, pack(value), place);
  const std::uint64_t bits = left_by(from & 31u);
  T result;
  std::memcpy(&result, &bits, sizeof(T));
  return result;
}

template <class T>
void check_alignment(const T* address) {
  if (reinterpret_cast<std::uintptr_t>(address) % sizeof(T) != 0) stop("a misaligned vector load or store");
}

// What every device and every compiler that is supported can launch: CUDA 12.1 or newer, static shared memory.
template <class K>
inline constexpr bool launchable = K::threads >= 32 && K::threads <= 1024 && K::threads % 32 == 0 &&
                                   sizeof(typename K::Shared) <= (48u << 10) && sizeof(typename K::Args) <= 32764;

// A launcher with the face of the CUDA one: kernel structs with Args, Shared, threads and body(args, shared).
class Launcher {
 public:
  explicit Launcher(std::uint64_t seed, unsigned processors = 2, unsigned resident = ~0u)
      : seed_(seed), processors_(processors), resident_(resident) {}

  unsigned processors() const { return processors_; }

  template <class K>
  void launch(unsigned grid, const typename K::Args& args) {
    static_assert(launchable<K>, "more threads, shared memory or arguments than a launch may have");
    using Shared = typename K::Shared;
    const typename K::Args copy = args;  // kernels see the arguments of the moment of the launch
    ++launches_;
    run({grid, K::threads, seed_++, resident_, __PRETTY_FUNCTION__, &copy, sizeof copy, sizeof(Shared),
         alignof(Shared)},
        [&](void* shared) { K::body(copy, *static_cast<Shared*>(shared)); });
  }

  int launches() const { return launches_; }

  void to(void* device, const void* host, std::size_t bytes) {
    if (bytes > 0) std::memcpy(device, host, bytes);
  }
  void from(void* host, const void* device, std::size_t bytes) { to(host, device, bytes); }

 private:
  std::uint64_t seed_;
  unsigned processors_, resident_;
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

inline void __syncwarp(const simt::Place& place = simt::Place::current()) {
  simt::meet_warp(simt::Meet::sync, 0, place);
}
inline void __syncthreads(const simt::Place& place = simt::Place::current()) { simt::meet_block(place); }
inline void __threadfence() { simt::fence(); }

template <class T>
T __shfl_sync(unsigned mask, T value, unsigned lane, const simt::Place& place = simt::Place::current()) {
  return simt::exchange(mask, value, lane, place);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, unsigned bits, const simt::Place& place = simt::Place::current()) {
  return simt::exchange(mask, value, (threadIdx.x & 31u) ^ bits, place);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned step, const simt::Place& place = simt::Place::current()) {
  const unsigned lane = threadIdx.x & 31u;
  return simt::exchange(mask, value, lane < step ? lane : lane - step, place);
}

inline unsigned __ballot_sync(unsigned mask, bool bit, const simt::Place& place = simt::Place::current()) {
  if (mask != ~0u) simt::stop("a collective without all lanes");
  simt::meet_warp(simt::Meet::ballot, bit, place);
  unsigned all = 0;
  for (unsigned lane = 0; lane < 32; ++lane) all |= static_cast<unsigned>(simt::left_by(lane)) << lane;
  return all;
}

inline unsigned __reduce_add_sync(unsigned mask, unsigned value, const simt::Place& place = simt::Place::current()) {
  if (mask != ~0u) simt::stop("a collective without all lanes");
  simt::meet_warp(simt::Meet::sum, value, place);
  std::uint64_t sum = 0;
  for (unsigned lane = 0; lane < 32; ++lane) sum += simt::left_by(lane);
  if (sum > ~0u) simt::stop("a sum of a warp that does not fit into 32 bits");
  return static_cast<unsigned>(sum);
}

template <class T, class F>
T simt_atomic(T* address, F&& change) {
  simt::begin_atomic(address, sizeof(T));
  const T old = *address;
  *address = change(old);
  simt::end_atomic();
  return old;
}
template <class T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  return simt_atomic(address, [&](T old) {
    if constexpr (std::is_same_v<T, unsigned>)
      if (old + value < old) simt::stop("a counter of 32 bits that wraps");
    return static_cast<T>(old + value);
  });
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
