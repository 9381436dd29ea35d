// The ways to decide bitter7 against a bracket, as bare loops: which root is fast enough for the read floor, and how
// far the fast one is from the exact one over every non-negative float. The same text is the host's oracle.
#pragma once

#include <cuda_bf16.h>

#include <bit>
#include <cmath>
#include <cstdint>

#include "bittersweet/score/scorers.hpp"
#include "spans.cuh"

namespace bittersweet::bench {

#define BENCH_FORM __host__ __device__ __forceinline__

// rsqrt.approx on the device; on the host the nearest float, to run the same formulas.
template <bool ftz>
BENCH_FORM float rsqrt_approx(float u) {
#if defined(__CUDA_ARCH__)
  float r;
  if constexpr (ftz)
    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(u));
  else
    asm("rsqrt.approx.f32 %0, %1;" : "=f"(r) : "f"(u));
  return r;
#else
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(u)));
#endif
}

BENCH_FORM float sqrt_rn(float u) {
#if defined(__CUDA_ARCH__)
  return __fsqrt_rn(u);
#else
  return std::sqrt(u);
#endif
}

// Round to nearest without a branch: one correction of u * rsqrt(u). The same bits as sqrt_rn where u is neither tiny
// nor infinite; from where on is measured.
BENCH_FORM float sqrt_branch_free(float u) {
  const float r = rsqrt_approx<true>(u), g = u * r, h = r * 0.5f;
  return std::fma(std::fma(-g, g, u), h, g);
}

enum class Form { sqrt_rn, branch_free, rsqrt, rsqrt_first_without_ftz };

template <Form form>
BENCH_FORM float fourth_root(float u) {
  if constexpr (form == Form::sqrt_rn) return sqrt_rn(sqrt_rn(u));
  if constexpr (form == Form::branch_free) return sqrt_branch_free(sqrt_branch_free(u));
  if constexpr (form == Form::rsqrt) return rsqrt_approx<true>(rsqrt_approx<true>(u));
  return rsqrt_approx<true>(rsqrt_approx<false>(u));
}

inline constexpr float bracket_margin = 0x1p-20f;  // what an rsqrt form is allowed, relative

template <Form form>
BENCH_FORM float decided_score(float w, float v) {
  return std::fabs(w) * fourth_root<form>(std::fabs(v) + 1e-8f);
}

BENCH_FORM float low_half(std::uint32_t pair) { return std::bit_cast<float>(pair << 16); }
BENCH_FORM float high_half(std::uint32_t pair) { return std::bit_cast<float>(pair & 0xffff0000u); }

// ---- roots and what they are compared with, over every non-negative float ----

// What a comparison must show: the same bits everywhere; the same bits from eps = 1e-8 on; an error within the margin.
enum class Proof { same_bits, same_bits_from_eps, margin };

struct OneBranchFreeRoot {
  static constexpr const char* name = "one branch-free root";
  static constexpr Proof proof = Proof::same_bits_from_eps;
  BENCH_FORM static float exact(float u) { return sqrt_rn(u); }
  BENCH_FORM static float fast(float u) { return sqrt_branch_free(u); }
};
template <Form form>
struct FourthRoot {
  static constexpr const char* name = form == Form::branch_free ? "two branch-free roots"
                                      : form == Form::rsqrt     ? "rsqrt of rsqrt, ftz"
                                                                : "rsqrt of rsqrt, the first without ftz";
  static constexpr Proof proof = form == Form::branch_free ? Proof::same_bits_from_eps : Proof::margin;
  BENCH_FORM static float exact(float u) { return fourth_root<Form::sqrt_rn>(u); }
  BENCH_FORM static float fast(float u) { return fourth_root<form>(u); }
};

// The engine's own text: scorers of weight 1 and eps 0.
BENCH_FORM Elements<float> unit_weight(float u) {
  Elements<float> x{};
  x.w = 1.0f, x.v = u;
  return x;
}
struct Bitter7Score {
  static constexpr const char* name = "bitter7 as the engine scores it";
  static constexpr Proof proof = Proof::same_bits;
  BENCH_FORM static float exact(float u) { return fourth_root<Form::sqrt_rn>(u); }
  BENCH_FORM static float fast(float u) { return Bitter7{0.0f}(unit_weight(u)); }
};
struct Bitter8Score {
  static constexpr const char* name = "bitter8 as the engine scores it";
  static constexpr Proof proof = Proof::margin;
  BENCH_FORM static float exact(float u) { return 1.0f / sqrt_rn(1.0f / sqrt_rn(u)); }
  BENCH_FORM static float fast(float u) { return Bitter8{0.0f}(unit_weight(u)); }
};
template <class S>
concept HasRoughForm = requires(const S& scorer, const Elements<float>& x) { scorer.rough(x); };
template <class S>
struct RoughScore {  // only where the scorer has one
  static constexpr const char* name = "bitter7 as the engine's bracket decides it";
  static constexpr Proof proof = Proof::margin;
  BENCH_FORM static float exact(float u) { return fourth_root<Form::sqrt_rn>(u); }
  BENCH_FORM static float fast(float u) { return S{0.0f}.rough(unit_weight(u)); }
};

// A fast form against the exact one, over finite non-negative u.
struct Agreement {
  unsigned long long differing = 0;       // u with other bits
  unsigned highest = 0;                   // the highest of them, as bits
  unsigned largest_error[2] = {0, 0};     // |fast / exact - 1| as the bits of a float: u normal; u denormal
  unsigned unusable[2] = {0, 0};          // NaN or infinity from a positive u: likewise
  unsigned at_zero = 0, at_infinity = 0;  // what the fast form gives there, as bits
};

#if defined(__CUDACC__)

// ---- bare decide loops: load, score, two comparisons into bits, counts ----

enum class Stored { f32, bf16 };
enum class Compare { score, weight_alone, weight_alone_packed };

__device__ __forceinline__ __nv_bfloat162 as_pair(std::uint32_t bits) {
  return *reinterpret_cast<const __nv_bfloat162*>(&bits);
}

// `count` neighbours of a lane in one load: 16 bytes, or 8 for bf16 beside f32.
template <Stored stored, int count>
struct Neighbours {
  static constexpr int bytes = count * (stored == Stored::f32 ? 4 : 2), words = bytes / 4;
  std::uint32_t raw[words];

  __device__ __forceinline__ void load(const std::byte* at) {
    if constexpr (bytes == 16) {
      const uint4 x = load_stream(at);
      raw[0] = x.x, raw[1] = x.y, raw[2] = x.z, raw[3] = x.w;
    } else {
      static_assert(bytes == 8);
      asm volatile("ld.global.cs.v2.u32 {%0,%1}, [%2];" : "=r"(raw[0]), "=r"(raw[1]) : "l"(at));
    }
  }
  __device__ __forceinline__ float operator[](int i) const {
    if constexpr (stored == Stored::f32) return std::bit_cast<float>(raw[i]);
    return i % 2 ? high_half(raw[i / 2]) : low_half(raw[i / 2]);
  }
};

// counts[0] += scores surely below `low`, counts[1] += scores surely above `high`; n is a multiple of 1024. A warp
// takes 1024 elements; every load of that tile is asked for before the first is used.
template <Form form, Compare compare, Stored stored_w, Stored stored_v>
__global__ void __launch_bounds__(256, 3)
    decide(const std::byte* w, const std::byte* v, std::int64_t n, float low, float high, unsigned long long* counts) {
  constexpr bool with_v = compare == Compare::score;
  constexpr int at_once = stored_w == Stored::bf16 && stored_v == Stored::bf16 ? 8 : 4, groups = 32 / at_once;
  if constexpr (form == Form::rsqrt) low *= 1.0f - bracket_margin, high *= 1.0f + bracket_margin;
  const std::uint32_t low_pair = (std::bit_cast<std::uint32_t>(low) >> 16) * 0x10001u;
  const std::uint32_t high_pair = (std::bit_cast<std::uint32_t>(high) >> 16) * 0x10001u;
  const int lane = threadIdx.x % 32;
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * 8 * 1024;
  std::int64_t below = 0, above = 0;
  for (std::int64_t e = (static_cast<std::int64_t>(blockIdx.x) * 8 + threadIdx.x / 32) * 1024; e < n; e += stride) {
    Neighbours<stored_w, at_once> a[groups];
    Neighbours<stored_v, at_once> b[groups];
#pragma unroll
    for (int g = 0; g < groups; ++g) {
      const std::int64_t at = e + g * 32 * at_once + lane * at_once;
      a[g].load(w + at * (a[g].bytes / at_once));
      if constexpr (with_v) b[g].load(v + at * (b[g].bytes / at_once));
    }
    unsigned is_below = 0, is_above = 0;
#pragma unroll
    for (int g = 0; g < groups; ++g) {
      if constexpr (compare == Compare::weight_alone_packed) {
#pragma unroll
        for (int i = 0; i < at_once / 2; ++i) {
          const __nv_bfloat162 magnitude = as_pair(a[g].raw[i] & 0x7fff7fffu);
          is_below |= (__hlt2_mask(magnitude, as_pair(low_pair)) & 0x00010001u) << (g * at_once / 2 + i);
          is_above |= (__hgt2_mask(magnitude, as_pair(high_pair)) & 0x00010001u) << (g * at_once / 2 + i);
        }
      } else {
#pragma unroll
        for (int i = 0; i < at_once; ++i) {
          float score = std::fabs(a[g][i]);
          if constexpr (with_v) score = decided_score<form>(a[g][i], b[g][i]);
          if (score < low) is_below |= 1u << (g * at_once + i);
          if (score > high) is_above |= 1u << (g * at_once + i);
        }
      }
    }
    below += __popc(is_below);
    above += __popc(is_above);
  }
  for (int offset = 16; offset; offset /= 2) {
    below += __shfl_xor_sync(~0u, below, offset);
    above += __shfl_xor_sync(~0u, above, offset);
  }
  if (lane == 0) {
    atomicAdd(&counts[0], static_cast<unsigned long long>(below));
    atomicAdd(&counts[1], static_cast<unsigned long long>(above));
  }
}

template <class Root>
__global__ void compare_all(Agreement* found) {
  constexpr std::uint64_t count = std::uint64_t{1} << 31;
  const std::uint64_t stride = std::uint64_t{gridDim.x} * blockDim.x;
  unsigned long long differing = 0;
  unsigned highest = 0, largest[2] = {}, unusable[2] = {};
  for (std::uint64_t i = std::uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += stride) {
    const auto bits = static_cast<unsigned>(i);
    if (bits > 0x7f800000u) continue;  // NaN
    const float u = std::bit_cast<float>(bits);
    const float exact = Root::exact(u), fast = Root::fast(u);
    if (bits == 0u) found->at_zero = std::bit_cast<unsigned>(fast);  // one thread meets each end
    if (bits == 0x7f800000u) {
      found->at_infinity = std::bit_cast<unsigned>(fast);
      continue;
    }
    if (std::bit_cast<unsigned>(exact) != std::bit_cast<unsigned>(fast)) {
      ++differing;
      highest = max(highest, bits);
    }
    if (bits == 0u) continue;
    const int denormal = bits < 0x00800000u;
    if (!(fast <= 3.4028235e38f))
      ++unusable[denormal];
    else  // positive floats order as their bits
      largest[denormal] =
          max(largest[denormal],
              __float_as_uint(static_cast<float>(fabs(static_cast<double>(fast) / static_cast<double>(exact) - 1.0))));
  }
  if (differing) atomicAdd(&found->differing, differing);
  atomicMax(&found->highest, highest);
  for (int d = 0; d < 2; ++d) {
    atomicMax(&found->largest_error[d], largest[d]);
    if (unusable[d]) atomicAdd(&found->unusable[d], unusable[d]);
  }
}

#endif  // __CUDACC__

}  // namespace bittersweet::bench
