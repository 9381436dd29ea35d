// What a step does beside where a tensor's memory is not row-major. The passes over elements and their masks go by
// memory; ties, and the NaN that is reported, go by the logical index. So candidates get their logical places before
// they are ordered; the first NaN's tensor is looked through for the first of its own; and where the tensor in which
// the pruned ties end is such a one, the last of them is found by digits of its logical index. The first of these is a
// look at each candidate, the others are idle in most steps.
#pragma once

#include "ordered_ties.cuh"

namespace bittersweet::cuda {

struct PlaceCandidates {
  static constexpr u32 threads = 256, blocks = 4;
  using Args = Context;
  struct Shared {};

  static BITTERSWEET_DEVICE void body(const Context& args, Shared&) {
    Context c = args;
    if (idle(c)) return;
    const Part part = enter(c);
    const u64 found = c.state->attempt[last_attempt(c)].inside, count = found < c.capacity ? found : c.capacity;
    for (u64 i = part.first_thread(); i < count; i += part.threads()) {
      const u64 candidate = c.candidates[i];
      const Row& row = row_at(c, position_of(candidate));
      if (row.order.row_major()) continue;
      const u64 begin = u64{row.tile} * tile_size, index = position_of(candidate) - begin;
      const auto logical = static_cast<u64>(row.order.logical_of(static_cast<std::int64_t>(index)));
      c.candidates[i] = candidate - index + logical;
    }
  }
};

// Of the tensor that holds the first NaN of all, the first one. Not the last of the reads, but the first: the other one
// is made only where NaN does not matter.
template <class S>
struct FindNaN {
  static constexpr u32 threads = 256, blocks = 4;
  struct Args {
    Context context;
    Work work;
    S scorer;
    const std::uint64_t* drawn;  // of a sample, or null: where it holds numbers, its own NaN are all that count
  };
  struct Shared {};

  static BITTERSWEET_DEVICE void body(const Args& args, Shared&) {
    Context c = args.context;
    if (idle(c) || (args.drawn != nullptr && *args.drawn > 0)) return;
    const Part part = enter(c);
    const device::Attempt& attempt = c.state->attempt[0];
    if (attempt.nan == 0) return;
    const auto first = static_cast<std::int64_t>(attempt.first_nan);
    const Row& row = c.rows[row_of(c.row_count, [&](u32 r) { return c.rows[r].offset <= first; })];
    if (row.order.row_major()) return;
    u64 found = 0;
    const u32 tiles = tiles_in_row(row);
    for (u64 tile = part.first_warp(); tile < tiles; tile += part.warps()) {
      const u32 live = mask_word(row.live, row.numel, static_cast<std::int64_t>(tile) * tile_words + lane_id());
      for (u32 j = 0; j < tile_words; ++j) {
        if ((__shfl_sync(everyone, live, j) >> lane_id() & 1u) == 0) continue;
        const std::int64_t index = static_cast<std::int64_t>(tile) * tile_size + j * 32 + lane_id();
        const float score = score_any(args.scorer, row, index);
        if (score == score) continue;
        const u64 place = device::none - static_cast<u64>(row.offset + row.order.logical_of(index));
        if (place > found) found = place;
      }
    }
    if (found != 0) atomicMax(reinterpret_cast<u64*>(&c.state->nan_place), found);
  }
};

template <class L>
void place_candidates(L& launcher, const Context& context) {
  launch_units<PlaceCandidates>(launcher, context, (context.capacity + 1023) / 1024, context);
}

template <class L>
void find_nan(L& launcher, const Scorer& scorer, const Context& context, const Work& work, const std::uint64_t* drawn) {
  std::visit(
      [&](const auto& s) {
        using K = FindNaN<std::decay_t<decltype(s)>>;
        launch_units<K>(launcher, context, (work.tiles + 7) / 8, {context, work, s, drawn});
      },
      scorer);
}

template <class L>
void order_ties(L& launcher, const Scorer& scorer, const Context& context, const Work& work) {
  launch_units<PlaceTies>(launcher, context, 1, context);
  std::visit(
      [&](const auto& s) {
        using K = TieDigit<std::decay_t<decltype(s)>>;
        for (u32 level = 1; level <= device::tie_levels; ++level)
          launch_units<K>(launcher, context, (work.tiles + 7) / 8, {context, s, level});
      },
      scorer);
}

}  // namespace bittersweet::cuda
