// N:M groups and short rows, in one read that writes mask words. Members of a group are compared with each other: the
// rank of one is how many are lower, or equal and before it.
//   RankEight   groups of 2, 4 or 8 neighbours, out of vectors: a lane has whole groups in registers
//   RankGroups  all others up to `most_ranked`: an element asks its neighbours' lanes, or reads its group's members
#pragma once

#include "eight.cuh"
#include "group_table.cuh"

namespace bittersweet::cuda {

inline constexpr std::int64_t most_ranked = 64;

// Bits of those of eight keys, in groups of M, that are among the `share` lowest of their group, dead ones included.
// Dead keys are NaN's.
template <int M>
BITTERSWEET_DEVICE u32 lowest_of(const u32 (&key)[8], u32 live, std::int64_t share) {
  u32 pruned = 0;
#pragma unroll
  for (int g = 0; g < 8; g += M) {
    int rank[M] = {};
#pragma unroll
    for (int i = 0; i < M; ++i)
#pragma unroll
      for (int j = i + 1; j < M; ++j) {
        const bool later_is_lower = key[g + j] < key[g + i];
        rank[i] += later_is_lower;
        rank[j] += !later_is_lower;
      }
    const int wanted = static_cast<int>(share) - (M - __popc(live >> g & ((1u << M) - 1)));
#pragma unroll
    for (int i = 0; i < M; ++i) pruned |= (rank[i] < wanted && key[g + i] != key_of_nan ? 1u : 0u) << (g + i);
  }
  return pruned;
}

template <class S>
struct RankEight {
  static constexpr u32 threads = 256, blocks = 3;
  using Args = GroupArgs<S>;
  struct Shared {};

  static BITTERSWEET_DEVICE void body(const Args& args, Shared&) {
    using In = Eight<S>;
    const GroupContext& c = args.context;
    NanTally nan;
    for_each_tile(args.work, [&](const Row& row, u32 number, u32 tile) {
      const std::int64_t group = c.groupings[number].group, share = c.rules[number].base;
      const std::int64_t begin = std::int64_t{tile} * tile_size + lane_id() * 8;
      u32 nans = 0;
#pragma unroll
      for (u32 s = 0; s < 4; s += In::at_once) {
        In in[In::at_once];
        std::int64_t feature[In::at_once] = {};  // ahead of loads, whose registers a division would need
        if constexpr (In::norms)
#pragma unroll
          for (int b = 0; b < In::at_once; ++b) feature[b] = row.geometry.feature_of(begin + (s + b) * 256);
#pragma unroll
        for (int b = 0; b < In::at_once; ++b) in[b].load(row, begin + (s + b) * 256, feature[b]);
#pragma unroll
        for (int b = 0; b < In::at_once; ++b) {
          const std::int64_t index = begin + (s + b) * 256;
          const u32 live = live_eight(row, index);
          float score[8];
          u32 key[8];
          in[b].scores(args.scorer, row, score);
          u32 nan_bits = 0;
#pragma unroll
          for (int i = 0; i < 8; ++i) {
            key[i] = key_of(score[i]);
            nan_bits |= (key[i] == key_of_nan ? 1u : 0u) << i;
          }
          nans |= (nan_bits & live) << (s + b) * 8;
          if (live != 255u) {
#pragma unroll
            for (int i = 0; i < 8; ++i)
              if ((live >> i & 1u) == 0) key[i] = key_of_nan;
          }
          const u32 pruned = group == 4   ? lowest_of<4>(key, live, share)
                             : group == 8 ? lowest_of<8>(key, live, share)
                                          : lowest_of<2>(key, live, share);
          reinterpret_cast<unsigned char*>(row.next)[index / 8] = static_cast<unsigned char>(live & ~pruned);
        }
      }
      for (; nans != 0; nans &= nans - 1) {
        const u32 bit = static_cast<u32>(__ffs(nans)) - 1;
        nan.add(row, begin + bit / 8 * 256 + bit % 8);
      }
    });
    nan.merge(*c.step.state);
  }
};

template <class S>
struct RankGroups {
  static constexpr u32 threads = 256, blocks = 3;
  using Args = GroupArgs<S>;
  struct Shared {};

  // Is the lane's element among the lowest of its group, which is in the same word?
  static BITTERSWEET_DEVICE bool ask_lanes(u32 key, u32 live, u32 size, std::int64_t share) {
    const u32 first = lane_id() & ~(size - 1), mask = (size == 32 ? ~0u : (1u << size) - 1) << first;
    u32 lower = size - static_cast<u32>(__popc(live & mask));  // dead ones
    for (u32 j = 0; j < size; ++j) {
      const u32 other = __shfl_sync(everyone, key, first + j);
      if ((live >> (first + j) & 1u) != 0) lower += other < key || (other == key && first + j < lane_id());
    }
    return lower < share;
  }

  static BITTERSWEET_DEVICE Members group_of_element(const Row& row, const Grouping& how, std::int64_t index) {
    const std::int64_t at = how.mapped ? row.order.logical_of(index) : index;
    return row.numel < std::int64_t{1} << 31 ? group_at<u32>(how, static_cast<u32>(at))
                                             : group_at<u64>(how, static_cast<u64>(at));
  }

  static BITTERSWEET_DEVICE bool read_group(const S& scorer, const Row& row, const Grouping& how, const GroupRule& rule,
                                            const Members& group, u32 key) {
    const auto share = static_cast<u32>(rule.base + (group.row < rule.extra));
    u32 lower = 0;
    for (u32 j = 0; j < group.size && lower < share; ++j) {
      if (j == group.at) continue;
      const std::int64_t other = how.mapped ? row.order.memory_of(group[j]) : group[j];
      if (!is_live(row, other)) {
        ++lower;
        continue;
      }
      const u32 its = key_of(score_any(scorer, row, other));
      lower += its < key || (its == key && j < group.at);
    }
    return lower < share;
  }

  static BITTERSWEET_DEVICE void body(const Args& args, Shared&) {
    const GroupContext& c = args.context;
    const u32 lane = lane_id();
    NanTally nan;
    for_each_tile(args.work, [&](const Row& row, u32 number, u32 tile) {
      const Grouping& how = c.groupings[number];
      const GroupRule& rule = c.rules[number];
      const std::int64_t word = std::int64_t{tile} * tile_words + lane;
      const u32 live = mask_word(row.live, row.numel, word);
      u32 keep = 0, nans = 0;
      for (u32 begin = 0; begin < tile_words; ++begin) {
        const u32 there = __shfl_sync(everyone, live, begin);
        const std::int64_t index = std::int64_t{tile} * tile_size + begin * 32 + lane;
        if (index - lane >= row.numel) break;
        const bool mine = (there >> lane & 1u) != 0;
        const u32 key = mine ? key_of(score_any(args.scorer, row, index)) : key_of_nan;
        __syncwarp();  // or the compiler keeps what the row says for later, which takes registers
        const bool is_nan = key == key_of_nan;
        bool counts = mine, low = false;
        if (how.in_words) {
          low =
              ask_lanes(key, there, static_cast<u32>(how.group > 0 ? how.group : row.geometry.row_size()),
                        rule.base + (how.group == 0 && rule.extra > 0 && index / row.geometry.row_size() < rule.extra));
        } else if (mine) {
          const Members group = group_of_element(row, how, index);
          counts = group.whole;
          low = counts && !is_nan && read_group(args.scorer, row, how, rule, group, key);
        }
        if (counts && is_nan) nans |= 1u << begin;
        const u32 kept = __ballot_sync(everyone, mine && (!low || is_nan));
        if (lane == begin) keep = kept;
      }
      store_word(row.next, row.numel, word, keep);
      for (; nans != 0; nans &= nans - 1)
        nan.add(row, std::int64_t{tile} * tile_size + (static_cast<u32>(__ffs(nans)) - 1) * 32 + lane);
    });
    nan.merge(*c.step.state);
  }
};

template <class L>
void rank_groups(L& launcher, const Scorer& scorer, const GroupContext& context, const Work& whole, const Work& rest) {
  std::visit(
      [&](const auto& s) {
        using S = std::decay_t<decltype(s)>;
        const auto launch = [&]<class K>(const Work& work) {
          if (work.tiles > 0)
            launcher.template launch<K>(grid_for<K>((work.tiles + 7) / 8, launcher.processors()), {context, work, s});
        };
        if constexpr (reads_eight<S>) launch.template operator()<RankEight<S>>(whole);
        launch.template operator()<RankGroups<S>>(rest);
      },
      scorer);
}

}  // namespace bittersweet::cuda
