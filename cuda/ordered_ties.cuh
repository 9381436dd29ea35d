// Which tie is the last one pruned, by logical index, where it lies in a tensor whose memory is in another order.
#pragma once

#include "select.cuh"

namespace bittersweet::cuda {

BITTERSWEET_DEVICE u32 ties_in(const Context& c, const device::Outcome& outcome, u64 tile) {
  return outcome.high_ties ? c.tile_ties[tile] >> 16 : c.tile_ties[tile] & 0xffffu;
}

BITTERSWEET_DEVICE u32 tiles_in_row(const Row& row) {
  return static_cast<u32>((row.numel + tile_size - 1) / tile_size);
}

// The tile in which the pruned ties end, counted from the unit's first, and how many come before it. Whole block.
struct CutTile {
  u64 tile, below;
};
BITTERSWEET_DEVICE CutTile cut_tile_of(const Context& c, const device::Outcome& outcome, FindShared& shared) {
  const u64 groups = (u64{c.tiles} + group_tiles - 1) / group_tiles;
  const device::Found group =
      find_bin(groups, [&](u64 g) { return c.tie_groups[g]; }, [&](u64) { return outcome.ties; }, shared);
  const u64 first = group.bin * group_tiles;
  const u64 count = c.tiles - first < group_tiles ? c.tiles - first : group_tiles;
  const device::Found tile = find_bin(
      count, [&](u64 t) { return ties_in(c, outcome, first + t); }, [&](u64) { return outcome.ties - group.below; },
      shared);
  return {first + tile.bin, group.below + tile.below};
}

// The tensor in which the pruned ties end, if its memory is not row-major, and how many of its own are pruned.
struct PlaceTies {
  static constexpr u32 threads = 256, blocks = 1;
  using Args = Context;
  struct Shared {
    FindShared find;
  };

  static BITTERSWEET_DEVICE void body(const Context& args, Shared& shared) {
    Context c = args;
    if (idle(c)) return;
    const Part part = enter(c);
    const device::Outcome& outcome = c.state->outcome;
    if (part.block != 0 || !outcome.active || !outcome.split) return;
    const u64 tile = c.first_tile + cut_tile_of(c, outcome, shared.find).tile;
    const u32 number = row_of(c.row_count, [&](u32 r) { return c.rows[r].tile <= tile; });
    const Row& row = c.rows[number];
    if (row.order.row_major() || warp_id() != 0) return;
    const u64 first = row.tile - c.first_tile, whole = first / group_tiles;
    u64 before = 0;
    for (u64 group = lane_id(); group < whole; group += 32) before += c.tie_groups[group];
    for (u64 t = whole * group_tiles + lane_id(); t < first; t += 32) before += ties_in(c, outcome, t);
    before = warp_sum(before);
    if (lane_id() == 0) c.state->ordered_ties[0] = {0, outcome.ties - before, number, 1};
  }
};

// The digits after `level` passes, for a whole block.
BITTERSWEET_DEVICE device::OrderedTies ties_after(const Context& c, u32 level, FindShared& shared) {
  const device::State& state = *c.state;
  if (level == 0) return state.ordered_ties[0];
  device::OrderedTies ties = state.ordered_ties[level - 1];
  if (!ties.active) return ties;
  const device::Found found = find_bin(
      device::bins, [&](u64 b) { return state.range_bins[level - 1][b]; }, [&](u64) { return ties.order; }, shared);
  ties.prefix = ties.prefix << device::digit_bits | found.bin;
  ties.order -= found.below;
  return ties;
}

template <class S>
struct TieDigit {  // pass `level`, from 1
  static constexpr u32 threads = 256, blocks = 3;
  struct Args {
    Context context;
    S scorer;
    u32 level;
  };
  using Shared = RangeShared;

  static BITTERSWEET_DEVICE void body(const Args& args, Shared& shared) {
    Context c = args.context;
    if (idle(c)) return;
    const Part part = enter(c);
    const device::OrderedTies ties = ties_after(c, args.level - 1, shared.find);
    if (!ties.active) return;
    if (args.level > 1 && part.block == 0 && threadIdx.x == 0) c.state->ordered_ties[args.level - 1] = ties;
    const u32 shift = (device::tie_levels - args.level) * device::digit_bits;
    const Row& row = c.rows[ties.row];
    if (static_cast<u64>(row.numel) <= u64{1} << shift) return;  // all in the bin that no count leads to, too
    const device::Outcome outcome = c.state->outcome;
    clear_bins(shared.bins);
    const u32 tiles = tiles_in_row(row);
    for (u64 tile = part.first_warp(); tile < tiles; tile += part.warps()) {
      if (ties_in(c, outcome, row.tile - c.first_tile + tile) == 0) continue;
      const u32 live = mask_word(row.live, row.numel, static_cast<std::int64_t>(tile) * tile_words + lane_id());
      for (u32 j = 0; j < tile_words; ++j) {
        if ((__shfl_sync(everyone, live, j) >> lane_id() & 1u) == 0) continue;
        const std::int64_t index = static_cast<std::int64_t>(tile) * tile_size + j * 32 + lane_id();
        if (score_any(args.scorer, row, index) != outcome.value) continue;
        const auto logical = static_cast<u64>(row.order.logical_of(index));
        if (logical >> shift >> device::digit_bits == ties.prefix)
          atomicAdd(&shared.bins.bin[static_cast<u32>(logical >> shift) % device::bins], 1u);
      }
    }
    merge_bins(shared.bins, c.state->range_bins[args.level - 1]);
  }
};

}  // namespace bittersweet::cuda
