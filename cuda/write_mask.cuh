// write_mask: the tiles whose provisional bits are not final, because ties of theirs are pruned in part, or not at all.
// Idle in most steps. The counts of ties per tile say in which tile the pruned ones end: tiles before and after it are
// left, filled or scored again as the outcome says, and the ties of that one are taken in order.
#pragma once

#include "verbs.cuh"

namespace bittersweet::cuda {

BITTERSWEET_DEVICE u32 ties_in(const Context& c, const device::Outcome& outcome, u64 tile) {
  return outcome.high_ties ? c.tile_ties[tile] >> 16 : c.tile_ties[tile] & 0xffffu;
}

struct SumTies {  // of groups of tiles
  static constexpr u32 threads = 256, blocks = 2;
  using Args = Context;
  struct Shared {};

  static BITTERSWEET_DEVICE void body(const Context& args, Shared&) {
    Context c = args;
    if (idle(c)) return;
    const Part part = enter(c);
    const device::Outcome& outcome = c.state->outcome;
    if (!outcome.active || !outcome.split) return;
    const u64 groups = (u64{c.tiles} + group_tiles - 1) / group_tiles;
    for (u64 group = part.first_warp(); group < groups; group += part.warps()) {
      u64 sum = 0;
      for (u64 tile = group * group_tiles + lane_id(); tile < (group + 1) * group_tiles && tile < c.tiles; tile += 32)
        sum += ties_in(c, outcome, tile);
      sum = warp_sum(sum);
      if (lane_id() == 0) c.tie_groups[group] = sum;
    }
  }
};

template <class S>
struct WriteMask {
  static constexpr u32 threads = 256, blocks = 4;
  struct Args {
    Context context;
    Work work;
    S scorer;
  };
  struct Shared {
    FindShared find;
  };

  static BITTERSWEET_DEVICE void body(const Args& args, Shared& shared) {
    Context c = args.context;
    if (idle(c)) return;
    const Part part = enter(c);
    const device::Outcome outcome = c.state->outcome;
    if (!outcome.active) return;
    u64 cut_tile = device::none;
    u32 quota = 0;
    if (outcome.split) {
      const u64 groups = (u64{c.tiles} + group_tiles - 1) / group_tiles;
      const device::Found group =
          find_bin(groups, [&](u64 g) { return c.tie_groups[g]; }, [&](u64) { return outcome.ties; }, shared.find);
      const u64 first = group.bin * group_tiles;
      const u64 count = c.tiles - first < group_tiles ? c.tiles - first : group_tiles;
      const device::Found tile = find_bin(
          count, [&](u64 t) { return ties_in(c, outcome, first + t); }, [&](u64) { return outcome.ties - group.below; },
          shared.find);
      cut_tile = first + tile.bin;
      quota = static_cast<u32>(outcome.ties - group.below - tile.below);
    }
    for_each_tile(work_of(c, args.work), part, [&](const Row& row, u32, u32 tile) {
      const u64 number = row.tile - c.first_tile + tile;
      const std::int64_t word = std::int64_t{tile} * tile_words + lane_id();
      if (outcome.split && number == cut_tile) return write(args.scorer, row, tile, outcome.value, quota);
      const bool before = !outcome.split || number < cut_tile;
      switch (before ? outcome.before : outcome.after) {
        case device::Tile::leave: return;
        case device::Tile::fill:
          return store_word(row.next, row.numel, word,
                            mask_word(outcome.failed ? row.current : row.live, row.numel, word));
        case device::Tile::score_ties:
          if (ties_in(c, outcome, number) == 0) return;
          break;
        case device::Tile::score: break;
      }
      const bool prune_ties = outcome.split ? before : outcome.ties > 0;
      write(args.scorer, row, tile, outcome.value, prune_ties ? tile_size : 0);
    });
  }

  // Keep bit = live and not (score < value), and not one of the first `quota` scores that equal it. NaN stays.
  static BITTERSWEET_DEVICE void write(const S& scorer, const Row& row, u32 tile, float value, u32 quota) {
    const u32 lane = lane_id();
    const std::int64_t word = std::int64_t{tile} * tile_words + lane;
    const u32 live = mask_word(row.live, row.numel, word);
    u32 keep = 0, ties = 0;
    for (u32 j = 0; j < tile_words; ++j) {
      const bool there = (__shfl_sync(everyone, live, j) >> lane & 1u) != 0;
      const std::int64_t index = std::int64_t{tile} * tile_size + j * 32 + lane;
      const float score = there ? score_any(scorer, row, index) : 0.0f;
      const u32 equal = __ballot_sync(everyone, there && score == value);
      const bool tie = (equal >> lane & 1u) != 0 && ties + __popc(equal & lanes_below()) < quota;
      ties += __popc(equal);
      const u32 kept = __ballot_sync(everyone, there && !(score < value) && !tie);
      if (lane == j) keep = kept;
    }
    store_word(row.next, row.numel, word, keep);
  }
};

template <class L>
void write_mask(L& launcher, const Scorer& scorer, const Context& context, const Work& work) {
  launch_units<SumTies>(launcher, context, (context.tiles + 8191) / 8192, context);
  std::visit(
      [&](const auto& s) {
        using K = WriteMask<std::decay_t<decltype(s)>>;
        launch_units<K>(launcher, context, (work.tiles + 7) / 8, {context, work, s});
      },
      scorer);
}

}  // namespace bittersweet::cuda
