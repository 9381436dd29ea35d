// A team, which is a warp or a block, and its list in shared memory: keys of one row above their places, so that order
// by entry is order by (score, index). What the cut of a row is found among.
#pragma once

#include "device.cuh"

namespace bittersweet::cuda {

template <u32 Threads>
struct Team {
  static constexpr u32 threads = Threads, warps = Threads / 32;
  static BITTERSWEET_DEVICE u32 rank() { return threadIdx.x % Threads; }
  static BITTERSWEET_DEVICE u32 warp() { return rank() / 32; }
  static BITTERSWEET_DEVICE void sync() {
    if constexpr (Threads == 32)
      __syncwarp();
    else
      __syncthreads();
  }
};

// Where a sample of a row says that its cut lies, in orders of the sample: four deviations to either side, fewer where
// the inside would not fit the list. Elements that are neighbours share a scale: 1.2 of the binomial deviation. It only
// proposes.
struct RowEnds {
  u32 low, high;  // 0: open; above the sample's size: open
};
BITTERSWEET_FORMULA RowEnds row_ends(float share, u32 drawn, float live, float room) {
  const float wanted = share * static_cast<float>(drawn), deviation = 1.2f * std::sqrt(wanted * (1.0f - share));
  const float fits = 0.45f * room * static_cast<float>(drawn) / live;
  float distance = 4.0f * deviation;
  if (distance > fits) distance = fits > 2.0f * deviation ? fits : 2.0f * deviation;
  const float low = wanted - distance - 1.0f, high = wanted + distance + 2.0f;
  return {low >= 1.0f ? static_cast<u32>(low) : 0, static_cast<u32>(high)};
}

// Of all lanes up to this one.
BITTERSWEET_DEVICE u32 sum_upto(u32 value) {
  for (u32 step = 1; step < 32; step *= 2) {
    const u32 other = __shfl_up_sync(everyone, value, step);
    if (lane_id() >= step) value += other;
  }
  return value;
}

struct FoundBin {
  u32 bin, below, count;
};

template <class T, u32 Capacity>
struct RowList {
  static constexpr u32 capacity = Capacity, digit = 8, bins = 1u << digit;
  u64 entry[Capacity];
  u32 bin[bins];
  u32 count;            // all that were to be listed; those beyond the capacity are lost
  u32 lowest, highest;  // keys

  BITTERSWEET_DEVICE void clear() {
    if (T::rank() == 0) count = 0, lowest = ~0u, highest = 0;
  }

  // Called by whole warps.
  BITTERSWEET_DEVICE void append(bool inside, u32 key, u32 place) {
    const u32 all = __ballot_sync(everyone, inside);
    if (all == 0) return;
    u32 at = 0;
    if (lane_id() == 0) at = atomicAdd(&count, static_cast<u32>(__popc(all)));
    at = __shfl_sync(everyone, at, 0) + static_cast<u32>(__popc(all & lanes_below()));
    if (inside && at < Capacity) entry[at] = u64{key} << 32 | place;
  }

  // Those of eight neighbours, from `place` on, whose bits are set.
  BITTERSWEET_DEVICE void append(u32 inside, const u32 (&key)[8], u32 place) {
    if (__ballot_sync(everyone, inside != 0) == 0) return;
    const u32 mine = static_cast<u32>(__popc(inside));
    const u32 upto = sum_upto(mine);
    u32 at = 0;
    if (lane_id() == 31) at = atomicAdd(&count, upto);
    at = __shfl_sync(everyone, at, 31) + upto - mine;
#pragma unroll
    for (int i = 0; i < 8; ++i)
      if ((inside >> i & 1u) != 0) {
        if (at < Capacity) entry[at] = u64{key[i]} << 32 | (place + i);
        ++at;
      }
  }

  // The lowest and the highest key of all entries. Whole team; the list is complete.
  BITTERSWEET_DEVICE void measure() {
    u32 low = ~0u, high = 0;
    for (u32 i = T::rank(); i < count; i += T::threads) {
      const u32 key = static_cast<u32>(entry[i] >> 32);
      low = key < low ? key : low;
      high = key > high ? key : high;
    }
    for (int step = 16; step > 0; step /= 2) {
      const u32 other_low = __shfl_xor_sync(everyone, low, step), other_high = __shfl_xor_sync(everyone, high, step);
      low = other_low < low ? other_low : low;
      high = other_high > high ? other_high : high;
    }
    if (lane_id() == 0) {
      atomicMin(&lowest, low);
      atomicMax(&highest, high);
    }
    T::sync();
  }

  BITTERSWEET_DEVICE void clear_bins() {
    T::sync();  // the last use is over
    for (u32 b = T::rank(); b < bins; b += T::threads) bin[b] = 0;
    T::sync();
  }

  // The bin that holds the order-th. Every warp looks for itself.
  BITTERSWEET_DEVICE FoundBin find(u32 order) const {
    constexpr u32 each = bins / 32;
    u32 mine = 0;
    for (u32 b = 0; b < each; ++b) mine += bin[lane_id() * each + b];
    const u32 upto = sum_upto(mine);
    const u32 holder = static_cast<u32>(__ffs(static_cast<int>(__ballot_sync(everyone, order <= upto)))) - 1;
    u32 below = upto - mine, b = lane_id() * each;
    for (u32 i = 0; i + 1 < each && order > below + bin[b]; ++i) below += bin[b++];
    return {__shfl_sync(everyone, b, holder), __shfl_sync(everyone, below, holder),
            __shfl_sync(everyone, bin[b], holder)};
  }

  // All entries up to it are the first `order` (1 to count). Whole team, after measure().
  BITTERSWEET_DEVICE u64 cut(u32 order) {
    const u64 base = u64{lowest} << 32;
    const u32 spread = highest - lowest;
    int shift = spread == 0 ? 32 : 64 - std::countl_zero(spread);
    u64 prefix = 0;
    for (;;) {
      const int next = shift > static_cast<int>(digit) ? shift - static_cast<int>(digit) : 0;
      clear_bins();
      for (u32 i = T::rank(); i < count; i += T::threads) {
        const u64 e = entry[i] - base;
        if (shift == 64 ? true : e >> shift == prefix)
          atomicAdd(&bin[static_cast<u32>(e >> next) & ((1u << (shift - next)) - 1)], 1u);
      }
      T::sync();
      const FoundBin found = find(order);
      prefix = prefix << (shift - next) | found.bin;
      order -= found.below;
      shift = next;
      if (order != found.count && shift > 0) continue;
      const u64 last = prefix << shift | ((u64{1} << shift) - 1);
      return last < ~base ? base + last : ~u64{0};
    }
  }
};

}  // namespace bittersweet::cuda
