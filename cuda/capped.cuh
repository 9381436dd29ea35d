// max_tensor_sparsity where the rule of ties, or an approximate selector, prunes other counts than are asked for: no
// one cut says then which tensors a cap holds, so the CPU's rounds (flow::prune_globally) are made, without asking the
// host. Tensors that a selection takes beyond their caps leave with as many as those allow, and the next selection
// shares out what is left of the budget among the others. Each round lets one tensor leave at least: as many are
// enqueued as there are tensors that a cap can hold, and those behind the last that is needed are idle. At the end it
// is known what each tensor gives, and selections side by side write the masks.
#pragma once

#include "answers.cuh"
#include "bounds.cuh"

namespace bittersweet::cuda {

// The sum of lower threads' numbers, and that of all, for a whole block.
BITTERSWEET_DEVICE std::int64_t sum_before(std::int64_t mine, std::int64_t& all, FindShared& shared) {
  std::int64_t upto = mine;
  for (u32 step = 1; step < 32; step *= 2) {
    const std::int64_t other = __shfl_up_sync(everyone, upto, step);
    if (lane_id() >= step) upto += other;
  }
  __syncthreads();  // the last use of `shared` is over
  if (lane_id() == 31) shared.warp[warp_id()] = static_cast<u64>(upto);
  __syncthreads();
  std::int64_t before = 0;
  all = 0;
  for (u32 w = 0; w < blockDim.x >> 5; ++w) {
    const auto sum = static_cast<std::int64_t>(shared.warp[w]);
    if (w < warp_id()) before += sum;
    all += sum;
  }
  return before + upto - mine;
}

// Behind a selection: lets tensors leave, and makes the next one's table, count and state. The first is that over all.
struct NextRound {
  static constexpr u32 threads = BlockTeam::threads, blocks = 3;  // one is launched; three bound its registers
  struct Args {
    BoundsArgs bounds;
    Round* round;
    Row* rows;
    u32* first_line;
    double fraction;  // of sampling; 0: another selector
    bool by_line;
    bool first;
  };
  using Shared = UnitsShared;

  static BITTERSWEET_DEVICE void body(const Args& args, Shared& shared) {
    const BoundsArgs& b = args.bounds;
    const Context& c = b.context;
    const BlockTeam team{shared.team};
    const std::int64_t count = c.row_count;
    Round& round = *args.round;
    const bool open = args.first ? b.cut->active != 0 : round.open != 0;
    const std::int64_t budget = args.first ? *c.k : open ? round.budget : 0;
    const auto sum = [&](const auto& of) { return team.sum<std::int64_t>(count, of); };
    const auto stays = [&](std::int64_t i) { return b.rows[i].equal >= 0; };
    const auto leaves = [&](std::int64_t i) { return stays(i) && b.pruned[i] > b.rows[i].most; };
    const std::int64_t leaving = open ? sum([&](std::int64_t i) { return std::int64_t{leaves(i)}; }) : 0;
    const std::int64_t given = open ? sum([&](std::int64_t i) { return leaves(i) ? b.rows[i].most : 0; }) : 0;
    __syncthreads();  // all have read what is written from here on
    if (open && !args.first && threadIdx.x == 0) take(*c.report, round, c.total);
    if (leaving == 0) {
      if (open) team.each(count, [&](std::int64_t i) { b.shares[i] = stays(i) ? b.pruned[i] : b.shares[i]; });
      if (threadIdx.x == 0) {
        round.open = 0;
        round.k = -1;  // the kernels of a search have no rank then
      }
      return;
    }
    team.each(count, [&](std::int64_t i) {
      if (!leaves(i)) return;
      b.shares[i] = b.rows[i].most;
      b.rows[i].equal = -1;
    });
    const SampleSizes sizes = make_table(args, shared.find);
    const std::int64_t live =
        sum([&](std::int64_t i) { return stays(i) ? c.rows[i].numel - b.dead[i] : std::int64_t{0}; });
    clear_state(*c.state, static_cast<u64>(live));
    __syncthreads();
    if (threadIdx.x != 0) return;
    round.open = 1;
    round.budget = budget - given;
    round.k = detail::within(round.budget - (sizes.total - live), std::int64_t{0}, live) + c.total - live;
    round.sizes = sizes;
  }

  // The last selection's answer is the step's.
  static BITTERSWEET_DEVICE void take(StepReport& r, const Round& round, std::int64_t total) {
    const StepReport& found = round.report;
    r.value = found.value;
    r.below = found.below;
    r.equal = found.equal;
    r.passes += static_cast<float>(static_cast<double>(found.passes) * static_cast<double>(round.sizes.total) /
                                   static_cast<double>(total > 0 ? total : 1));
    if (found.standard_error == found.standard_error) r.standard_error = found.standard_error;
  }

  // Rows without elements in the place of those that left; positions and lines are numbered anew.
  static BITTERSWEET_DEVICE SampleSizes make_table(const Args& args, FindShared& shared) {
    const BoundsArgs& b = args.bounds;
    const std::int64_t count = b.context.row_count;
    SampleSizes sizes{};
    for (std::int64_t first = 0; first < count; first += threads) {
      const std::int64_t i = first + threadIdx.x;
      const std::int64_t numel = i < count && b.rows[i].equal >= 0 ? b.context.rows[i].numel : 0;
      std::int64_t elements = 0, lines = 0;
      const std::int64_t offset = sizes.total + sum_before(numel, elements, shared);
      const std::int64_t line =
          sizes.all_lines + sum_before((numel + LineSample::width - 1) / LineSample::width, lines, shared);
      sizes.total += elements;
      sizes.all_lines += lines;
      if (i >= count) continue;
      args.rows[i] = b.context.rows[i];
      args.rows[i].numel = numel;
      args.rows[i].offset = offset;
      if (args.by_line) args.first_line[i] = static_cast<u32>(line);
    }
    if (args.fraction <= 0 || sizes.total <= Sampling::smallest) return sizes;
    sizes.samples = sample_size({.fraction = args.fraction}, sizes.total);
    if (!args.by_line) return sizes;
    sizes.lines = bittersweet::sample_lines(sizes.samples, sizes.total, sizes.all_lines);
    sizes.samples = sizes.lines * LineSample::width;
    return sizes;
  }

  static BITTERSWEET_DEVICE void clear_state(device::State& state, u64 live) {
    auto* const words = reinterpret_cast<u64*>(&state);
    for (u32 i = threadIdx.x; i < sizeof(device::State) / 8; i += threads) words[i] = i == 0 ? live : 0;
  }
};

// The report, where a cap moved something.
struct FinishRounds {
  static constexpr u32 threads = BlockTeam::threads, blocks = 3;  // one is launched; three bound its registers
  using Args = BoundsArgs;
  using Shared = UnitsShared;

  static BITTERSWEET_DEVICE void body(const BoundsArgs& args, Shared& shared) {
    const Context& c = args.context;
    const BlockTeam team{shared.team};
    if (!args.cut->active) return FinishBounds::leave_all(team, args);
    const std::int64_t count = c.row_count;
    StepReport& r = *c.report;
    const auto sum = [&](const auto& of) { return team.sum<std::int64_t>(count, of); };
    const auto stays = [&](std::int64_t i) { return args.rows[i].equal >= 0; };
    const UnitSums found = sum_units(team, c, args.results, false, shared.find);
    const std::int64_t pruned = sum([&](std::int64_t i) { return args.shares[i]; });
    const std::int64_t given =
        sum([&](std::int64_t i) { return stays(i) ? args.shares[i] - args.dead[i] : std::int64_t{0}; });
    if (args.threshold != nullptr)
      team.each(count, [&](std::int64_t i) { args.threshold[i] = stays(i) ? r.value : score_of(key_of_nan); });
    if (threadIdx.x != 0) return;
    r.status |= found.status;
    r.passes += static_cast<float>(found.read / static_cast<double>(c.total > 0 ? c.total : 1));
    r.ties = r.below < 0 ? -1 : given - r.below;
    r.pruned = pruned;
  }
};

template <class L>
void enqueue_rounds(L& launcher, const Scorer& scorer, const StepPlan& plan, const RoundsPlan& rounds) {
  const u32* const gate = &rounds.round->open;
  const u32 count = plan.context.row_count;
  NextRound::Args next{bounds_args(plan), rounds.round,          rounds.rows, rounds.search.first_line,
                       rounds.fraction,   rounds.search.by_line, true};
  judge_bounds(launcher, plan);
  launcher.template launch<NextRound>(1, next);
  next.first = false;
  for (u32 t = 0; t < count; ++t) {
    if (plan.units.ranges[t].most == plan.rows[t].numel) continue;  // it never leaves
    answer(launcher, scorer, rounds.search, rounds.answers, rounds.work, rounds.blocks);
    count_pruned(launcher, rounds.work.all, count, plan.units.pruned, gate);
    launcher.template launch<NextRound>(1, next);
  }
  select_units(launcher, scorer, plan.units);
  launcher.template launch<FinishRounds>(1, next.bounds);
}

}  // namespace bittersweet::cuda
