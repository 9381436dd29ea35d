// stochastic_round: f32 arrays as bf16. A lane takes the eight elements of a Philox block, by two loads and one store
// of 16 bytes where the arrays allow it.
#pragma once

#include "bittersweet/cuda.hpp"
#include "draws.cuh"
#include "neighbours.cuh"
#include "rounding_checks.hpp"
#include "verbs.cuh"

namespace bittersweet::cuda {

struct RoundedRow {
  const float* from;
  u16* to;
  std::int64_t numel;
  RoundingKey key;
  u32 first;     // number of its first tile within the launch
  bool vectors;  // do both arrays lie at multiples of 16 bytes?
};

struct RoundArrays {
  static constexpr u32 threads = 256, blocks = 4;
  static constexpr u32 most_rows = 600;
  struct Args {
    u32 count, tiles;
    RoundedRow rows[most_rows];
  };
  struct Shared {};

  static BITTERSWEET_DEVICE u16 rounded(float x, u32 draw) { return float_to_bf16(stochastic_bf16(x, draw)); }

  static BITTERSWEET_DEVICE void body(const Args& args, Shared&) {
    constexpr u32 block = RoundingKey::block;
    u32 row = 0;
    for (u64 t = first_warp(); t < args.tiles; t += warps()) {
      while (row + 1 < args.count && t >= args.rows[row + 1].first) ++row;
      const RoundedRow& array = args.rows[row];
      const std::int64_t begin = (static_cast<std::int64_t>(t) - array.first) * tile_size;
#pragma unroll 2
      for (u32 s = 0; s < tile_size / (32 * block); ++s) {
        const std::int64_t at = begin + (s * 32 + lane_id()) * block;
        if (at >= array.numel) break;
        if (array.vectors && at + block <= array.numel)
          whole(array, at);
        else
          single(array, at);
      }
    }
  }

  static BITTERSWEET_DEVICE void whole(const RoundedRow& array, std::int64_t at) {
    Neighbours<DType::f32, 4> low, high;
    low.read(array.from, at);
    high.read(array.from, at + 4);
    const Draws<8> draws(array.key, at);
    u32 pairs[4];
#pragma unroll
    for (int i = 0; i < 8; i += 2) {
      const auto& half = i < 4 ? low : high;
      pairs[i / 2] = rounded(half[i % 4], draws[i]) | u32{rounded(half[i % 4 + 1], draws[i + 1])} << 16;
    }
    __stcs(reinterpret_cast<uint4*>(array.to + at), uint4{pairs[0], pairs[1], pairs[2], pairs[3]});
  }

  static BITTERSWEET_DEVICE void single(const RoundedRow& array, std::int64_t at) {
    const Draws<8> draws(array.key, at);
#pragma unroll
    for (int i = 0; i < 8; ++i)
      if (at + i < array.numel) array.to[at + i] = rounded(array.from[at + i], draws[i]);
  }
};

inline std::vector<RoundedRow> rounded_rows(std::span<const RoundedArray> arrays) {
  std::vector<RoundedRow> rows;
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    const RoundedArray& array = arrays[i];
    check_rounded(array, i);
    if (array.numel >= std::int64_t{device::max_tiles} * tile_size)
      throw ArgumentError("numel: " + std::to_string(array.numel) + " in array " + std::to_string(i) +
                          "; one array has up to about 2^33");
    const auto places = reinterpret_cast<std::uintptr_t>(array.from) | reinterpret_cast<std::uintptr_t>(array.to);
    if (array.numel > 0) rows.push_back({array.from, array.to, array.numel, array.key, 0, places % 16 == 0});
  }
  return rows;
}

template <class L>
void stochastic_round(L& launcher, std::span<const RoundedRow> rows) {
  RoundArrays::Args args{};
  const auto launch = [&] {
    launcher.template launch<RoundArrays>(grid_for<RoundArrays>((args.tiles + 7) / 8, launcher.processors()), args);
    args.count = args.tiles = 0;
  };
  for (RoundedRow row : rows) {
    if (args.count == RoundArrays::most_rows || device::max_tiles - args.tiles < tiles_of(row.numel)) launch();
    row.first = args.tiles;
    args.tiles += tiles_of(row.numel);
    args.rows[args.count++] = row;
  }
  if (args.count > 0) launch();
}

}  // namespace bittersweet::cuda
