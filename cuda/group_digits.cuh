// Groups that nothing quicker takes: rows whose elements are apart in memory, and N:M groups beyond `most_ranked`. A
// lane takes a group, the block's warps take turns at its members. The cut is found by four digits of 8 bits, a read
// for each; bins of one lane lie in one bank of shared memory.
#pragma once

#include "group_table.cuh"

namespace bittersweet::cuda {

template <class S>
struct CutByDigits {
  static constexpr u32 threads = 256, blocks = 3, warps_of_block = threads / 32, bins = 256;
  using Args = GroupArgs<S>;
  struct Shared {
    u32 bin[bins][32];
    u32 live[32], nan[32];
    u32 prefix[32], order[32], equal[32];
    u32 ties[warps_of_block][32];
    u32 split;
  };

  struct Groups {
    const S& scorer;
    const Row& row;
    const Grouping& how;
    Members members;
    bool valid;
    u32 begin, end;  // members of this warp

    BITTERSWEET_DEVICE std::int64_t index(u32 j) const {
      return how.mapped ? row.order.memory_of(members[j]) : members[j];
    }
    // f(key, index) for live members; those of an incomplete group have no key.
    template <class F>
    BITTERSWEET_DEVICE void each(F&& f) const {
      for (u32 j = begin; j < end; ++j) {
        if (!valid || !members.whole || j >= members.size) break;
        const std::int64_t at = index(j);
        if (cuda::is_live(row, at)) f(key_of(score_any(scorer, row, at)), at);
      }
    }
  };

  static BITTERSWEET_DEVICE Groups groups_of(const S& scorer, const Row& row, const Grouping& how, u64 unit) {
    const Geometry& g = how.geometry;
    const auto id = static_cast<std::int64_t>(unit * 32 + lane_id());
    const std::int64_t in_row = how.group == 0 ? 1 : (g.inputs + how.group - 1) / how.group * g.inner;
    const bool valid = id < g.rows * in_row;
    const std::int64_t at = valid ? id : 0, rest = at % in_row;
    const Members members = group_of(how, at / in_row, how.group == 0 ? 0 : rest / g.inner, rest % g.inner);
    const u64 size = static_cast<u64>(how.group == 0 ? g.row_size() : how.group);
    return {scorer,
            row,
            how,
            members,
            valid,
            static_cast<u32>(size * warp_id() / warps_of_block),
            static_cast<u32>(size * (warp_id() + 1) / warps_of_block)};
  }

  static BITTERSWEET_DEVICE void find_cut(const Groups& groups, const GroupRule& rule, Shared& s, NanTally& nan) {
    const u32 lane = lane_id();
    for (int shift = 24; shift >= 0; shift -= 8) {
      __syncthreads();  // the last use is over
      for (u32 b = warp_id(); b < bins; b += warps_of_block) s.bin[b][lane] = 0;
      if (shift == 24 && warp_id() == 0) s.live[lane] = s.nan[lane] = s.prefix[lane] = s.split = 0;
      __syncthreads();
      const u32 prefix = s.prefix[lane];
      u32 live = 0, nans = 0;
      groups.each([&](u32 key, std::int64_t index) {
        if (shift == 24) {
          ++live;
          if (key == key_of_nan) ++nans, nan.add(groups.row, index);
        }
        if (shift == 24 || key >> (shift + 8) == prefix) atomicAdd(&s.bin[key >> shift & 255u][lane], 1u);
      });
      if (live > 0) atomicAdd(&s.live[lane], live);
      if (nans > 0) atomicAdd(&s.nan[lane], nans);
      __syncthreads();
      if (warp_id() == 0) {
        if (shift == 24) {
          const std::int64_t numbers = std::int64_t{s.live[lane]} - s.nan[lane];
          const std::int64_t share = rule.base + (groups.members.row < rule.extra);
          const std::int64_t wanted = share - (std::int64_t{groups.members.size} - s.live[lane]);
          const bool counts = groups.valid && groups.members.whole && wanted > 0;
          s.order[lane] = static_cast<u32>(!counts ? 0 : wanted < numbers ? wanted : numbers);
        }
        u32 order = s.order[lane], b = 0;
        if (order > 0) {
          for (; order > s.bin[b][lane]; ++b) order -= s.bin[b][lane];
          s.order[lane] = order;
          s.equal[lane] = s.bin[b][lane];
          s.prefix[lane] = prefix << 8 | b;
          if (shift == 0 && order < s.equal[lane]) s.split = 1;
        }
      }
    }
    __syncthreads();
  }

  static BITTERSWEET_DEVICE void write(const Groups& groups, Shared& s) {
    const u32 lane = lane_id(), cut = s.prefix[lane], pruned_ties = s.order[lane];
    u32 ties = 0;
    if (s.split != 0) {
      groups.each([&](u32 key, std::int64_t) { ties += key == cut; });
      s.ties[warp_id()][lane] = ties;
      __syncthreads();
      ties = 0;
      for (u32 w = 0; w < warp_id(); ++w) ties += s.ties[w][lane];
    }
    const Members& members = groups.members;
    const std::int64_t base = __shfl_sync(everyone, members.base, 0);
    const u32 size = __shfl_sync(everyone, members.size, 0);
    const bool beside = members.base == base + lane && members.width == 1 && members.size == size && members.whole;
    const bool neighbours = !groups.how.mapped && __ballot_sync(everyone, !groups.valid || beside) == everyone;
    u32* const words = words32(groups.row.next);
    for (u32 j = groups.begin; j < groups.end; ++j) {
      const bool there = groups.valid && j < members.size;
      const std::int64_t index = there ? groups.index(j) : 0;
      bool keep = there && cuda::is_live(groups.row, index);
      if (keep && members.whole && pruned_ties > 0) {
        const u32 key = key_of(score_any(groups.scorer, groups.row, index));
        keep = !(key < cut || (key == cut && ties++ < pruned_ties));
      }
      if (!neighbours) {
        if (keep) atomicOr(words + index / 32, 1u << (index % 32));
        continue;
      }
      const u32 kept = __ballot_sync(everyone, keep);
      if (lane != 0 || kept == 0) continue;
      const auto shift = static_cast<u32>(index % 32);
      atomicOr(words + index / 32, kept << shift);
      if (shift > 0 && kept >> (32 - shift) != 0) atomicOr(words + index / 32 + 1, kept >> (32 - shift));
    }
  }

  static BITTERSWEET_DEVICE void body(const Args& args, Shared& shared) {
    const GroupContext& c = args.context;
    NanTally nan;
    u32 piece = 0;
    for (u64 unit = blockIdx.x; unit < args.work.tiles; unit += gridDim.x) {
      while (piece + 1 < args.work.count && unit >= args.work.pieces[piece + 1].first) ++piece;
      const Piece& p = args.work.pieces[piece];
      const Groups groups =
          groups_of(args.scorer, args.work.rows[p.row], c.groupings[p.row], p.from + (unit - p.first));
      find_cut(groups, c.rules[p.row], shared, nan);
      write(groups, shared);
    }
    nan.merge(*c.step.state);
  }
};

template <class L>
void cut_by_digits(L& launcher, const Scorer& scorer, const GroupContext& context, const Work& work) {
  if (work.tiles == 0) return;
  std::visit(
      [&](const auto& s) {
        using K = CutByDigits<std::decay_t<decltype(s)>>;
        launcher.template launch<K>(grid_for<K>(work.tiles, launcher.processors()), {context, work, s});
      },
      scorer);
}

}  // namespace bittersweet::cuda
