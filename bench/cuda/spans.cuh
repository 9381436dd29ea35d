// Bare passes over the arrays of a model: what touching the same memory costs when nothing is computed. Two kinds of
// read (plain 16-byte loads, and a ring of bulk copies into shared memory) and, for arrays of f32, the ways to zero in
// place. A read leaves the exclusive-or of all words, so that every variant proves that it read everything.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "device.hpp"

namespace bittersweet::bench {

struct Span {
  std::byte* data;
  long long bytes;
  long long first_unit;       // units of the spans before it
  const std::uint32_t* mask;  // keep bits of an f32 array, or null
};

struct Array {
  std::byte* data;
  std::int64_t bytes;
  const std::uint32_t* mask = nullptr;
};

// Arrays cut into units of at most `unit` bytes, none across two arrays. Bases must be multiples of 16 bytes.
class Spans {
 public:
  Spans(std::span<const Array> arrays, int unit) : unit_(unit) {
    std::vector<Span> rows;
    for (const Array& array : arrays) {
      if (reinterpret_cast<std::uintptr_t>(array.data) % 16) throw std::invalid_argument("Spans: base not aligned");
      if (array.bytes == 0) continue;
      rows.push_back({array.data, array.bytes, units_, array.mask});
      units_ += (array.bytes + unit - 1) / unit;
      bytes_ += array.bytes;
    }
    count_ = static_cast<int>(rows.size());
    table_ = on_device(rows);
  }
  const Span* table() const { return table_.as<const Span>(); }
  int count() const { return count_; }
  long long units() const { return units_; }
  std::int64_t bytes() const { return bytes_; }
  int unit() const { return unit_; }

 private:
  int unit_, count_ = 0;
  long long units_ = 0;
  std::int64_t bytes_ = 0;
  Buffer table_;
};

// The oracle of every read: the words of a host copy, the last one padded with zeros.
inline std::uint32_t exclusive_or(const std::byte* data, std::int64_t bytes) {
  std::uint32_t seen = 0;
  for (std::int64_t at = 0; at < bytes; at += 4) {
    std::uint32_t word = 0;
    std::memcpy(&word, data + at, static_cast<std::size_t>(bytes - at < 4 ? bytes - at : 4));
    seen ^= word;
  }
  return seen;
}

#if defined(__CUDACC__)

// Walks the units of one warp or block; the row is looked up only where it changes.
struct Cursor {
  const Span* rows;
  int count, row = 0;
  Span span;
  long long next;

  __device__ Cursor(const Span* rows_, int count_) : rows(rows_), count(count_), span(rows_[0]), next(after(0)) {}
  __device__ long long after(int r) const { return r + 1 < count ? rows[r + 1].first_unit : LLONG_MAX; }
  __device__ void seek(long long unit) {
    if (unit < next) return;
    while (unit >= next) next = after(++row);
    span = rows[row];
  }
};

__device__ __forceinline__ uint4 load_stream(const std::byte* at) {
  uint4 x;
  asm volatile("ld.global.cs.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w) : "l"(at));
  return x;
}
__device__ __forceinline__ void store_stream(std::byte* at, uint4 x) {
  asm volatile("st.global.cs.v4.u32 [%0], {%1,%2,%3,%4};" ::"l"(at), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w) : "memory");
}
__device__ __forceinline__ unsigned fold(uint4 x) { return x.x ^ x.y ^ x.z ^ x.w; }

// Bytes behind the last whole 16, one a lane.
__device__ __forceinline__ unsigned fold_tail(const std::byte* data, int whole, int bytes, int lane) {
  return whole + lane < bytes ? static_cast<unsigned>(data[whole + lane]) << (8 * (lane & 3)) : 0u;
}

inline constexpr int ldg_unit = 8192;  // what a warp takes at a time

template <int in_flight, int blocks>
__global__ void __launch_bounds__(256, blocks) read_ldg(const Span* rows, int count, long long units, unsigned* seen) {
  const int lane = threadIdx.x % 32;
  const long long warps = static_cast<long long>(gridDim.x) * 8;
  Cursor cursor(rows, count);
  unsigned folded = 0;
  for (long long unit = static_cast<long long>(blockIdx.x) * 8 + threadIdx.x / 32; unit < units; unit += warps) {
    cursor.seek(unit);
    const long long first = (unit - cursor.span.first_unit) * ldg_unit, left = cursor.span.bytes - first;
    const std::byte* const data = cursor.span.data + first;
    if (left >= ldg_unit) {
#pragma unroll 1
      for (int at = lane * 16; at < ldg_unit; at += in_flight * 512) {
        uint4 x[in_flight];
#pragma unroll
        for (int j = 0; j < in_flight; ++j) x[j] = load_stream(data + at + j * 512);
#pragma unroll
        for (int j = 0; j < in_flight; ++j) folded ^= fold(x[j]);
      }
    } else {
      const int bytes = static_cast<int>(left), whole = bytes & ~15;
      for (int at = lane * 16; at < whole; at += 512) folded ^= fold(load_stream(data + at));
      folded ^= fold_tail(data, whole, bytes, lane);
    }
  }
  folded = __reduce_xor_sync(~0u, folded);
  if (lane == 0) atomicXor(seen, folded);
}

__device__ __forceinline__ unsigned shared_address(const void* p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}

// One block a ring: thread 0 asks for whole units ahead, all threads fold what has arrived.
template <int unit_bytes, int stages>
__global__ void __launch_bounds__(256) read_bulk(const Span* rows, int count, long long units, unsigned* seen) {
  extern __shared__ __align__(128) unsigned char ring[];
  __shared__ __align__(8) std::uint64_t full[stages];
  if (threadIdx.x == 0) {
    for (int s = 0; s < stages; ++s)
      asm volatile("mbarrier.init.shared.b64 [%0], 1;" ::"r"(shared_address(&full[s])) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  }
  __syncthreads();
  const auto whole_of = [](const Span& span, long long unit) {
    const long long left = span.bytes - (unit - span.first_unit) * unit_bytes;
    return static_cast<int>(left < unit_bytes ? left & ~15ll : unit_bytes);
  };
  Cursor ahead(rows, count), cursor(rows, count);
  const auto request = [&](long long unit, int stage) {
    if (unit >= units) return;
    ahead.seek(unit);
    const unsigned barrier = shared_address(&full[stage]);
    const int bytes = whole_of(ahead.span, unit);
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
    if (bytes)
      asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                       shared_address(ring + stage * unit_bytes)),
                   "l"(ahead.span.data + (unit - ahead.span.first_unit) * unit_bytes), "r"(bytes), "r"(barrier)
                   : "memory");
  };
  if (threadIdx.x == 0)
    for (int s = 0; s < stages; ++s) request(blockIdx.x + static_cast<long long>(s) * gridDim.x, s);
  unsigned folded = 0, phase = 0;
  int stage = 0;
  for (long long unit = blockIdx.x; unit < units; unit += gridDim.x) {
    cursor.seek(unit);
    asm volatile(
        "{\n\t.reg .pred done;\nagain:\n\t"
        "mbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n\t@!done bra again;\n}" ::"r"(
            shared_address(&full[stage])),
        "r"(phase)
        : "memory");
    const int whole = whole_of(cursor.span, unit);
    for (int at = threadIdx.x * 16; at < whole; at += 256 * 16)
      folded ^= fold(*reinterpret_cast<const uint4*>(ring + stage * unit_bytes + at));
    const long long first = (unit - cursor.span.first_unit) * unit_bytes, left = cursor.span.bytes - first;
    if (left < unit_bytes)
      folded ^= fold_tail(cursor.span.data + first, whole, static_cast<int>(left), static_cast<int>(threadIdx.x));
    __syncthreads();  // the stage is free
    if (threadIdx.x == 0) request(unit + static_cast<long long>(stages) * gridDim.x, stage);
    if (++stage == stages) stage = 0, phase ^= 1;
  }
  folded = __reduce_xor_sync(~0u, folded);
  if (threadIdx.x % 32 == 0) atomicXor(seen, folded);
}

enum class Write { rewrite, select, zeros };  // the same values; load, select, store; zeros alone, unread

// In place over f32 arrays, a warp per unit of 2048 elements.
template <Write way, int in_flight, int blocks>
__global__ void __launch_bounds__(256, blocks) write_ldg(const Span* rows, int count, long long units) {
  const int lane = threadIdx.x % 32;
  const long long warps = static_cast<long long>(gridDim.x) * 8;
  Cursor cursor(rows, count);
  for (long long unit = static_cast<long long>(blockIdx.x) * 8 + threadIdx.x / 32; unit < units; unit += warps) {
    cursor.seek(unit);
    const long long first = (unit - cursor.span.first_unit) * ldg_unit, left = cursor.span.bytes - first;
    std::byte* const data = cursor.span.data + first;
    const int elements = left < ldg_unit ? static_cast<int>(left / 4) : ldg_unit / 4;
    unsigned words[2] = {~0u, ~0u};
    if constexpr (way != Write::rewrite)
      for (int half = 0; half < 2; ++half)
        if ((lane + 32 * half) * 32 < elements) words[half] = cursor.span.mask[first / 128 + 32 * half + lane];
    if (elements < ldg_unit / 4) {  // bits of element `e` for everyone, then the last elements one by one
      for (int e = lane; e < (elements + 31) / 32 * 32; e += 32) {
        const unsigned word = __shfl_sync(~0u, e < 1024 ? words[0] : words[1], (e / 32) % 32);
        if (e >= elements) continue;
        auto* const at = reinterpret_cast<volatile unsigned*>(data) + e;
        const bool keep = (word >> (e % 32)) & 1u;
        if constexpr (way == Write::zeros) {
          if (!keep) *at = 0u;
        } else {
          const unsigned value = *at;
          *at = keep ? value : 0u;
        }
      }
      continue;
    }
    if constexpr (way == Write::zeros) {
#pragma unroll 8
      for (int j = 0; j < 64; ++j) {
        const unsigned word = __shfl_sync(~0u, j < 32 ? words[0] : words[1], j % 32);
        if (!((word >> lane) & 1u)) *reinterpret_cast<volatile unsigned*>(data + j * 128 + lane * 4) = 0u;
      }
    } else {
#pragma unroll 1
      for (int j0 = 0; j0 < 16; j0 += in_flight) {
        uint4 x[in_flight];
#pragma unroll
        for (int j = 0; j < in_flight; ++j) x[j] = load_stream(data + (j0 + j) * 512 + lane * 16);
#pragma unroll
        for (int j = 0; j < in_flight; ++j) {
          if constexpr (way == Write::select) {
            const unsigned word = __shfl_sync(~0u, j0 + j < 8 ? words[0] : words[1], ((j0 + j) * 4 + lane / 8) % 32);
            const unsigned keep = word >> (lane % 8 * 4);
            x[j].x = keep & 1u ? x[j].x : 0u;
            x[j].y = keep & 2u ? x[j].y : 0u;
            x[j].z = keep & 4u ? x[j].z : 0u;
            x[j].w = keep & 8u ? x[j].w : 0u;
          }
          store_stream(data + (j0 + j) * 512 + lane * 16, x[j]);
        }
      }
    }
  }
}

#endif  // __CUDACC__

}  // namespace bittersweet::bench
