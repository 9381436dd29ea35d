// Bounds of tensors under scope global (bounds.hpp), without asking the host. When the step over all tensors is done,
// its counts are looked at. Where one is beyond its bounds, radix passes over the keys of all scores, with bins by
// tensor, find the cut at which the counts, each brought within its bounds, sum to the budget; what each tensor gives
// follows from counts alone, and a selection for each tensor writes the masks anew. Else all of this is idle.
#pragma once

#include "units.cuh"

namespace bittersweet::cuda {

struct BoundsArgs {
  Context context;  // of all tensors
  BoundRow* rows;
  BoundCut* cut;
  u64* bins;  // 2^bits a row
  const std::int64_t *dead, *pruned;
  std::int64_t* shares;
  const StepReport* results;  // of the tensors' own selections
  float* threshold;
  u32 bits;
  bool exact_counts;
};

// Digit `level` of a key: those above it are a prefix.
struct KeyDigit {
  int above, shift;  // the shifts of the prefix and of the digit
  BITTERSWEET_DEVICE u32 bins() const { return 1u << (above - shift); }
  BITTERSWEET_DEVICE bool holds(u32 key, u32 prefix) const { return above == 32 || key >> above == prefix; }
  BITTERSWEET_DEVICE u32 of(u32 key) const { return (key >> shift) & (bins() - 1); }
};

inline u32 bound_levels(u32 bits) { return (32 + bits - 1) / bits; }

BITTERSWEET_DEVICE KeyDigit key_digit(u32 bits, u32 level) {
  const int above = 32 - static_cast<int>(bits * level), shift = above - static_cast<int>(bits);
  return {above, shift > 0 ? shift : 0};
}

BITTERSWEET_DEVICE std::int64_t within(const BoundRow& row, std::int64_t count) {
  return detail::within(count, row.least, row.most);
}

// Before the selection: bounds that cannot be met make the step void, as a budget out of range does.
struct CheckBounds {
  static constexpr u32 threads = BlockTeam::threads, blocks = 1;
  using Args = BoundsArgs;
  using Shared = UnitsShared;

  static BITTERSWEET_DEVICE void body(const BoundsArgs& args, Shared& shared) {
    const Context& c = args.context;
    const BlockTeam team{shared.team};
    team.each(c.row_count, [&](std::int64_t i) {  // what is dead already cannot come back
      BoundRow& row = args.rows[i];
      row.least = row.least < args.dead[i] ? args.dead[i] : row.least;
      row.most = row.most < args.dead[i] ? args.dead[i] : row.most;
      row.under = args.dead[i];
    });
    const auto sum = [&](const auto& of) { return team.sum<std::int64_t>(c.row_count, of); };
    const std::int64_t dead = sum([&](std::int64_t i) { return args.dead[i]; });
    const std::int64_t least = sum([&](std::int64_t i) { return args.rows[i].least; });
    const std::int64_t most = sum([&](std::int64_t i) { return args.rows[i].most; });
    const std::int64_t k = *c.k > dead ? *c.k : dead;
    if (threadIdx.x != 0) return;
    if (args.exact_counts && (k < least || k > most)) c.state->bad_k = 1;
    *args.cut = {0, 0, 0, 0, detail::within(k, least, most)};
  }
};

BITTERSWEET_DEVICE bool any_beyond(const BlockTeam& team, const BoundsArgs& args) {
  return team.sum<std::int64_t>(args.context.row_count, [&](std::int64_t i) {
    return std::int64_t{within(args.rows[i], args.pruned[i]) != args.pruned[i]};
  }) > 0;
}

// After it: does a tensor lie beyond its bounds?
struct JudgeBounds {
  static constexpr u32 threads = BlockTeam::threads, blocks = 1;
  using Args = BoundsArgs;
  using Shared = UnitsShared;
  static BITTERSWEET_DEVICE void body(const BoundsArgs& args, Shared& shared) {
    const bool beyond = any_beyond(BlockTeam{shared.team}, args);
    if (threadIdx.x == 0) args.cut->active = beyond && !args.context.state->outcome.failed;
  }
};

struct ClearBounds {
  static constexpr u32 threads = 256, blocks = 2;
  using Args = BoundsArgs;
  struct Shared {};
  static BITTERSWEET_DEVICE void body(const BoundsArgs& args, Shared&) {
    if (!args.cut->active) return;
    for (u64 i = first_thread(); i < u64{args.context.row_count} << args.bits; i += all_threads()) args.bins[i] = 0;
  }
};

// One digit of the keys of all scores, by tensor. A block takes consecutive tiles, so that it meets few tensors.
template <class S>
struct BoundDigit {
  static constexpr u32 threads = 256, blocks = 4;
  struct Args {
    BoundsArgs bounds;
    Work work;
    S scorer;
    u32 level;
  };
  using Shared = BinsShared;

  static BITTERSWEET_DEVICE void body(const Args& args, Shared& shared) {
    const BoundsArgs& b = args.bounds;
    if (!b.cut->active || (args.level > 0 && b.cut->nothing) || args.work.tiles == 0) return;
    const KeyDigit digit = key_digit(b.bits, args.level);
    const u32 prefix = b.cut->prefix;
    const u64 first = u64{args.work.tiles} * blockIdx.x / gridDim.x;
    const u64 last = u64{args.work.tiles} * (blockIdx.x + 1) / gridDim.x;
    u32 number = row_of(args.work.count, [&](u32 p) { return args.work.pieces[p].first <= first; });
    for (u64 begin = first; begin < last; ++number) {
      const Piece piece = args.work.pieces[number];
      const u64 next = number + 1 < args.work.count ? args.work.pieces[number + 1].first : args.work.tiles;
      const u64 end = next < last ? next : last;
      clear_bins(shared);
      count(args, args.work.rows[piece.row], digit, prefix, begin - piece.first, end - piece.first, shared,
            &b.rows[piece.row].nan);
      __syncthreads();
      for (u32 bin = threadIdx.x; bin < digit.bins(); bin += blockDim.x)
        if (shared.bin[bin] != 0) atomicAdd(b.bins + (u64{piece.row} << b.bits) + bin, u64{shared.bin[bin]});
      __syncthreads();
      begin = end;
    }
  }

  static BITTERSWEET_DEVICE void count(const Args& args, const Row& row, const KeyDigit& digit, u32 prefix, u64 begin,
                                       u64 end, Shared& shared, std::int64_t* nan) {
    const u32 lane = lane_id();
    u64 nans = 0;
    for (u64 tile = begin + warp_id(); tile < end; tile += blockDim.x >> 5) {
      const u32 live = mask_word(row.live, row.numel, static_cast<std::int64_t>(tile) * tile_words + lane);
#pragma unroll 4
      for (u32 j = 0; j < tile_words; ++j) {
        const u32 word = __shfl_sync(everyone, live, j);
        if ((word >> lane & 1u) == 0) continue;
        const u32 key =
            key_of(score_any(args.scorer, row, static_cast<std::int64_t>(tile) * tile_size + j * 32 + lane));
        nans += key == key_of_nan;
        if (key != key_of_nan && digit.holds(key, prefix)) atomicAdd(&shared.bin[digit.of(key)], 1u);
      }
    }
    if (args.level == 0) add_warp(nan, nans);
  }
};

// A row's bins become how many lie in them and before: a warp a row.
struct SumBounds {
  static constexpr u32 threads = 256, blocks = 2;
  using Args = BoundsArgs;
  struct Shared {};
  static BITTERSWEET_DEVICE void body(const BoundsArgs& args, Shared&) {
    if (!args.cut->active) return;
    for (u64 row = first_warp(); row < args.context.row_count; row += warps()) {
      u64* const bins = args.bins + (row << args.bits);
      u64 before = 0;
      for (u32 begin = 0; begin < 1u << args.bits; begin += 32) {
        u64 upto = bins[begin + lane_id()];
        for (u32 step = 1; step < 32; step *= 2) {
          const u64 other = __shfl_up_sync(everyone, upto, step);
          if (lane_id() >= step) upto += other;
        }
        bins[begin + lane_id()] = before + upto;
        before += __shfl_sync(everyone, upto, 31);
      }
    }
  }
};

// The digit of the cut's key: the first bin at whose end the counts within bounds reach the target.
struct FindBound {
  static constexpr u32 threads = BlockTeam::threads, blocks = 3;  // one is launched; three bound its registers
  struct Args {
    BoundsArgs bounds;
    u32 level;
  };
  using Shared = UnitsShared;

  static BITTERSWEET_DEVICE void body(const Args& args, Shared& shared) {
    const BoundsArgs& b = args.bounds;
    if (!b.cut->active) return;
    const BlockTeam team{shared.team};
    const KeyDigit digit = key_digit(b.bits, args.level);
    const std::int64_t count = b.context.row_count;
    const auto upto = [&](std::int64_t i, std::int64_t bin) {  // of row i, by the end of a bin; -1: before the first
      return bin < 0 ? 0 : static_cast<std::int64_t>(b.bins[(static_cast<u64>(i) << b.bits) + static_cast<u64>(bin)]);
    };
    const auto reached = [&](std::int64_t bin) {
      return team.sum<std::int64_t>(count,
                                    [&](std::int64_t i) { return within(b.rows[i], b.rows[i].under + upto(i, bin)); });
    };
    const std::int64_t last = std::int64_t{digit.bins()} - 1;
    std::int64_t target = b.cut->target;
    if (args.level == 0) {
      if (b.exact_counts && !settle_nan(team, b)) return;
      hold_beyond(team, b, [&](std::int64_t i) { return upto(i, last); });
      const std::int64_t most = reached(last), least = reached(-1);
      target = target < most ? target : most;
      __syncthreads();  // all have read what thread 0 writes
      if (threadIdx.x == 0) {
        b.cut->target = target;
        b.cut->nothing = target <= least;
      }
    }
    __syncthreads();
    std::int64_t before = -1, bin = last;
    while (before + 1 < bin) {
      const std::int64_t middle = before + (bin - before) / 2;
      (reached(middle) < target ? before : bin) = middle;
    }
    if (b.cut->nothing) return;  // nothing lies under the cut
    team.each(count, [&](std::int64_t i) {
      b.rows[i].equal = upto(i, bin) - upto(i, bin - 1);
      b.rows[i].under += upto(i, bin - 1);
    });
    __syncthreads();
    if (threadIdx.x == 0)
      b.cut->prefix = (args.level == 0 ? 0 : b.cut->prefix << (digit.above - digit.shift)) | static_cast<u32>(bin);
  }

  // A budget beyond all bounds: what a tensor could give above its own is nobody's, and the cut is that of the others.
  // They give all their numbers. `numbers`: those of a tensor that are alive.
  template <class Numbers>
  static BITTERSWEET_DEVICE void hold_beyond(const BlockTeam& team, const BoundsArgs& b, const Numbers& numbers) {
    const std::int64_t count = b.context.row_count;
    if (*b.context.k <= team.sum<std::int64_t>(count, [&](std::int64_t i) { return b.rows[i].most; })) return;
    team.each(count, [&](std::int64_t i) {
      BoundRow& row = b.rows[i];
      if (row.under + numbers(i) > row.most) row.under = b.context.rows[i].numel;  // beyond, whatever is added
    });
  }

  // No more than the numbers of a tensor can go. False where, by these bounds, none was beyond.
  static BITTERSWEET_DEVICE bool settle_nan(const BlockTeam& team, const BoundsArgs& b) {
    team.each(b.context.row_count, [&](std::int64_t i) {
      BoundRow& row = b.rows[i];
      const std::int64_t numbers = b.context.rows[i].numel - row.nan;
      row.least = row.least < numbers ? row.least : numbers;
      row.most = row.most < numbers ? row.most : numbers;
    });
    const bool beyond = any_beyond(team, b);
    if (!beyond && threadIdx.x == 0) b.cut->active = 0;
    return beyond;
  }
};

// What each tensor gives: scores under the cut's, and of those that equal it the first by (tensor, index), as far as
// bounds allow. `equal` becomes -1 where the cut would take a tensor beyond a bound, which then decides.
struct ShareBounds {
  static constexpr u32 threads = BlockTeam::threads, blocks = 3;  // one is launched; three bound its registers
  using Args = BoundsArgs;
  using Shared = UnitsShared;

  static BITTERSWEET_DEVICE void body(const BoundsArgs& args, Shared& shared) {
    if (!args.cut->active) return;
    const BlockTeam team{shared.team};
    const std::int64_t count = args.context.row_count;
    if (args.cut->nothing) {
      team.each(count, [&](std::int64_t i) { args.rows[i].equal = 0; });
    }
    const auto least = [&](std::int64_t i) { return within(args.rows[i], args.rows[i].under); };
    const auto ties = [&](u64 at) {
      const auto i = static_cast<std::int64_t>(at);
      return static_cast<u64>(within(args.rows[i], args.rows[i].under + args.rows[i].equal) - least(i));
    };
    const std::int64_t under = team.sum<std::int64_t>(count, least);
    const std::int64_t left = args.cut->target - under;
    __syncthreads();
    const device::Found last =
        find_bin(args.context.row_count, ties, [&](u64) { return static_cast<u64>(left > 0 ? left : 0); }, shared.find);
    team.each(count, [&](std::int64_t i) {
      BoundRow& row = args.rows[i];
      const auto end = static_cast<std::int64_t>(last.bin);
      std::int64_t gives = least(i), reached = row.under;
      if (left > 0 && i < end) {
        reached += row.equal;
        gives = within(row, reached);
      } else if (left > 0 && i == end) {
        gives += left - static_cast<std::int64_t>(last.below);
        reached = gives;
      }
      args.shares[i] = gives;
      if (reached < row.least || reached > row.most) row.equal = -1;
    });
  }
};

// The report of the step over all tensors becomes that of the one with bounds.
struct FinishBounds {
  static constexpr u32 threads = BlockTeam::threads, blocks = 1;
  using Args = BoundsArgs;
  using Shared = UnitsShared;

  static BITTERSWEET_DEVICE void body(const BoundsArgs& args, Shared& shared) {
    const Context& c = args.context;
    const BlockTeam team{shared.team};
    const std::int64_t count = c.row_count;
    StepReport& r = *c.report;
    if (!args.cut->active) return leave_all(team, args);
    const auto sum = [&](const auto& of) { return team.sum<std::int64_t>(count, of); };
    const auto free = [&](std::int64_t i) { return args.rows[i].equal >= 0; };
    const UnitSums found = sum_units(team, c, args.results, false, shared.find);
    const std::int64_t frees = sum([&](std::int64_t i) { return std::int64_t{free(i)}; });
    const std::int64_t below =
        sum([&](std::int64_t i) { return free(i) ? args.rows[i].under - args.dead[i] : std::int64_t{0}; });
    const std::int64_t equal = sum([&](std::int64_t i) { return free(i) ? args.rows[i].equal : std::int64_t{0}; });
    const std::int64_t ties =
        sum([&](std::int64_t i) { return free(i) ? args.shares[i] - args.rows[i].under : std::int64_t{0}; });
    const std::int64_t pruned = sum([&](std::int64_t i) { return args.shares[i]; });
    const bool none = args.cut->nothing || frees == 0;
    const float value = none ? minus_infinity : score_of(args.cut->prefix);
    if (args.threshold != nullptr)
      team.each(count, [&](std::int64_t i) { args.threshold[i] = free(i) ? value : score_of(key_of_nan); });
    if (threadIdx.x != 0) return;
    const std::int64_t elements = c.total > 0 ? c.total : 1;
    r.value = value;
    r.status |= found.status;
    r.passes += static_cast<float>((32 + args.bits - 1) / args.bits) +
                static_cast<float>(found.read / static_cast<double>(elements));
    r.below = none ? 0 : below;
    r.equal = none ? 0 : equal;
    r.ties = none ? 0 : ties;
    r.pruned = pruned;
  }

  // No tensor was beyond its bounds, or the step is void.
  static BITTERSWEET_DEVICE void leave_all(const BlockTeam& team, const BoundsArgs& args) {
    const std::int64_t count = args.context.row_count;
    StepReport& r = *args.context.report;
    const auto sum = [&](auto member) {
      return team.sum<std::int64_t>(count, [&](std::int64_t i) { return args.rows[i].*member; });
    };
    const std::int64_t least = sum(&BoundRow::least), most = sum(&BoundRow::most);
    const bool failed = (r.status & status::failed) != 0;
    const float value = failed ? score_of(key_of_nan) : r.value;
    if ((r.status & status::bad_k) != 0 && args.exact_counts && threadIdx.x == 0) {
      r.below = least;
      r.equal = most;
    }
    if (args.threshold != nullptr) team.each(count, [&](std::int64_t i) { args.threshold[i] = value; });
  }
};

inline BoundsArgs bounds_args(const StepPlan& plan) {
  const UnitsPlan& units = plan.units;
  return {plan.context, units.bounds,  units.cut,       units.bins, units.dead,        units.pruned,
          units.shares, units.results, units.threshold, units.bits, units.exact_counts};
}

template <class L>
void begin_bounds(L& launcher, const StepPlan& plan) {
  const UnitsPlan& units = plan.units;
  upload(launcher, units.bounds, units.ranges.data(), units.ranges.size() * sizeof(BoundRow));
  count_dead(launcher, plan.work.all, plan.context.row_count, units.dead);
  launcher.template launch<CheckBounds>(1, bounds_args(plan));
}

template <class L>
void bound_digit(L& launcher, const Scorer& scorer, const BoundsArgs& args, const Work& work, u32 level) {
  std::visit(
      [&](const auto& s) {
        using K = BoundDigit<std::decay_t<decltype(s)>>;
        launcher.template launch<K>(grid_for<K>((work.tiles + 7) / 8, launcher.processors()), {args, work, s, level});
      },
      scorer);
}

// Whether a tensor is beyond its bounds after the selection over all of them.
template <class L>
void judge_bounds(L& launcher, const StepPlan& plan) {
  count_pruned(launcher, plan.work.all, plan.context.row_count, plan.units.pruned);
  launcher.template launch<JudgeBounds>(1, bounds_args(plan));
}

template <class L>
void enqueue_bounds(L& launcher, const Scorer& scorer, const StepPlan& plan) {
  const Context& c = plan.context;
  const UnitsPlan& units = plan.units;
  const BoundsArgs args = bounds_args(plan);
  judge_bounds(launcher, plan);
  for (u32 level = 0; level < bound_levels(units.bits); ++level) {
    const u64 bins = u64{c.row_count} << units.bits;
    launcher.template launch<ClearBounds>(grid_for<ClearBounds>((bins + 1023) / 1024, launcher.processors()), args);
    bound_digit(launcher, scorer, args, plan.work.all, level);
    launcher.template launch<SumBounds>(grid_for<SumBounds>((c.row_count + 7) / 8, launcher.processors()), args);
    launcher.template launch<FindBound>(1, {args, level});
  }
  launcher.template launch<ShareBounds>(1, args);
  select_units(launcher, scorer, units);
  launcher.template launch<FinishBounds>(1, args);
}

}  // namespace bittersweet::cuda
