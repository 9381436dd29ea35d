// histogram: radix passes for a bracket that failed. Each counts one digit of the keys in a shrinking range; when the
// range is narrow, or never was wide, the passes return at once. plan_retry then makes it the bracket of a second try.
#pragma once

#include "verbs.cuh"

namespace bittersweet::cuda {

struct RangeShared {
  FindShared find;
  BinsShared bins;
};

BITTERSWEET_DEVICE bool void_step(const Context& c) {
  const device::State& state = *c.state;
  return state.bad_k != 0 || (c.nonfinite == NonFinite::error && state.attempt[0].nan > 0);
}

// Did the first bracket fail, so that a second try is due?
BITTERSWEET_DEVICE bool needs_retry(const Context& c) {
  const device::State& state = *c.state;
  return !void_step(c) && !device::prove(state.attempt[0], state.rank, state.live, c.capacity).settled;
}

// The range before pass `level` (from 0), for a whole block.
BITTERSWEET_DEVICE device::Range range_before(const Context& c, u32 level, FindShared& shared) {
  const device::State& state = *c.state;
  if (level == 0) {
    const device::Proof proof = device::prove(state.attempt[0], state.rank, state.live, c.capacity);
    return device::range_after(state.attempt[0], proof, state.live, c.non_negative);
  }
  const device::Range range = state.range[level - 1];
  if (device::is_narrow(range, c.capacity)) return range;
  return device::narrow(range, find_bin(
                                   device::bins, [&](u64 b) { return state.range_bins[level - 1][b]; },
                                   [&](u64) { return range.order; }, shared));
}

template <class S>
struct RangeDigit {
  static constexpr u32 threads = 256, blocks = 4;
  struct Args {
    Context context;
    Work work;
    S scorer;
    u32 level;
  };
  using Shared = RangeShared;

  static BITTERSWEET_DEVICE void body(const Args& args, Shared& shared) {
    Context c = args.context;
    if (idle(c)) return;
    const Part part = enter(c);
    if (!needs_retry(c)) return;
    const device::Range range = range_before(c, args.level, shared.find);
    if (part.block == 0 && threadIdx.x == 0) c.state->range[args.level] = range;
    if (device::is_narrow(range, c.capacity)) return;
    const int shift = device::shift_of(range);
    const u32 lane = lane_id();
    clear_bins(shared.bins);
    for_each_tile(work_of(c, args.work), part, [&](const Row& row, u32, u32 tile) {
      const u32 live = mask_word(row.live, row.numel, std::int64_t{tile} * tile_words + lane);
#pragma unroll 4
      for (u32 j = 0; j < tile_words; ++j) {
        const u32 word = __shfl_sync(everyone, live, j);
        if ((word >> lane & 1u) == 0) continue;
        const u32 key = key_of(score_any(args.scorer, row, std::int64_t{tile} * tile_size + j * 32 + lane));
        if (key >= range.low && key <= range.high) atomicAdd(&shared.bins.bin[(key - range.low) >> shift], 1u);
      }
    });
    merge_bins(shared.bins, c.state->range_bins[args.level]);
  }
};

struct PlanRetry {
  static constexpr u32 threads = 256, blocks = 1;
  using Args = Context;
  using Shared = RangeShared;

  static BITTERSWEET_DEVICE void body(const Context& args, Shared& shared) {
    Context c = args;
    if (idle(c)) return;
    const Part part = enter(c);
    if (part.block != 0 || !needs_retry(c)) return;
    const device::Range range = range_before(c, range_levels, shared.find);
    clear_digits(*c.state);
    if (threadIdx.x != 0) return;
    c.state->range[range_levels] = range;
    device::bracket_of(c.state->attempt[1], range);
  }
};

template <class L>
void histogram(L& launcher, const Scorer& scorer, const Context& context, const Work& work, u32 level) {
  std::visit(
      [&](const auto& s) {
        using K = RangeDigit<std::decay_t<decltype(s)>>;
        launch_units<K>(launcher, context, (work.tiles + 7) / 8, {context, work, s, level});
      },
      scorer);
}

template <class L>
void plan_retry(L& launcher, const Context& context) {
  launch_units<PlanRetry>(launcher, context, 1, context);
}

}  // namespace bittersweet::cuda
