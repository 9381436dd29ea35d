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

// What the units of all batches found together.
struct UnitSums {
  std::int64_t reads = 0, read = 0;  // of tensors, and of their elements
  std::int64_t nan = 0, first_nan = 0;
  u32 status = 0;
};

BITTERSWEET_DEVICE UnitSums sum_units(const BlockTeam& team, const Context& c, FindShared& find) {
  const std::int64_t count = c.row_count;
  const auto sum = [&](const auto& of) {
    return team.sum<std::int64_t>(count, [&](std::int64_t i) { return static_cast<std::int64_t>(of(i)); });
  };
  UnitSums all;
  all.reads = sum([&](std::int64_t i) { return c.results[i].reads; });
  all.read = sum([&](std::int64_t i) { return c.results[i].reads * c.rows[i].numel; });
  all.nan = sum([&](std::int64_t i) { return c.results[i].nan; });
  for (const u32 bit : {status::nan, status::overflow, status::missed})
    if (sum([&](std::int64_t i) { return (c.results[i].status & bit) != 0; }) > 0) all.status |= bit;
  if (all.nan > 0) {  // rows are in the order of positions
    const device::Found row =
        find_bin(c.row_count, [&](u64 i) { return c.results[i].nan; }, [](u64) { return u64{1}; }, find);
    all.first_nan = static_cast<std::int64_t>(c.results[row.bin].first_nan);
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
    const std::int64_t *dead, *shares;
    float* threshold;
  };
  using Shared = UnitsShared;

  static BITTERSWEET_DEVICE void body(const Args& args, Shared& shared) {
    const Context& c = args.context;
    const BlockTeam team{shared.team};
    const std::int64_t count = c.row_count;
    const auto sum = [&](const auto& of) {
      return team.sum<std::int64_t>(count, [&](std::int64_t i) { return static_cast<std::int64_t>(of(i)); });
    };
    const UnitSums found = sum_units(team, c, shared.find);
    const bool bad_k = device::rank_of(args.budget->k, c.total, 0).bad_k;
    const bool failed = bad_k || (c.nonfinite == NonFinite::error && found.nan > 0);
    const std::int64_t dead = sum([&](std::int64_t i) { return args.dead[i]; });
    const std::int64_t k = sum([&](std::int64_t i) { return args.shares[i]; });
    const std::int64_t below = sum([&](std::int64_t i) { return c.results[i].below; });
    const std::int64_t equal = sum([&](std::int64_t i) { return c.results[i].equal; });
    const std::int64_t ties = sum([&](std::int64_t i) { return c.results[i].ties; });
    if (args.threshold != nullptr)
      team.each(count, [&](std::int64_t i) { args.threshold[i] = failed ? no_threshold() : c.results[i].value; });
    if (threadIdx.x != 0) return;
    StepReport& r = *c.report;
    r.status = found.status | (bad_k ? status::bad_k : 0) | (failed ? status::failed : 0);
    r.place = failed || count == 0 ? 0 : c.results[count - 1].place;  // as the CPU's path: that of the last
    r.value = no_threshold();
    r.passes = count > 0 ? static_cast<float>(static_cast<double>(found.reads) / static_cast<double>(count)) : 0.0f;
    r.k = bad_k ? args.budget->k : k;
    r.total = c.total;
    r.dead = dead;
    r.below = failed ? 0 : below;
    r.equal = failed ? 0 : equal;
    r.ties = failed ? 0 : ties;
    r.nan = found.nan;
    r.first_nan = found.first_nan;
    r.pruned = r.dead + r.below + r.ties;
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

template <class L>
void enqueue_units(L& launcher, const Scorer& scorer, const StepPlan& plan) {
  const Context& c = plan.context;
  const UnitsPlan& units = plan.units;
  count_dead(launcher, plan.work.all, c.row_count, units.dead);
  shares(launcher, {c.rows, c.row_count, units.dead, units.budget, c.total, 1.0, units.distribution, units.shares});
  select_units(launcher, scorer, units);
  launcher.template launch<FinishUnits>(1, {c, units.budget, units.dead, units.shares, units.threshold});
  launcher.template launch<Revert>(grid_for<Revert>((plan.work.all.tiles + 7) / 8, launcher.processors()),
                                   {plan.work.all, c.report});
}

}  // namespace bittersweet::cuda
