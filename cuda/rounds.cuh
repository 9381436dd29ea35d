// Verbs on their own, for a selection that several ranks make together: one read against a bracket that all of them
// agreed about, candidates by key and unit, ties by run. Checks, and what is enqueued.
#pragma once

#include "step.cuh"

namespace bittersweet::cuda {

struct PlaceEnds {
  static constexpr u32 threads = 32, blocks = 1;
  struct Args {
    Context context;
    float low, high;
  };
  struct Shared {};
  static BITTERSWEET_DEVICE void body(const Args& args, Shared&) {
    const Context& c = args.context;
    if (threadIdx.x == 0)
      device::set_ends(c.state->attempt[0], args.low, args.high, c.non_negative && args.low == smallest_positive);
  }
};

struct ReportBracket {
  static constexpr u32 threads = 32, blocks = 1;
  struct Args {
    Context context;
    BracketReport* report;
  };
  struct Shared {};
  static BITTERSWEET_DEVICE void body(const Args& args, Shared&) {
    if (threadIdx.x != 0) return;
    const device::State& state = *args.context.state;
    const device::Attempt& found = state.attempt[0];
    BracketCounts counts;
    counts.below = static_cast<std::int64_t>(found.below);
    counts.equal_low = static_cast<std::int64_t>(found.equal_low);
    counts.inside = static_cast<std::int64_t>(found.inside);
    counts.equal_high = static_cast<std::int64_t>(found.equal_high);
    counts.nan = static_cast<std::int64_t>(found.nan);
    counts.above = static_cast<std::int64_t>(state.live) -
                   (counts.below + counts.equal_low + counts.inside + counts.equal_high + counts.nan);
    args.report->counts = counts;
    args.report->first_nan = found.nan > 0 ? static_cast<std::int64_t>(device::first_nan_of(state)) : 0;
    args.report->overflow = found.inside > args.context.capacity;
  }
};

inline void check_bracket(const Bracket& ends, const BracketReport* report) {
  if (report == nullptr) throw ArgumentError("report: null pointer; it is device memory");
  if (ends.low <= ends.high && key_of(ends.high) - key_of(ends.low) < 0x80000000u) return;
  throw ArgumentError("bracket: from " + std::to_string(ends.low) + " to " + std::to_string(ends.high) +
                      "; ends in order whose keys are less than 2^31 apart are accepted. Split it at zero");
}

template <class L>
void enqueue_bracket(L& launcher, const Scorer& scorer, const StepPlan& plan, const Bracket& ends,
                     BracketReport* report) {
  begin(launcher, plan);
  launcher.template launch<PlaceEnds>(1, {plan.context, ends.low, ends.high});
  bracket(launcher, scorer, plan.context, plan.work, 0);
  if (plan.context.ordered) find_nan(launcher, scorer, plan.context, plan.work.all);
  launcher.template launch<ReportBracket>(1, {plan.context, report});
}

struct TallyPlan {
  Context context{};
  u32* parts = nullptr;      // in the workspace
  std::vector<u32> by_part;  // what goes there
};

inline void check_bins(std::span<std::int64_t> bins, std::int64_t needed) {
  if (bins.data() == nullptr || static_cast<std::int64_t>(bins.size()) < needed)
    throw ArgumentError("bins: " + std::to_string(bins.size()) + "; at least " + std::to_string(needed) +
                        " in device memory are needed");
}

inline TallyPlan make_tally(std::span<const ScoreInputs> tensors, std::span<const std::int64_t> units,
                            const KeyRange& keys, void* workspace, std::size_t workspace_bytes,
                            std::span<std::int64_t> bins) {
  const Layout layout = make_layout(tensors, false);  // masks come behind all that is read here
  check_workspace(layout, workspace, workspace_bytes);
  if (units.size() != tensors.size())
    throw ShapeError("units: " + std::to_string(units.size()) + " for " + std::to_string(tensors.size()) +
                     " tensors; one is needed for each");
  if (keys.parts < 1 || keys.width < 1 || keys.shift < 0 || keys.shift > 31)
    throw ArgumentError("keys: parts and a width from 1 and a shift of 0 to 31 are accepted");
  check_bins(bins, keys.bins());
  TallyPlan plan{make_context(layout, base_of(workspace)), nullptr, {}};
  plan.context.row_count = static_cast<u32>(tensors.size());
  plan.parts = reinterpret_cast<u32*>(base_of(workspace) + layout.parts);
  for (std::size_t t = 0; t < units.size(); ++t) {
    const std::int64_t part = units[t] < 0 ? -1 : units[t] / keys.width;
    if (part >= keys.parts)
      throw ArgumentError("units: " + std::to_string(units[t]) + " for tensor '" + std::string(tensors[t].name) +
                          "'; units below " + std::to_string(keys.parts * keys.width) + " have a bin");
    plan.by_part.push_back(part < 0 ? no_part : static_cast<u32>(part));
  }
  return plan;
}

template <class L>
void enqueue_tally(L& launcher, const TallyPlan& plan, const KeyRange& keys, std::span<std::int64_t> bins) {
  upload(launcher, plan.parts, plan.by_part.data(), plan.by_part.size() * sizeof(u32));
  tally(launcher, plan.context, plan.parts, keys, bins);
}

// The row of count_runs.
inline Row runs_row(std::span<const ScoreInputs> tensors, const Scorer& scorer, std::size_t t, const RunRange& runs,
                    std::span<std::int64_t> bins) {
  const ScoreView view = make_view(tensors, scorer);
  if (t >= tensors.size())
    throw ArgumentError("t: " + std::to_string(t) + " of " + std::to_string(tensors.size()) + " tensors");
  check_addresses(tensors.subspan(t, 1));
  const RunMap& map = runs.map;
  bool sound = map.length >= 1 && map.parts >= 1 && runs.width >= 1 && map.axes <= RunMap::most_axes;
  for (std::size_t a = 0; sound && a < map.axes; ++a) sound = map.size[a] >= 1;
  if (!sound)
    throw ArgumentError("runs: a length, parts, sizes of axes and a width from 1 and at most " +
                        std::to_string(RunMap::most_axes) + " axes are accepted");
  check_bins(bins, runs.bins());
  return make_row(view, t, 0);
}

}  // namespace bittersweet::cuda
