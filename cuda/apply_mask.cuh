// apply_mask: +0 where a keep bit is 0, in place. Whole vectors are read, selected and written; those that keep all
// their elements are neither. A gate in device memory, if given, can forbid it all.
#pragma once

#include "arrays.cuh"

namespace bittersweet::cuda {

BITTERSWEET_DEVICE bool shut(const std::uint32_t* gate) { return gate != nullptr && (*gate & status::failed) != 0; }

template <int Width>  // 4 elements of 4 bytes, or 8 of 2
BITTERSWEET_DEVICE void apply_vectors(uint4* data, const u32* words) {
  const u32 lane = lane_id();
  const u32 keep = transpose<Width>(words[word_of_lane<Width>(lane)]);
  if (__ballot_sync(everyone, keep != ~0u) == 0) return;
  constexpr int segments = 32 / Width;
  constexpr u32 all = (1u << Width) - 1;
  uint4 value[segments];
#pragma unroll
  for (int s = 0; s < segments; ++s) {
    const u32 bits = keep >> (s * Width) & all;
    value[s] = uint4{};
    if (bits != 0 && bits != all) value[s] = __ldcs(data + s * 32 + lane);
  }
#pragma unroll
  for (int s = 0; s < segments; ++s) {
    const u32 bits = keep >> (s * Width) & all;
    if (bits == all) continue;
    const auto select = [&](u32 word, u32 i) {
      if constexpr (Width == 4) return bits >> i & 1u ? word : 0u;
      return (bits >> (2 * i) & 1u ? word & 0x0000ffffu : 0u) | (bits >> (2 * i + 1) & 1u ? word & 0xffff0000u : 0u);
    };
    const uint4& v = value[s];
    __stcs(data + s * 32 + lane, uint4{select(v.x, 0), select(v.y, 1), select(v.z, 2), select(v.w, 3)});
  }
}

BITTERSWEET_DEVICE void apply_tile(const ArrayRow& row, u32 tile) {
  const std::int64_t begin = std::int64_t{tile} * tile_size;
  const u32* const words = words32(row.mask) + begin / 32;
  if (reinterpret_cast<std::uintptr_t>(row.data) % 16 == 0 && row.numel - begin >= tile_size) {
    char* const data = static_cast<char*>(row.data) + begin * static_cast<std::int64_t>(size_of(row.dtype));
    if (row.dtype == DType::f32)
      apply_vectors<4>(reinterpret_cast<uint4*>(data), words);
    else
      apply_vectors<8>(reinterpret_cast<uint4*>(data), words);
    return;
  }
  for (std::int64_t i = lane_id(); i < tile_size && begin + i < row.numel; i += 32) {
    if ((words[i / 32] >> (i % 32) & 1u) != 0) continue;
    if (row.dtype == DType::f32)
      static_cast<u32*>(row.data)[begin + i] = 0;
    else
      static_cast<u16*>(row.data)[begin + i] = 0;
  }
}

struct ApplyMask {
  static constexpr u32 threads = 256, blocks = 4;
  struct Args {
    const std::uint32_t* gate;
    ArrayTable table;
  };
  struct Shared {};
  static BITTERSWEET_DEVICE void body(const Args& args, Shared&) {
    if (shut(args.gate)) return;
    for_each_array_tile(args.table.rows, args.table.count, args.table.tiles, apply_tile);
  }
};

// Per tensor: elements that are not zero although their keep bit is.
struct VerifyMask {
  static constexpr u32 threads = 256, blocks = 4;
  struct Args {
    std::int64_t* found;
    ArrayTable table;
  };
  struct Shared {};
  static BITTERSWEET_DEVICE void body(const Args& args, Shared&) {
    for_each_array_tile(args.table.rows, args.table.count, args.table.tiles, [&](const ArrayRow& row, u32 tile) {
      const std::int64_t begin = std::int64_t{tile} * tile_size;
      u32 count = 0;
      for (std::int64_t i = begin + lane_id(); i < begin + tile_size && i < row.numel; i += 32)
        count += (words32(row.mask)[i / 32] >> (i % 32) & 1u) == 0 && load_as_float(row.data, row.dtype, i) != 0.0f;
      add_warp(args.found + row.tensor, count);
    });
  }
};

template <class L>
void apply_mask(L& launcher, std::span<const ArrayRow> rows, const std::uint32_t* gate) {
  for_each_table(rows, [&](const ArrayTable& table) {
    launcher.template launch<ApplyMask>(grid_for<ApplyMask>((table.tiles + 7) / 8, launcher.processors()),
                                        {gate, table});
  });
}

template <class L>
void verify_mask(L& launcher, std::span<const ArrayRow> rows, std::size_t tensors, std::int64_t* found) {
  zero(launcher, found, tensors * sizeof(std::int64_t));
  for_each_table(rows, [&](const ArrayTable& table) {
    launcher.template launch<VerifyMask>(grid_for<VerifyMask>((table.tiles + 7) / 8, launcher.processors()),
                                         {found, table});
  });
}

}  // namespace bittersweet::cuda
