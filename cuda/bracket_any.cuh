// The bracket pass over any storage and any alignment: element by element, exact scores, a ballot for every mask word.
// It also takes what vectors leave over, the last incomplete tile of each tensor. And what both passes do with a score.
#pragma once

#include "verbs.cuh"

namespace bittersweet::cuda {

struct Verdict {
  bool below, low, inside, high, nan;
};

BITTERSWEET_DEVICE Verdict judge(float score, float low, float high, bool there) {
  return {there && score < low, there && score == low, there && score > low && score < high,
          there && score == high && high != low, there && score != score};
}

// One lane's counts.
struct Tally {
  u32 below = 0, low = 0, high = 0, nan = 0;
  u64 first_nan = device::none;

  BITTERSWEET_DEVICE void count(const Verdict& verdict, std::int64_t position) {
    below += verdict.below;
    low += verdict.low;
    high += verdict.high;
    nan += verdict.nan;
    if (verdict.nan && static_cast<u64>(position) < first_nan) first_nan = static_cast<u64>(position);
  }
  BITTERSWEET_DEVICE void merge(device::Attempt& attempt) const {
    add_warp(&attempt.below, below);
    add_warp(&attempt.equal_low, low);
    add_warp(&attempt.equal_high, high);
    add_warp(&attempt.nan, nan);
    if (first_nan != device::none) atomicMin(reinterpret_cast<u64*>(&attempt.first_nan), first_nan);
  }
};

// The bracket that a warp reads against: that of the unit whose rows it is at.
struct Reading {
  u32 unit = ~0u;
  float low = 0, high = 0;  // a unit that reads nothing: +infinity, -infinity
  bool zero_end = false;

  BITTERSWEET_DEVICE bool runs() const { return low <= high; }

  // Is `row` another unit's than the one before? Then its bracket is loaded, and what was counted goes to the last.
  BITTERSWEET_DEVICE bool turn(const Context& c, const Row& row, u32 number, Tally& tally) {
    const u32 now = c.units != nullptr ? row.unit : 0;
    if (now == unit) return false;
    finish(c, number, tally);
    tally = {};
    unit = now;
    const device::Attempt& attempt = c.state[unit].attempt[number];
    low = attempt.run ? attempt.low : plus_infinity;
    high = attempt.run ? attempt.high : minus_infinity;
    zero_end = attempt.zero_end != 0;
    return true;
  }
  BITTERSWEET_DEVICE void finish(const Context& c, u32 number, const Tally& tally) const {
    if (unit != ~0u) tally.merge(c.state[unit].attempt[number]);
  }
};

// Is there nothing to read against?
BITTERSWEET_DEVICE bool no_bracket(const Context& c, u32 number) {
  return idle(c) || (c.units == nullptr && !c.state->attempt[number].run);
}

// Appends what the warp found inside, by one atomic; what finds no room is counted all the same.
BITTERSWEET_DEVICE void store_candidates(const Context& c, const Reading& at, u32 number, bool inside, float score,
                                         u64 position) {
  const u32 all = __ballot_sync(everyone, inside);
  if (all == 0) return;
  u64 place = 0;
  u64* const count = reinterpret_cast<u64*>(&c.state[at.unit].attempt[number].inside);
  if (lane_id() == 0) place = atomicAdd(count, static_cast<u64>(__popc(all)));
  place = __shfl_sync(everyone, place, 0) + __popc(all & lanes_below());
  const bool alone = c.units == nullptr;
  if (!inside || place >= (alone ? c.capacity : c.units[at.unit].capacity)) return;
  u64* const room = c.candidates + (alone ? 0 : c.units[at.unit].candidates);
  room[place] = device::candidate_of(key_of(score), key_of(at.low), position);
}

template <class S>
struct BracketAny {
  static constexpr u32 threads = 256, blocks = 4;
  struct Args {
    Context context;
    Work work;
    S scorer;
    u32 attempt;
  };
  struct Shared {};

  static BITTERSWEET_DEVICE void body(const Args& args, Shared&) {
    const Context& c = args.context;
    if (no_bracket(c, args.attempt)) return;
    const u32 lane = lane_id();
    Reading at;
    Tally tally;
    for_each_tile(args.work, [&](const Row& row, u32, u32 tile) {
      at.turn(c, row, args.attempt, tally);
      if (!at.runs()) return;
      const std::int64_t word = std::int64_t{tile} * tile_words + lane;
      const u32 live = mask_word(row.live, row.numel, word);
      u32 keep = 0, ties = 0;
      constexpr u32 at_once = blackwell ? 1 : narrow_memory ? 2 : 4;
      for (u32 begin = 0; begin < tile_words; begin += at_once) {
        float score[at_once];
        bool there[at_once];
#pragma unroll
        for (u32 j = 0; j < at_once; ++j) {
          there[j] = (__shfl_sync(everyone, live, begin + j) >> lane & 1u) != 0;
          const std::int64_t index = std::int64_t{tile} * tile_size + (begin + j) * 32 + lane;
          score[j] = there[j] ? score_any(args.scorer, row, index) : 0.0f;
        }
#pragma unroll
        for (u32 j = 0; j < at_once; ++j) {
          const std::int64_t index = std::int64_t{tile} * tile_size + (begin + j) * 32 + lane;
          const Verdict verdict = judge(score[j], at.low, at.high, there[j]);
          tally.count(verdict, row.offset + index);
          const u32 kept = __ballot_sync(everyone, there[j] && !verdict.below && !verdict.low);
          if (lane == begin + j) keep = kept;
          ties += (at.zero_end ? verdict.below : verdict.low) ? 1u : verdict.high ? 0x10000u : 0u;
          store_candidates(c, at, args.attempt, verdict.inside, score[j], u64{row.tile} * tile_size + index);
        }
      }
      if (!c.masks) return;
      ties = warp_sum32(ties);
      if (lane == 0) c.tile_ties[row.tile + tile] = ties;
      store_word(row.next, row.numel, word, keep);
    });
    at.finish(c, args.attempt, tally);
  }
};

}  // namespace bittersweet::cuda
