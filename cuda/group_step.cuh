// A step in rows or N:M groups: each tensor's rule from the budget, one read that cuts the groups and writes mask
// words, the report, and what every step does with new masks.
#pragma once

#include "group_plan.hpp"
#include "histogram.cuh"
#include "shares.cuh"
#include "step.cuh"

namespace bittersweet::cuda {

// A thread takes a tensor.
struct GroupRules {
  static constexpr u32 threads = 256, blocks = 1;
  struct Args {
    GroupContext context;
    const StepBudget* budget;
    Scope scope;
    Rounding rounding;
    const std::int64_t* shares;  // each tensor's; null: the same of each
  };
  struct Shared {};
  static BITTERSWEET_DEVICE void body(const Args& args, Shared&) {
    const Context& c = args.context.step;
    const StepBudget budget = *args.budget;
    const double most = most_of(args.scope);
    const bool bad = budget.k < 0 || static_cast<double>(budget.k) > most * static_cast<double>(c.total) + 0.5;
    const bool given = budget.sparsity == budget.sparsity;
    const double share = share_asked(given, budget.sparsity, bad ? 0 : budget.k, c.total);
    u64 pruned = 0;
    for (u32 t = threadIdx.x; t < c.row_count; t += threads) {
      const Row& row = c.rows[t];
      const GroupRule rule = rule_of(row.geometry, row.numel, args.scope, args.rounding, args.shares == nullptr, share,
                                     args.shares == nullptr ? 0 : args.shares[t]);
      args.context.rules[t] = rule;
      pruned += static_cast<u64>(pruned_by(row.geometry, rule));
    }
    if (!bad) add_warp(&c.report->k, pruned);
    if (threadIdx.x != 0) return;
    if (bad) c.report->k = budget.k;
    c.state->bad_k = bad;
    c.state->attempt[0].first_nan = device::none;
  }
};

struct ClearNext {
  static constexpr u32 threads = 256, blocks = 4;
  using Args = Work;
  struct Shared {};
  static BITTERSWEET_DEVICE void body(const Work& work, Shared&) {
    for_each_tile(work, [&](const Row& row, u32, u32 tile) {
      store_word(row.next, row.numel, std::int64_t{tile} * tile_words + lane_id(), 0);
    });
  }
};

struct ConcludeGroups {
  static constexpr u32 threads = 32, blocks = 1;
  using Args = Context;
  struct Shared {};
  static BITTERSWEET_DEVICE void body(const Context& c, Shared&) {
    if (threadIdx.x != 0) return;
    const device::State& state = *c.state;
    StepReport& r = *c.report;
    r.status = (state.attempt[0].nan > 0 ? status::nan : 0) | (state.bad_k ? status::bad_k : 0) |
               (void_step(c) ? status::failed : 0);
    r.place = static_cast<u32>(Place::nothing);
    r.value = std::numeric_limits<float>::quiet_NaN();
    r.passes = 1;
    r.total = c.total;
    r.dead = c.total - static_cast<std::int64_t>(state.live);
    r.nan = static_cast<std::int64_t>(state.attempt[0].nan);
    r.first_nan = r.nan > 0 ? static_cast<std::int64_t>(state.attempt[0].first_nan) : 0;
    r.standard_error = no_number;
    r.converged = 1;
  }
};

// The new masks of a void step are the current ones.
struct KeepCurrent {
  static constexpr u32 threads = 256, blocks = 4;
  struct Args {
    Context context;
    Work work;
  };
  struct Shared {};
  static BITTERSWEET_DEVICE void body(const Args& args, Shared&) {
    if (!void_step(args.context)) return;
    for_each_tile(args.work, [&](const Row& row, u32, u32 tile) {
      const std::int64_t word = std::int64_t{tile} * tile_words + lane_id();
      store_word(row.next, row.numel, word, mask_word(row.current, row.numel, word));
    });
  }
};

struct SumPruned {
  static constexpr u32 threads = 256, blocks = 1;
  using Args = Context;
  struct Shared {};
  static BITTERSWEET_DEVICE void body(const Context& c, Shared&) {
    u64 pruned = 0;
    for (u32 t = threadIdx.x; t < c.row_count; t += threads) pruned += static_cast<u64>(c.tensor_pruned[t]);
    add_warp(&c.report->pruned, pruned);
  }
};

template <class K, class L>
void launch_over(L& launcher, const Work& work, const typename K::Args& args) {
  if (work.tiles > 0) launcher.template launch<K>(grid_for<K>((work.tiles + 7) / 8, launcher.processors()), args);
}

template <class L>
void begin_groups(L& launcher, const GroupPlan& plan) {
  upload(launcher, plan.context.groupings, plan.groupings.data(), plan.groupings.size() * sizeof(Grouping));
  begin(launcher, plan.step);
}

// Mask words by the rules, one a tensor, that lie in the context.
template <class L>
void cut_groups(L& launcher, const Scorer& scorer, const GroupPlan& plan) {
  launch_over<ClearNext>(launcher, plan.clear, plan.clear);
  rank_groups(launcher, scorer, plan.context, plan.cut[static_cast<int>(Cutter::eight)],
              plan.cut[static_cast<int>(Cutter::ranks)]);
  cut_rows(launcher, scorer, plan.context, plan.cut[static_cast<int>(Cutter::warps)],
           plan.cut[static_cast<int>(Cutter::blocks)]);
  cut_by_digits(launcher, scorer, plan.context, plan.cut[static_cast<int>(Cutter::digits)]);
}

template <class L>
void enqueue_groups(L& launcher, const Scorer& scorer, const GroupPlan& plan) {
  const Context& c = plan.context.step;
  const Work& all = plan.step.work.all;
  begin_groups(launcher, plan);
  second_moments(launcher, scorer, c);
  if (plan.shares != nullptr) {
    count_dead(launcher, all, c.row_count, plan.dead);
    shares(launcher,
           {c.rows, c.row_count, plan.dead, plan.budget, c.total, most_of(plan.scope), plan.distribution, plan.shares});
  }
  launcher.template launch<GroupRules>(1, {plan.context, plan.budget, plan.scope, plan.rounding, plan.shares});
  cut_groups(launcher, scorer, plan);
  launcher.template launch<ConcludeGroups>(1, c);
  launch_over<KeepCurrent>(launcher, all, {c, all});
  apply_mask(launcher, plan.step.zeros, &c.report->status);
  compare_masks(launcher, c, all);
  launcher.template launch<SumPruned>(1, c);
}

}  // namespace bittersweet::cuda
