// A selection for each tensor, made side by side: the verbs of one selection, launched for a batch of units at a time,
// between what each batch begins with and what the step makes of their results.
#pragma once

#include "plan.hpp"
#include "shares.cuh"

namespace bittersweet::cuda {

// The tables travel as kernel arguments, 32 KB at a time: a copy from the host would read its memory again whenever a
// captured graph is replayed.
struct Upload {
  static constexpr u32 threads = 256, blocks = 1;
  static constexpr u32 most_words = 8000;
  struct Args {
    u32* to;
    u32 count;
    u32 words[most_words];
  };
  struct Shared {};
  static BITTERSWEET_DEVICE void body(const Args& args, Shared&) {
    for (u64 i = first_thread(); i < args.count; i += all_threads()) args.to[i] = args.words[i];
  }
};

template <class L>
void upload(L& launcher, const void* to, const void* from, std::size_t bytes) {
  for (std::size_t done = 0; done < bytes; done += Upload::most_words * 4) {
    Upload::Args args{};
    const std::size_t now = std::min<std::size_t>(bytes - done, Upload::most_words * 4);
    args.to = reinterpret_cast<u32*>(static_cast<std::byte*>(const_cast<void*>(to)) + done);
    args.count = static_cast<u32>(now / 4);
    std::memcpy(args.words, static_cast<const std::byte*>(from) + done, now);
    launcher.template launch<Upload>(1, args);
  }
}

// From scores to masks, once: of all tensors, or of each of a batch.
template <class L>
void select_once(L& launcher, const Scorer& scorer, const Context& c, const Plan& work) {
  sample(launcher, scorer, c);
  guess(launcher, c);
  bracket(launcher, scorer, c, work, 0);
  for (u32 level = 0; level < range_levels; ++level) histogram(launcher, scorer, c, work.all, level);
  plan_retry(launcher, c);
  bracket(launcher, scorer, c, work, 1);
  if (c.ordered) {
    find_nan(launcher, scorer, c, work.all);
    if (c.masks) place_candidates(launcher, c);
  }
  select_candidates(launcher, c);
  if (c.masks) write_mask(launcher, scorer, c, work.all);
}

// The states of a batch's units start from 0, and from how many of their elements compete.
struct BeginUnits {
  static constexpr u32 threads = 256, blocks = 2;
  struct Args {
    Context context;
    const std::int64_t* dead;
  };
  struct Shared {};
  static BITTERSWEET_DEVICE void body(const Args& args, Shared&) {
    Context c = args.context;
    if (idle(c)) return;
    const Part part = enter(c);
    auto* const state = reinterpret_cast<u64*>(c.state);
    const u64 live = static_cast<u64>(c.total - args.dead[c.units->row]);
    for (u64 i = part.first_thread(); i < sizeof(device::State) / 8; i += part.threads()) state[i] = i == 0 ? live : 0;
  }
};

// What the selections of all tensors found together. Of positions, `first_nan` is within all of them.
struct UnitSums {
  double passes = 0, read = 0;  // reads of tensors, and of their elements
  std::int64_t nan = 0, first_nan = 0;
  u32 status = 0;
};

// `alone`: each tensor's selection counted its positions from 0.
BITTERSWEET_DEVICE UnitSums sum_units(const BlockTeam& team, const Context& c, const StepReport* results, bool alone,
                                      FindShared& find) {
  const std::int64_t count = c.row_count;
  const auto reads = [&](std::int64_t i) { return static_cast<double>(results[i].passes); };
  UnitSums all;
  all.passes = team.sum<double>(count, reads);
  all.read = team.sum<double>(count, [&](std::int64_t i) { return reads(i) * static_cast<double>(c.rows[i].numel); });
  all.nan = team.sum<std::int64_t>(count, [&](std::int64_t i) { return results[i].nan; });
  const auto join = [&](u32 bit) {
    const auto has = [&](std::int64_t i) { return std::int64_t{(results[i].status & bit) != 0}; };
    if (team.sum<std::int64_t>(count, has) > 0) all.status |= bit;
  };
  join(status::nan);
  join(status::overflow);
  join(status::missed);
  if (all.nan > 0) {  // rows are in the order of positions
    const device::Found row = find_bin(
        c.row_count, [&](u64 i) { return static_cast<u64>(results[i].nan); }, [](u64) { return u64{1}; }, find);
    all.first_nan = results[row.bin].first_nan + (alone ? c.rows[row.bin].offset : 0);
  }
  return all;
}

struct UnitsShared {
  BlockTeam::Shared team;
  FindShared find;
};

// The report of scope tensor.
struct FinishUnits {
  static constexpr u32 threads = BlockTeam::threads, blocks = 1;
  struct Args {
    Context context;
    const StepBudget* budget;
    const StepReport* results;
    const std::int64_t *dead, *shares;
    float* threshold;
    bool alone;
  };
  using Shared = UnitsShared;

  static BITTERSWEET_DEVICE void body(const Args& args, Shared& shared) {
    const Context& c = args.context;
    const BlockTeam team{shared.team};
    const std::int64_t count = c.row_count;
    const StepReport* const results = args.results;
    const auto sum = [&](const auto& of) {
      return team.sum<std::int64_t>(count, [&](std::int64_t i) { return static_cast<std::int64_t>(of(i)); });
    };
    const UnitSums found = sum_units(team, c, results, args.alone, shared.find);
    const bool bad_k = device::rank_of(args.budget->k, c.total, 0).bad_k;
    const bool failed = bad_k || (c.nonfinite == NonFinite::error && found.nan > 0);
    const std::int64_t dead = sum([&](std::int64_t i) { return args.dead[i]; });
    const std::int64_t k = sum([&](std::int64_t i) { return args.shares[i]; });
    const std::int64_t below = sum([&](std::int64_t i) { return results[i].below; });
    const std::int64_t equal = sum([&](std::int64_t i) { return results[i].equal; });
    const std::int64_t ties = sum([&](std::int64_t i) { return results[i].ties; });
    const std::int64_t pruned = sum([&](std::int64_t i) { return results[i].pruned; });
    const bool counted = sum([&](std::int64_t i) { return results[i].below < 0; }) == 0;
    const bool sampled =
        sum([&](std::int64_t i) { return results[i].standard_error == results[i].standard_error; }) > 0;
    if (args.threshold != nullptr)
      team.each(count, [&](std::int64_t i) { args.threshold[i] = failed ? no_threshold() : results[i].value; });
    if (threadIdx.x != 0) return;
    StepReport& r = *c.report;
    r.status = found.status | (bad_k ? status::bad_k : 0) | (failed ? status::failed : 0);
    r.place = failed || count == 0 ? 0 : results[count - 1].place;  // as the CPU's path: that of the last
    r.value = no_threshold();
    r.passes = count > 0 ? static_cast<float>(found.passes / static_cast<double>(count)) : 0.0f;
    r.k = bad_k ? args.budget->k : k;
    r.total = c.total;
    r.dead = dead;
    r.below = failed ? 0 : counted ? below : -1;
    r.equal = failed ? 0 : counted ? equal : -1;
    r.ties = failed ? 0 : counted ? ties : -1;
    r.nan = found.nan;
    r.first_nan = found.first_nan;
    r.pruned = failed ? dead : pruned;
    if (failed || !sampled) return;
    std::int64_t last = count - 1;  // as the CPU's: of the last that was sampled
    while (results[last].standard_error != results[last].standard_error) --last;
    r.standard_error = results[last].standard_error;
  }

  static BITTERSWEET_DEVICE float no_threshold() { return score_of(key_of_nan); }
};

// The masks of a void step become copies of the current ones.
struct Revert {
  static constexpr u32 threads = 256, blocks = 4;
  struct Args {
    Work work;
    const StepReport* report;
  };
  struct Shared {};
  static BITTERSWEET_DEVICE void body(const Args& args, Shared&) {
    if ((args.report->status & status::failed) == 0) return;
    for_each_tile(args.work, [&](const Row& row, u32, u32 tile) {
      const std::int64_t word = std::int64_t{tile} * tile_words + lane_id();
      store_word(row.next, row.numel, word, mask_word(row.current, row.numel, word));
    });
  }
};

// The selections of all units, for the counts in UnitsPlan::shares.
template <class L>
void select_units(L& launcher, const Scorer& scorer, const UnitsPlan& plan) {
  for (UnitsLaunch set : plan.launches) {
    Context& c = set.context;
    const std::vector<u32> blocks = share_blocks(set.units, launcher.processors());
    c.unit_blocks = static_cast<u32>(blocks.size());
    std::vector<std::byte> table(set.units.size() * sizeof(Unit) + blocks.size() * sizeof(u32));
    std::memcpy(table.data(), set.units.data(), set.units.size() * sizeof(Unit));
    std::memcpy(table.data() + set.units.size() * sizeof(Unit), blocks.data(), blocks.size() * sizeof(u32));
    upload(launcher, plan.table, table.data(), table.size());
    launch_units<BeginUnits>(launcher, c, 1, {c, plan.dead});
    select_once(launcher, scorer, c, set.work);
  }
}

// What each tensor gives to the budget.
template <class L>
void share_budget(L& launcher, const StepPlan& plan) {
  const Context& c = plan.context;
  const UnitsPlan& units = plan.units;
  count_dead(launcher, plan.work.all, c.row_count, units.dead);
  shares(launcher, {c.rows, c.row_count, units.dead, units.budget, c.total, 1.0, units.distribution, units.shares});
}

// The report of what all tensors' selections found; masks of a void step are those before it.
template <class L>
void finish_units(L& launcher, const StepPlan& plan) {
  const UnitsPlan& units = plan.units;
  launcher.template launch<FinishUnits>(1, {plan.context, units.budget, units.results, units.dead, units.shares,
                                            units.threshold, units.launches.empty()});
  launcher.template launch<Revert>(grid_for<Revert>((plan.work.all.tiles + 7) / 8, launcher.processors()),
                                   {plan.work.all, plan.context.report});
}

template <class L>
void enqueue_units(L& launcher, const Scorer& scorer, const StepPlan& plan) {
  share_budget(launcher, plan);
  select_units(launcher, scorer, plan.units);
  finish_units(launcher, plan);
}

}  // namespace bittersweet::cuda
