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

// Appends what the warp found inside, by one atomic; what finds no room is counted all the same.
BITTERSWEET_DEVICE void store_candidates(const Context& c, device::Attempt& attempt, bool inside, float score,
                                         u32 low_key, u64 position) {
  const u32 all = __ballot_sync(everyone, inside);
  if (all == 0) return;
  u64 place = 0;
  if (lane_id() == 0) place = atomicAdd(reinterpret_cast<u64*>(&attempt.inside), static_cast<u64>(__popc(all)));
  place = __shfl_sync(everyone, place, 0) + __popc(all & lanes_below());
  if (inside && place < c.capacity) c.candidates[place] = device::candidate_of(key_of(score), low_key, position);
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
    device::Attempt& attempt = c.state->attempt[args.attempt];
    if (!attempt.run) return;
    const float low = attempt.low, high = attempt.high;
    const u32 low_key = attempt.low_key, lane = lane_id();
    const bool zero_end = attempt.zero_end != 0;
    Tally tally;
    for_each_tile(args.work, [&](const Row& row, u32, u32 tile) {
      const std::int64_t word = std::int64_t{tile} * tile_words + lane;
      const u32 live = mask_word(row.live, row.numel, word);
      u32 keep = 0, ties = 0;
      constexpr u32 at_once = narrow_memory || blackwell ? 2 : 4;
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
          const Verdict verdict = judge(score[j], low, high, there[j]);
          tally.count(verdict, row.offset + index);
          const u32 kept = __ballot_sync(everyone, there[j] && !verdict.below && !verdict.low);
          if (lane == begin + j) keep = kept;
          ties += (zero_end ? verdict.below : verdict.low) ? 1u : verdict.high ? 0x10000u : 0u;
          store_candidates(c, attempt, verdict.inside, score[j], low_key, u64{row.tile} * tile_size + index);
        }
      }
      if (!c.masks) return;
      ties = warp_sum32(ties);
      if (lane == 0) c.tile_ties[row.tile + tile] = ties;
      store_word(row.next, row.numel, word, keep);
    });
    tally.merge(attempt);
  }
};

}  // namespace bittersweet::cuda
