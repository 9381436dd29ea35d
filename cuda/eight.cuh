// Scores of eight neighbours, in any storage: 16 or 32 bytes of each array by whole vectors, and as many input norms.
#pragma once

#include "tile.cuh"

namespace bittersweet::cuda {

// A random number for each element is not worth a vector.
template <class S>
inline constexpr bool reads_eight = !Slots<S>::has(reads::position);

template <class S>
struct Eight {
  using In = Slots<S>;
  static constexpr bool norms = In::has(reads::input_norm);
  static constexpr int arrays = In::count + (norms ? 1 : 0);
  static constexpr int at_once = arrays == 1 ? 4 : arrays == 2 ? 2 : 1;  // so many a lane has on their way
  uint4 raw[arrays > 0 ? arrays : 1][2];

  // Elements index .. index + 7, whose input features are feature .. feature + 7.
  BITTERSWEET_DEVICE void load(const Row& row, std::int64_t index, std::int64_t feature) {
#pragma unroll
    for (int slot = 0; slot < In::count; ++slot) {
      const auto* const from = reinterpret_cast<const uint4*>(
          static_cast<const char*>(row.in[slot]) + index * static_cast<std::int64_t>(size_of(row.dtype[slot])));
      raw[slot][0] = __ldcs(from);
      raw[slot][1] = uint4{};
      if (row.dtype[slot] == DType::f32) raw[slot][1] = __ldcs(from + 1);
    }
    if constexpr (norms) {
      const auto* const from = reinterpret_cast<const uint4*>(static_cast<const float*>(row.in[In::norm]) + feature);
      raw[In::norm][0] = from[0];
      raw[In::norm][1] = from[1];
    }
  }

  // By a whole warp.
  BITTERSWEET_DEVICE void scores(const S& scorer, const Row& row, float (&score)[8]) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (half == 1) __syncwarp();  // or the compiler computes both at once, which takes registers
      float x[arrays][4];
#pragma unroll
      for (int slot = 0; slot < arrays; ++slot) {
        const DType dtype = slot < In::count ? row.dtype[slot] : DType::f32;
        const uint4 four = raw[slot][half];
        const u32 pair[2] = {half == 0 ? raw[slot][0].x : raw[slot][0].z, half == 0 ? raw[slot][0].y : raw[slot][0].w};
        if (dtype == DType::f32) {
          x[slot][0] = std::bit_cast<float>(four.x);
          x[slot][1] = std::bit_cast<float>(four.y);
          x[slot][2] = std::bit_cast<float>(four.z);
          x[slot][3] = std::bit_cast<float>(four.w);
        } else if (dtype == DType::bf16) {
#pragma unroll
          for (int i = 0; i < 4; ++i)
            x[slot][i] = std::bit_cast<float>(i % 2 ? pair[i / 2] & 0xffff0000u : pair[i / 2] << 16);
        } else {
#pragma unroll
          for (int i = 0; i < 4; ++i)
            x[slot][i] = f16_to_float(static_cast<u16>(i % 2 ? pair[i / 2] >> 16 : pair[i / 2] & 0xffffu));
        }
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        Elements<float> e = gather<S>([&](int slot) { return x[slot][i]; }, row.bias_correction1);
        if constexpr (norms) e.norm = x[In::norm][i];
        score[half * 4 + i] = scorer(e) * row.modifier;
      }
    }
  }
};

// The live bits of elements index .. index + 7; index is a multiple of 8.
BITTERSWEET_DEVICE u32 live_eight(const Row& row, std::int64_t index) {
  return row.live == nullptr ? 255u : reinterpret_cast<const unsigned char*>(row.live)[index / 8];
}

}  // namespace bittersweet::cuda
