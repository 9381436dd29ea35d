// shares: how much each tensor is to give, computed on the device from a budget that lies there: share_out of
// allocation.hpp by one block. And what it needs to know: dead elements per tensor.
#pragma once

#include "bittersweet/allocation.hpp"
#include "popcount.cuh"

namespace bittersweet::cuda {

// A Team of allocation.hpp: lane l is thread l, and lanes' sums meet in its stated order. Few teams have more items
// than lanes, and formulas are long: several items at once would only take registers.
struct BlockTeam {
  static constexpr u32 threads = static_cast<u32>(team_lanes);
  struct Shared {
    u64 lane[threads];
  };
  Shared& shared;

  template <class F>
  BITTERSWEET_DEVICE void each(std::int64_t count, const F& f) const {
    for (std::int64_t i = threadIdx.x; i < count; i += threads) f(i);
  }
  template <class T, class F>
  BITTERSWEET_DEVICE T sum(std::int64_t count, const F& f) const {
    T mine = 0;
#pragma unroll 1
    for (std::int64_t i = threadIdx.x; i < count; i += threads) mine += f(i);
    __syncthreads();  // the last use of `shared` is over
    shared.lane[threadIdx.x] = std::bit_cast<u64>(mine);
    __syncthreads();
    const auto pair = [&](u32 lane, u32 half) {
      return std::bit_cast<T>(shared.lane[lane]) + std::bit_cast<T>(shared.lane[lane + half]);
    };
    const u32 lane = lane_id();
    T all = (pair(lane, 128) + pair(lane + 64, 128)) + (pair(lane + 32, 128) + pair(lane + 96, 128));
    for (int step = 16; step > 0; step /= 2) all += __shfl_xor_sync(everyone, all, step);
    return all;
  }
};

// Pointers are device memory. `rows`: of the tensors in their order, of which `numel`, `dimensions` are looked at.
struct SharesArgs {
  const Row* rows;
  u32 row_count;
  const std::int64_t* dead;  // elements of each tensor that stay pruned (count_dead); null: none anywhere
  const StepBudget* budget;  // a k outside 0..total is brought within it: the step that follows must say bad_k
  std::int64_t total;        // elements of all tensors
  double most;               // share of a tensor: Asked::most of scope.hpp
  Distribution distribution;
  std::int64_t* shares;  // out: what each tensor gives, dead elements included
};

struct Shares {
  static constexpr u32 threads = BlockTeam::threads, blocks = 3;  // one is launched; three bound its registers
  using Args = SharesArgs;
  using Shared = BlockTeam::Shared;

  static BITTERSWEET_DEVICE void body(const Args& args, Shared& shared) {
    const StepBudget budget = *args.budget;
    Quota quota;
    quota.distribution = args.distribution;
    quota.k = detail::within(budget.k, std::int64_t{0}, args.total);
    quota.total = args.total;
    quota.most = args.most;
    const double share = args.total > 0 ? static_cast<double>(quota.k) / static_cast<double>(args.total) : 0.0;
    quota.sparsity = budget.sparsity == budget.sparsity ? budget.sparsity : share;
    const auto size_of = [&](std::int64_t i) {
      return TensorSize{args.rows[i].numel, args.rows[i].dimensions, args.dead != nullptr ? args.dead[i] : 0};
    };
    share_out(BlockTeam{shared}, args.row_count, size_of, quota, args.shares);
  }
};

template <class L>
void shares(L& launcher, const SharesArgs& args) {
  launcher.template launch<Shares>(1, args);
}

// The zeros of each tensor's mask: of those that compete, or of the new ones.
template <bool New>
struct CountDead {
  static constexpr u32 threads = 256, blocks = 4;
  struct Args {
    Work work;
    std::int64_t* dead;
    const u32* gate;  // as Context::gate
  };
  struct Shared {};
  static BITTERSWEET_DEVICE void body(const Args& args, Shared&) {
    if (args.gate != nullptr && *args.gate == 0) return;
    for_each_tile(args.work, [&](const Row& row, u32 number, u32 tile) {
      const std::uint64_t* const mask = New ? row.next : row.live;
      if (mask == nullptr) return;
      const std::int64_t word = std::int64_t{tile} * tile_words + lane_id();
      add_warp(args.dead + number, __popc(valid_bits(row.numel, word) & ~mask_word(mask, row.numel, word)));
    });
  }
};

template <bool New, class L>
void count_zeros(L& launcher, const Work& work, u32 row_count, std::int64_t* count, const u32* gate = nullptr) {
  using K = CountDead<New>;
  zero(launcher, count, row_count * sizeof(std::int64_t));
  launcher.template launch<K>(grid_for<K>((work.tiles + 7) / 8, launcher.processors()), {work, count, gate});
}

// dead[t]: elements of tensor t that do not compete. `work` holds every tile.
template <class L>
void count_dead(L& launcher, const Work& work, u32 row_count, std::int64_t* dead) {
  count_zeros<false>(launcher, work, row_count, dead);
}

// pruned[t]: zeros of tensor t's new mask.
template <class L>
void count_pruned(L& launcher, const Work& work, u32 row_count, std::int64_t* pruned, const u32* gate = nullptr) {
  count_zeros<true>(launcher, work, row_count, pruned, gate);
}

}  // namespace bittersweet::cuda
