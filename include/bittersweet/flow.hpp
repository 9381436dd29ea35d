// The flow, once, for every engine: score view -> selector -> threshold -> mask bits. prune.cpp runs it on the fast
// engines; with headers alone, `flow::make_masks(ReferenceEngine{}, ...)` is the same thing on plain loops.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>

#include "bittersweet/engine/host_memory.hpp"
#include "bittersweet/mask/commit.hpp"
#include "bittersweet/mask/mask_view.hpp"
#include "bittersweet/prune.hpp"

namespace bittersweet::flow {

// The tensors as they compete: with regrow the dead ones score again.
inline std::vector<ScoreInputs> competitors(std::span<const ScoreInputs> tensors, bool regrow) {
  std::vector<ScoreInputs> copy(tensors.begin(), tensors.end());
  if (regrow)
    for (ScoreInputs& tensor : copy) tensor.mask = nullptr;
  return copy;
}

inline Ties ties_of(const PruneOptions& options) {
  const bool approximate = is_approximate(options.selector);
  const Ties ties = options.ties.value_or(approximate ? Ties::at_or_below : Ties::exact);
  if (ties == Ties::exact && approximate)
    throw ArgumentError("ties: 'exact' with the approximate selector '" + std::string(name_of(options.selector)) +
                        "', which cannot promise a count; use 'at_or_below' or 'below', or an exact selector");
  return ties;
}

inline void check(const PruneOptions& options) {
  if (options.scope.kind == Scope::global && options.distribution)
    throw ArgumentError(
        "distribution: given with scope 'global', where the threshold alone decides; drop it, or use "
        "scope 'tensor', 'row' or 'N:M'");
  if (options.scope.in_groups() && options.ties.value_or(Ties::exact) != Ties::exact)
    throw ArgumentError("ties: scopes 'row' and 'N:M' prune exact counts; drop ties");
  if (options.max_tensor_sparsity) {
    if (options.scope.kind != Scope::global)
      throw ArgumentError("max_tensor_sparsity: it guards scope 'global'; drop it with another scope");
    if (!(*options.max_tensor_sparsity >= 0.0 && *options.max_tensor_sparsity <= 1.0))
      throw ArgumentError("max_tensor_sparsity: " + std::to_string(*options.max_tensor_sparsity) +
                          "; a fraction from 0 to 1 is accepted");
  }
  if (!options.tensor_sparsity.empty()) {
    if (options.scope.kind != Scope::global)
      throw ArgumentError(
          "tensor_sparsity: ranges are for scope 'global', where one threshold decides for all; drop "
          "them with another scope");
    if (options.max_tensor_sparsity)
      throw ArgumentError("max_tensor_sparsity: given beside tensor_sparsity; give one of them");
    if (ties_of(options) != Ties::exact)
      throw ArgumentError("tensor_sparsity: it promises counts, and these ties or selector '" +
                          std::string(name_of(options.selector)) +
                          "' do not; use an exact selector, with ties 'exact' or without");
  }
  if (const auto* sampling = std::get_if<Sampling>(&options.selector);
      sampling && !(sampling->fraction > 0.0 && sampling->fraction <= 1.0))
    throw ArgumentError("fraction: " + std::to_string(sampling->fraction) +
                        " in selector 'sampling'; accepted are "
                        "fractions above 0, up to 1");
  if (const auto* streaming = std::get_if<Streaming>(&options.selector);
      streaming && !(streaming->tolerance >= 0.0 && streaming->tolerance < 1.0))
    throw ArgumentError("tolerance: " + std::to_string(streaming->tolerance) +
                        " in selector 'streaming'; accepted "
                        "are fractions from 0 to below 1");
}

// What can be said of options and tensors without a budget. Throws the errors of make_masks.
inline void check(std::span<const ScoreInputs> tensors, const PruneOptions& options) {
  check(options);
  ties_of(options);
  std::vector<std::int64_t> numels;
  for (const ScoreInputs& tensor : tensors) {
    require_groups(tensor, options.scope, options.remainder);
    numels.push_back(tensor.numel);
  }
  if (!options.tensor_sparsity.empty()) check_ranges(options.tensor_sparsity, numels);
}

// Logical index of the first NaN score of a tensor from `begin` on, of those that the scope ranks; -1: there is none.
inline std::int64_t next_nonfinite(const ScoreView& view, std::size_t t, const Scope& scope, std::int64_t begin = 0) {
  return bittersweet::next_nonfinite(view, t, ranked_inputs(view.tensors[t].geometry, scope), begin);
}

// Raises for the NaN scores of all tensors, naming the first.
[[noreturn]] inline void raise_nonfinite(const ScoreView& view, std::int64_t count, const Scope& scope = {}) {
  for (std::size_t t = 0; t < view.tensors.size(); ++t)
    if (const std::int64_t first = next_nonfinite(view, t, scope); first >= 0)
      throw NonFiniteScoreError(std::string(view.tensors[t].name), count, first);
  throw Error("scores changed while they were read: a NaN was counted and is gone");
}

inline void raise_if_nonfinite(const ScoreView& view, std::int64_t nan, NonFinite policy) {
  if (nan > 0 && policy == NonFinite::error) raise_nonfinite(view, nan);
}

// The same by tensor, where each is ranked on its own: one that gives nothing has not been looked at.
inline void raise_if_nonfinite(const ScoreView& view, std::span<const std::int64_t> nan, const PruneOptions& options) {
  const auto first = std::find_if(nan.begin(), nan.end(), [](std::int64_t count) { return count > 0; });
  if (first == nan.end() || options.nonfinite == NonFinite::keep) return;
  raise_nonfinite(only(view, static_cast<std::size_t>(first - nan.begin())),
                  std::accumulate(nan.begin(), nan.end(), std::int64_t{0}), options.scope);
}

// One selection over one view; `masks` may be empty. What `later` gets, where it is given, is left to be settled.
template <Engine E>
Selection select(E& engine, const ScoreView& view, std::int64_t rank, std::int64_t live, const PruneOptions& options,
                 MaskTable masks, Workspace& workspace, Unsettled* later = nullptr) {
  const Ties ties = ties_of(options);
  const std::vector<Chunk> chunks = make_chunks(view.tensors);
  const SelectContext context{options.seed, options.nonfinite, live, options.between_passes};
  if (rank <= 0) {
    if (!masks.empty()) keep_all(engine, view.tensors, chunks, masks);
    return {};
  }
  Selection selection;
  if (const auto* exact = std::get_if<Exact>(&options.selector); exact && !masks.empty()) {
    ExactRun run = run_exact(*exact, engine, view, chunks, rank, context, workspace, masks);
    raise_if_nonfinite(view, run.selection.nan, options.nonfinite);
    run.selection.passes += run.masks_hold ? complete_masks(engine, view, chunks, run, ties, masks, later)
                                           : write_masks(engine, view, chunks, run.selection, ties, workspace, masks);
    return run.selection;
  }
  selection = std::visit([&](const auto& s) { return select_kth(s, engine, view, chunks, rank, context, workspace); },
                         options.selector);
  if (!masks.empty())  // sees the NaN that a sample did not
    selection.passes += write_masks(engine, view, chunks, selection, ties, workspace, masks);
  raise_if_nonfinite(view, selection.nan, options.nonfinite);
  return selection;
}

inline void add(PruneReport& report, const Selection& selection) {
  report.passes += selection.passes;
  report.extra_bytes = std::max(report.extra_bytes, selection.extra_bytes);
  report.nonfinite += selection.nan;
  report.converged &= selection.converged;
  report.count_below = selection.below < 0 || report.count_below < 0 ? -1 : report.count_below + selection.below;
  report.count_equal = selection.equal < 0 || report.count_equal < 0 ? -1 : report.count_equal + selection.equal;
  if (selection.standard_error) report.standard_error = selection.standard_error;
  report.path = name_of(selection.place);
  if (selection.overflow) report.path += ", candidates overflowed";
}

inline float eps_of(const Scorer& scorer) {
  return std::visit(
      [](const auto& s) {
        if constexpr (requires { s.eps; })
          return s.eps;
        else
          return 0.0f;
      },
      scorer);
}

// The scorer's exp_avg_sq as scores of their own.
inline std::vector<ScoreInputs> second_moments_of(std::span<const ScoreInputs> tensors) {
  std::vector<ScoreInputs> states(tensors.begin(), tensors.end());
  for (ScoreInputs& state : states) {
    state.scores = state.exp_avg_sq;
    state.modifier = 1.0f;
  }
  return states;
}

// So many lines of exp_avg_sq tell its shares; where there are no more elements than that, all of them do.
inline constexpr std::int64_t second_moment_lines = 2048;

// Shares of exp_avg_sq below eps and at zero, when the scorer reads it: exact up to 2^16 elements, else from as many.
template <Engine E>
void report_second_moment(E& engine, const ScoreView& view, PruneReport& report, Workspace& workspace) {
  constexpr std::int64_t lines = second_moment_lines;
  if (!(info_of(view.scorer).reads & reads::exp_avg_sq) || view.size() == 0) return;
  const float eps = eps_of(view.scorer);
  const std::vector<ScoreInputs> states = second_moments_of(view.tensors);
  const ScoreView moments = make_view(states, Identity{});
  std::int64_t live = 0, under = 0, zero = 0;
  const auto tally = [&](const float* values, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) {
      live += !std::isnan(values[i]);
      under += values[i] < eps;
      zero += values[i] == 0.0f;
    }
  };
  const LineSample plan{std::min(lines, moments.size() / LineSample::width + 1), 0};
  float* const values =
      workspace.get<float>(Workspace::sample, static_cast<std::size_t>(plan.lines * LineSample::width));
  if (moments.size() <= lines * LineSample::width) {
    std::vector<std::int64_t> positions(static_cast<std::size_t>(moments.size()));
    std::iota(positions.begin(), positions.end(), std::int64_t{0});
    engine.gather(moments, positions, values);
    tally(values, moments.size());
  } else {
    engine.sample(moments, plan, values);
    tally(values, plan.lines * LineSample::width);
  }
  if (live == 0) return;
  report.v_below_eps = static_cast<double>(under) / static_cast<double>(live);
  report.v_zero = static_cast<double>(zero) / static_cast<double>(live);
}

template <Engine E>
PruneReport threshold(E& engine, std::span<const ScoreInputs> tensors, const Scorer& scorer, const Budget& budget,
                      const PruneOptions& options, Workspace& workspace) {
  check(options);
  if (!options.tensor_sparsity.empty())
    throw ArgumentError("tensor_sparsity: a threshold alone has no bounds; make_masks reports one with them");
  const Ties ties = ties_of(options);
  const std::vector<ScoreInputs> competing = competitors(tensors, options.regrow);
  const ScoreView view = make_view(competing, scorer);
  PruneReport report{.total = view.size()};
  report.k = resolve(budget, report.total);
  report.dead = report.total - live_elements(engine, competing);
  const Selection selection = select(engine, view, std::max<std::int64_t>(0, report.k - report.dead),
                                     report.total - report.dead, options, {}, workspace);
  add(report, selection);
  report.value = selection.value;
  report.pruned = selection.below < 0 ? -1 : report.dead + selection.below + ties_wanted(ties, selection);
  report_second_moment(engine, view, report, workspace);
  return report;
}

// NaN scores in each tensor. Slow; where bounds meet NaN that are kept.
template <Engine E>
std::vector<std::int64_t> nonfinite_by_tensor(E& engine, const ScoreView& view, std::span<const std::int64_t> live,
                                              PruneOptions options, Workspace& workspace) {
  options.selector = Exact{};
  std::vector<std::int64_t> found(view.tensors.size());
  for (std::size_t t = 0; t < found.size(); ++t)
    found[t] = select(engine, only(view, t), live[t], live[t], options, {}, workspace).nan;
  return found;
}

// Scope global. Under bounds, tensors beyond one give exactly that, and the others share what is left (bounds.hpp).
// What `later` gets is left to be settled.
template <Engine E>
void prune_globally(E& engine, std::span<const ScoreInputs> tensors, const ScoreView& view, PruneReport& report,
                    std::span<const std::int64_t> dead, const PruneOptions& options, MaskTable masks,
                    Workspace& workspace, Unsettled& later) {
  const std::size_t count = tensors.size();
  const bool bounded = options.max_tensor_sparsity || !options.tensor_sparsity.empty();
  std::vector<std::int64_t> numels(count);
  for (std::size_t t = 0; t < count; ++t) numels[t] = tensors[t].numel;
  if (!options.tensor_sparsity.empty()) check_ranges(options.tensor_sparsity, numels);
  std::vector<CountRange> ranges = ranges_of(options.tensor_sparsity, options.max_tensor_sparsity, numels, dead);
  if (!options.tensor_sparsity.empty()) require_within(ranges, report.k, report.dead, report.total);
  std::vector<bool> fixed(count);
  std::int64_t budget = report.k;
  for (;;) {
    std::vector<ScoreInputs> free;
    std::vector<std::uint64_t*> words;
    std::vector<std::size_t> index;
    std::int64_t dead_here = 0;
    for (std::size_t t = 0; t < count; ++t) {
      if (fixed[t]) continue;
      free.push_back(tensors[t]);
      free.back().origin = origin_of(view, t);  // whoever left the selection, random scores stay
      words.push_back(masks[t]);
      index.push_back(t);
      dead_here += dead[t];
    }
    ScoreView rest{view.scorer, free, {0}, view.modified};
    for (const ScoreInputs& tensor : free) rest.offset.push_back(rest.offset.back() + tensor.numel);
    const ScoreView& competing = free.size() == count ? view : rest;
    const std::int64_t rank = std::clamp<std::int64_t>(budget - dead_here, 0, competing.size() - dead_here);
    Selection selection = select(engine, competing, rank, competing.size() - dead_here, options, words, workspace,
                                 bounded ? nullptr : &later);
    const auto share_of = [&](std::int64_t elements) {
      return static_cast<double>(elements) / static_cast<double>(std::max<std::int64_t>(report.total, 1));
    };
    if (free.size() != count) selection.passes *= share_of(competing.size());
    report.count_below = report.count_equal = 0;
    const std::int64_t nan = free.size() == count ? selection.nan : report.nonfinite;  // the first look saw them all
    add(report, selection);
    report.nonfinite = nan;
    report.value = selection.value;
    std::fill(report.tensor_threshold.begin(), report.tensor_threshold.end(), std::nullopt);
    for (const std::size_t t : index) report.tensor_threshold[t] = selection.value;
    if (!bounded) return;

    std::vector<const std::uint64_t*> bits(words.begin(), words.end());
    std::vector<std::int64_t> live(free.size());
    engine.popcount(free, bits, live);
    if (!options.tensor_sparsity.empty() && selection.nan > 0 && free.size() == count) {
      std::vector<std::int64_t> alive(count);
      for (std::size_t t = 0; t < count; ++t) alive[t] = numels[t] - dead[t];
      leave_nan(ranges, numels, nonfinite_by_tensor(engine, view, alive, options, workspace));
    }
    std::vector<std::int64_t> pruned(free.size());
    std::vector<CountRange> bounds(free.size());
    for (std::size_t i = 0; i < free.size(); ++i) {
      pruned[i] = free[i].numel - live[i];
      bounds[i] = ranges[index[i]];
    }
    const Fixed leaving = beyond(pruned, bounds, budget);
    if (leaving.places.empty()) return;
    for (std::size_t j = 0; j < leaving.places.size(); ++j) {
      const std::size_t t = index[leaving.places[j]];
      PruneOptions own = options;
      own.max_tensor_sparsity.reset();
      own.tensor_sparsity.clear();
      own.selector = Exact{};  // a bound is a count, whatever the rule within it
      own.ties = Ties::exact;
      Selection at_bound = select(engine, only(view, t), leaving.counts[j] - dead[t], numels[t] - dead[t], own,
                                  masks.subspan(t, 1), workspace);
      at_bound.nan = 0;  // counted already
      at_bound.passes *= share_of(numels[t]);
      add(report, at_bound);
      fixed[t] = true;
      budget -= leaving.counts[j];
    }
  }
}

template <Engine E>
PruneReport make_masks(E& engine, std::span<const ScoreInputs> tensors, const Scorer& scorer, const Budget& budget,
                       const PruneOptions& options, MaskTable masks, Workspace& workspace) {
  check(options);
  ties_of(options);
  const std::vector<ScoreInputs> competing = competitors(tensors, options.regrow);
  const ScoreView view = make_view(competing, scorer);
  PruneReport report{.total = view.size()};
  const Scope& scope = options.scope;
  const Asked asked = ask(budget, scope, report.total);
  report.k = asked.k;
  std::vector<std::int64_t> dead(tensors.size());
  live_elements(engine, competing, dead);
  for (std::size_t t = 0; t < tensors.size(); ++t) dead[t] = tensors[t].numel - dead[t];
  report.dead = std::accumulate(dead.begin(), dead.end(), std::int64_t{0});
  report.tensor_threshold.resize(tensors.size());
  Unsettled unsettled;

  if (scope.kind == Scope::global) {
    prune_globally(engine, competing, view, report, dead, options, masks, workspace, unsettled);
  } else {
    const std::vector<std::int64_t> share =
        allocate(competing, dead, options.distribution.value_or(Distribution::uniform), report.k, report.total,
                 asked.sparsity, asked.most);
    const bool uniform = options.distribution.value_or(Distribution::uniform) == Distribution::uniform;
    const double s = share_asked(asked.sparsity.has_value(), asked.sparsity.value_or(0.0), report.k, report.total);
    report.k = 0;
    PruneOptions each = options;
    each.nonfinite = NonFinite::keep;  // an error counts the NaN of all tensors
    std::vector<std::int64_t> nan(tensors.size());
    for (std::size_t t = 0; t < tensors.size(); ++t) {
      if (scope.kind == Scope::tensor) {
        const Selection selection = select(engine, only(view, t), share[t] - dead[t], tensors[t].numel - dead[t], each,
                                           masks.subspan(t, 1), workspace);
        nan[t] = selection.nan;
        add(report, selection);
        report.tensor_threshold[t] = selection.value;
        report.k += share[t];
        continue;
      }
      const GroupRule rule = group_rule(competing[t], scope, options.rounding, options.remainder, uniform, s, share[t]);
      nan[t] = engine.group_mask(view, t, rule, masks);
      report.nonfinite += nan[t];
      report.k += pruned_by(competing[t].geometry, rule);
      if (options.between_passes) options.between_passes();
    }
    raise_if_nonfinite(view, nan, options);
    report.passes =
        scope.in_groups() ? 1 : report.passes / static_cast<double>(std::max<std::size_t>(tensors.size(), 1));
    if (scope.in_groups()) report.path = "groups";
  }

  std::vector<const std::uint64_t*> fresh(masks.begin(), masks.end());
  report.tensor_pruned.resize(tensors.size());
  const std::vector<Chunk> chunks = make_chunks(tensors);
  report.empty_rows = unsettled.live.empty()
                          ? engine.survey(tensors, chunks, fresh, report.tensor_pruned)
                          : engine.settle_and_survey(tensors, chunks, unsettled, masks, report.tensor_pruned);
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    report.tensor_pruned[t] = tensors[t].numel - report.tensor_pruned[t];
    report.pruned += report.tensor_pruned[t];
  }
  // Without regrow the dead stay dead, so only live bits can differ.
  report.churn = options.regrow ? engine.differing(tensors, fresh) : report.pruned - report.dead;
  report_second_moment(engine, view, report, workspace);
  return report;
}

}  // namespace bittersweet::flow
