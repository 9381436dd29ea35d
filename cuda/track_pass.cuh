// Scorers with a memory: the passes of engine/track.hpp. Half a warp takes a block of 4,096 elements, a thread one of
// the 16 lanes that the contract adds up in: element after element, 8 of an array on their way at a time. Types are
// looked at once for every 8 elements, so that one launch takes all tensors, whatever they are made of.
#pragma once

#include <type_traits>

#include "draws.cuh"
#include "track_plan.hpp"
#include "verbs.cuh"

namespace bittersweet::cuda {

inline constexpr u32 half_warp = Moments::lanes;
inline constexpr int track_rows = 8;                        // elements that a thread takes at once
inline constexpr u32 track_group = half_warp * track_rows;  // and half a warp
using LaneSums = TrackSumsOf<u32>;
static_assert(half_warp == 16 && track_group % 64 == 0 && track_block % track_group == 0);

BITTERSWEET_DEVICE u32 half_lane() { return lane_id() % half_warp; }
BITTERSWEET_DEVICE u32 half_id() { return lane_id() / half_warp; }

// What 16 lanes found, in all of them: folded pairwise as fold_lanes() does.
BITTERSWEET_DEVICE LaneSums fold_half(LaneSums sums) {
  for (u32 width = half_warp / 2; width > 0; width /= 2) {
    const LaneSums other{__shfl_xor_sync(everyone, sums.live, width), __shfl_xor_sync(everyone, sums.flips, width),
                         __shfl_xor_sync(everyone, sums.xy, width),   __shfl_xor_sync(everyone, sums.xx, width),
                         __shfl_xor_sync(everyone, sums.yy, width),   __shfl_xor_sync(everyone, sums.r, width),
                         __shfl_xor_sync(everyone, sums.rr, width)};
    sums += other;
  }
  return sums;
}

// ---- a thread's elements of one group: at, at + 16, ... of an array ----

template <bool Whole>  // all 128 of half a warp are there
struct Group {
  std::int64_t at;  // index of the first
  int left;         // element r is there while 16 r < left
  BITTERSWEET_DEVICE bool has(int r) const { return Whole || static_cast<int>(half_warp) * r < left; }
  BITTERSWEET_DEVICE std::int64_t begin() const { return at - half_lane(); }  // a multiple of 128
};

struct Loaded {
  u32 bits[track_rows];

  template <class Bits, bool Whole>
  BITTERSWEET_DEVICE void read_as(const void* data, const Group<Whole>& group) {
    const Bits* const from = static_cast<const Bits*>(data) + group.at;
#pragma unroll
    for (int r = 0; r < track_rows; ++r) bits[r] = group.has(r) ? __ldcs(from + half_warp * r) : Bits{0};
  }
  template <bool Whole>
  BITTERSWEET_DEVICE void read(const void* data, DType type, const Group<Whole>& group) {
    type == DType::f32 ? read_as<u32>(data, group) : read_as<u16>(data, group);
  }
  // To floats: behind the reads of all arrays, so that they are on their way together.
  BITTERSWEET_DEVICE void decode(DType type) {
    if (type == DType::bf16) {
#pragma unroll
      for (int r = 0; r < track_rows; ++r) bits[r] <<= 16;
    } else if (type == DType::f16) {
#pragma unroll
      for (int r = 0; r < track_rows; ++r) bits[r] = std::bit_cast<u32>(f16_to_float(static_cast<u16>(bits[r])));
    }
  }
  BITTERSWEET_DEVICE float operator[](int r) const { return std::bit_cast<float>(bits[r]); }
  BITTERSWEET_DEVICE void set(int r, float x) { bits[r] = std::bit_cast<u32>(x); }
};

// Keep bits of a thread's elements.
struct LiveBits {
  u32 words[track_group / 32];

  template <bool Whole>
  BITTERSWEET_DEVICE void read(const std::uint64_t* mask, const Group<Whole>& group, std::int64_t numel) {
    const std::int64_t first = group.begin() / 32;
#pragma unroll
    for (u32 w = 0; w < track_group / 32; ++w) {
      if constexpr (Whole)
        words[w] = mask == nullptr ? ~0u : words32(mask)[first + w] >> half_lane();
      else
        words[w] = mask_word(mask, numel, first + w) >> half_lane();
    }
  }
  BITTERSWEET_DEVICE bool operator[](int r) const { return (words[r / 2] >> (half_warp * (r % 2)) & 1u) != 0; }
};

// The random bits of a warp's two groups, in shared memory: a thread draws the 8 elements of one Philox number, and all
// read the halves that are theirs. Called by whole warps.
struct GroupDraws {
  u16 bits[2][track_group + 16];  // the two halves' bits in banks of their own

  BITTERSWEET_DEVICE void draw(const RoundingKey& key, std::int64_t begin) {
    __syncwarp();
    const Draws<8> own(key, begin + half_lane() * RoundingKey::block);
#pragma unroll
    for (int i = 0; i < 8; ++i) bits[half_id()][half_lane() * 8 + static_cast<u32>(i)] = static_cast<u16>(own[i]);
    __syncwarp();
  }
  BITTERSWEET_DEVICE u32 operator[](int r) const {
    return bits[half_id()][half_warp * static_cast<u32>(r) + half_lane()];
  }
};

// Writes an array that is kept. Called by whole warps.
template <bool Whole>
BITTERSWEET_DEVICE void keep(void* data, DType type, const RoundingKey& key, const Group<Whole>& group,
                             const Loaded& values, GroupDraws& draws) {
  if (__ballot_sync(everyone, type == DType::bf16) != 0) draws.draw(key, group.begin());
  if (type == DType::bf16) {
    u16* const to = static_cast<u16*>(data) + group.at;
#pragma unroll
    for (int r = 0; r < track_rows; ++r)
      if (group.has(r)) __stcs(to + half_warp * r, stochastic_bf16_bits(values[r], draws[r]));
  } else {
    u32* const to = static_cast<u32*>(data) + group.at;
#pragma unroll
    for (int r = 0; r < track_rows; ++r)
      if (group.has(r)) __stcs(to + half_warp * r, values.bits[r]);
  }
}

// ---- passes ----

// Where a group lies, and what a verb needs to know of its tensor and warp.
template <bool Whole>
struct TrackPlace {
  const TrackRow& row;
  Group<Whole> group;
  u32 updates;  // as a step of draws
  bool known;   // has it had any?
  float decay;
  GroupDraws& draws;

  BITTERSWEET_DEVICE RoundingKey key(u32 array) const { return {row.key.seed, updates, row.key.stream + array}; }
  BITTERSWEET_DEVICE void read(Loaded& values, int slot) const {
    values.read(row.arrays[slot], row.types[slot], group);
  }
};

struct Coherences {  // arrays: weight, previous, average
  static constexpr bool sums = true, jitter_of_x = true;
  static BITTERSWEET_DEVICE std::int64_t updates(const TrackRow& row) {
    return static_cast<const Coherence*>(row.count)->count();
  }
  template <bool Whole>
  static BITTERSWEET_DEVICE void group(const TrackPlace<Whole>& place, LaneSums& mine) {
    const TrackRow& row = place.row;
    Loaded weight, previous, average;
    LiveBits live;
    place.read(weight, 0);
    place.read(previous, 1);
    place.read(average, 2);
    live.read(row.mask, place.group, row.numel);
    weight.decode(row.types[0]), previous.decode(row.types[1]);
#pragma unroll
    for (int r = 0; r < track_rows; ++r) {
      previous.set(r, live[r] && place.known ? weight[r] - previous[r] : 0.0f);  // the difference from now on
      weight.set(r, live[r] ? weight[r] : 0.0f);
    }
    keep(row.arrays[1], row.types[1], place.key(0), place.group, weight, place.draws);
    average.decode(row.types[2]);
#pragma unroll
    for (int r = 0; r < track_rows; ++r) {
      const bool seen = live[r] && place.known;
      const float x = previous[r], y = seen ? average[r] : 0.0f;
      average.set(r, next_average(y, x, place.decay));
      mine.live += seen;
      mine.add_products(static_cast<double>(x), static_cast<double>(y));
      mine.r += std::fabs(static_cast<double>(x));
    }
    keep(row.arrays[2], row.types[2], place.key(1), place.group, average, place.draws);
  }
};

struct Retentions {  // arrays: previous, exp_avg
  static constexpr bool sums = true, jitter_of_x = false;
  static BITTERSWEET_DEVICE std::int64_t updates(const TrackRow&) { return 0; }
  template <bool Whole>
  static BITTERSWEET_DEVICE void group(const TrackPlace<Whole>& place, LaneSums& mine) {
    Loaded previous, exp_avg;
    place.read(previous, 0);
    place.read(exp_avg, 1);
    previous.decode(place.row.types[0]), exp_avg.decode(place.row.types[1]);
#pragma unroll
    for (int r = 0; r < track_rows; ++r)  // what is not there is 0
      mine.add_products(static_cast<double>(previous[r]), previous[r] != 0.0f ? -static_cast<double>(exp_avg[r]) : 0.0);
  }
};

struct Snapshots {  // arrays: weight, exp_avg, exp_avg_sq, snapshot
  static constexpr bool sums = true, jitter_of_x = false;
  static BITTERSWEET_DEVICE std::int64_t updates(const TrackRow&) { return 0; }
  template <bool Whole>
  static BITTERSWEET_DEVICE void group(const TrackPlace<Whole>& place, LaneSums& mine) {
    const TrackRow& row = place.row;
    Loaded weight, exp_avg, exp_avg_sq, snapshot;
    LiveBits live;
    live.read(row.mask, place.group, row.numel);
    place.read(weight, 0);
    place.read(snapshot, 3);
    weight.decode(row.types[0]), snapshot.decode(row.types[3]);
#pragma unroll
    for (int r = 0; r < track_rows; ++r) weight.set(r, live[r] ? weight[r] - snapshot[r] : 0.0f);
    place.read(exp_avg, 1);  // all four at once would not fit into the registers
    place.read(exp_avg_sq, 2);
    exp_avg.decode(row.types[1]), exp_avg_sq.decode(row.types[2]);
#pragma unroll
    for (int r = 0; r < track_rows; ++r) {
      mine.live += live[r];
      mine.add_products(static_cast<double>(weight[r]), static_cast<double>(live[r] ? -exp_avg[r] : 0.0f));
      mine.add_jitter(static_cast<double>(sqrt(live[r] ? exp_avg_sq[r] : 0.0f)));
    }
  }
};

struct Movements {  // arrays: weight, grad, sums
  static constexpr bool sums = false, jitter_of_x = false;
  static BITTERSWEET_DEVICE std::int64_t updates(const TrackRow& row) {
    return *static_cast<const std::int64_t*>(row.count);
  }
  template <bool Whole>
  static BITTERSWEET_DEVICE void group(const TrackPlace<Whole>& place, LaneSums&) {
    const TrackRow& row = place.row;
    Loaded weight, grad, sums;
    place.read(weight, 0);
    place.read(grad, 1);
    place.read(sums, 2);
    weight.decode(row.types[0]), grad.decode(row.types[1]), sums.decode(row.types[2]);
#pragma unroll
    for (int r = 0; r < track_rows; ++r) sums.set(r, next_movement(sums[r], grad[r], weight[r], row.rate));
    keep(row.arrays[2], row.types[2], place.key(0), place.group, sums, place.draws);
  }
};

template <class Verb>
struct TrackPass {
  static constexpr u32 threads = 256, blocks = 3, most_rows = 368;
  struct Args {
    TrackSums* sums;  // one a block
    float decay;
    u32 count, units;  // of rows, of blocks
    TrackRow rows[most_rows];
  };
  struct Shared {
    GroupDraws draws[threads / 32];
  };

  static BITTERSWEET_DEVICE void body(const Args& args, Shared& shared) {
    for (u32 pair = static_cast<u32>(first_warp()); 2 * pair < args.units; pair += static_cast<u32>(warps())) {
      const u32 unit = 2 * pair + half_id();
      const TrackRow& row = args.rows[row_of(args.count, [&](u32 r) { return args.rows[r].first <= unit; })];
      const std::int64_t first = std::int64_t{unit - row.first} * track_block;
      const bool there = unit < args.units;
      const LaneSums found = block(args, row, first, there ? row.numel - first : 0, shared.draws[warp_id()]);
      if (Verb::sums && there && half_lane() == 0) {
        args.sums[unit] = TrackSums{};
        args.sums[unit] += found;
      }
    }
  }

  // `left`: elements of the tensor from the block's first on.
  static BITTERSWEET_DEVICE LaneSums block(const Args& args, const TrackRow& row, std::int64_t first, std::int64_t left,
                                           GroupDraws& draws) {
    int count = static_cast<int>(left < track_block ? left : track_block);
    int groups = (count + static_cast<int>(track_group) - 1) / static_cast<int>(track_group);
    const int others = __shfl_xor_sync(everyone, groups, half_warp);
    if (others > groups) groups = others;  // the halves meet to draw
    const std::int64_t updates = Verb::updates(row);
    std::int64_t at = first + half_lane();
    LaneSums mine;
#pragma unroll 1
    for (; groups > 0; --groups, at += track_group, count -= static_cast<int>(track_group)) {
      const auto with = [&](auto whole) {
        constexpr bool all = decltype(whole)::value;
        const TrackPlace<all> place{
            row,  {at, count - static_cast<int>(half_lane())}, static_cast<u32>(updates), updates > 0, args.decay,
            draws};
        Verb::group(place, mine);
      };
      const bool part = __ballot_sync(everyone, count < static_cast<int>(track_group)) != 0;
      part ? with(std::false_type{}) : with(std::true_type{});
    }
    if (Verb::jitter_of_x) mine.rr = mine.xx;
    return Verb::sums ? fold_half(mine) : mine;
  }
};

}  // namespace bittersweet::cuda
