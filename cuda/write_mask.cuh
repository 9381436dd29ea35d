// write_mask: the tiles whose provisional bits are not final, because ties of theirs are pruned in part, or not at all.
// Idle in most steps. The counts of ties per tile say in which tile the pruned ones end: tiles before and after it are
// left, filled or scored again as the outcome says, and the ties of that one are taken in order. Where its tensor's
// memory is in another order, all tiles of the tensor are scored again, and ties go by their logical indices.
#pragma once

#include "ordered_ties.cuh"

namespace bittersweet::cuda {

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
  static constexpr u32 threads = 256, blocks = 3;
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
    device::OrderedTies ordered{};
    if (outcome.split) {
      const CutTile cut = cut_tile_of(c, outcome, shared.find);
      cut_tile = cut.tile;
      quota = static_cast<u32>(outcome.ties - cut.below);
      if (c.ordered) ordered = ties_after(c, device::tie_levels, shared.find);
    }
    for_each_tile(work_of(c, args.work), part, [&](const Row& row, u32 r, u32 tile) {
      const u64 number = row.tile - c.first_tile + tile;
      const std::int64_t word = std::int64_t{tile} * tile_words + lane_id();
      const auto first_ties = [](u32 count) { return [=](u32 before, std::int64_t) { return before < count; }; };
      if (ordered.active && r == ordered.row)
        return write(args.scorer, row, tile, outcome.value, [&](u32, std::int64_t index) {
          return static_cast<u64>(row.order.logical_of(index)) <= ordered.prefix;
        });
      if (outcome.split && number == cut_tile) return write(args.scorer, row, tile, outcome.value, first_ties(quota));
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
      write(args.scorer, row, tile, outcome.value, first_ties(prune_ties ? tile_size : 0));
    });
  }

  // Keep bit = live and not (score < value), and not one that equals it and is pruned: prunes(how many come before it
  // in the tile, its index in memory). NaN stays.
  template <class Prunes>
  static BITTERSWEET_DEVICE void write(const S& scorer, const Row& row, u32 tile, float value, const Prunes& prunes) {
    const u32 lane = lane_id();
    const std::int64_t word = std::int64_t{tile} * tile_words + lane;
    const u32 live = mask_word(row.live, row.numel, word);
    u32 keep = 0, ties = 0;
    for (u32 j = 0; j < tile_words; ++j) {
      const bool there = (__shfl_sync(everyone, live, j) >> lane & 1u) != 0;
      const std::int64_t index = std::int64_t{tile} * tile_size + j * 32 + lane;
      const float score = there ? score_any(scorer, row, index) : 0.0f;
      const u32 equal = __ballot_sync(everyone, there && score == value);
      const bool tie = (equal >> lane & 1u) != 0 && prunes(ties + __popc(equal & lanes_below()), index);
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
  if (context.ordered && context.ties == Ties::exact) order_ties(launcher, scorer, context, work);
  std::visit(
      [&](const auto& s) {
        using K = WriteMask<std::decay_t<decltype(s)>>;
        launch_units<K>(launcher, context, (work.tiles + 7) / 8, {context, work, s});
      },
      scorer);
}

}  // namespace bittersweet::cuda
