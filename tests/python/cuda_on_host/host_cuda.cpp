// The functions of cuda.hpp over host memory, by the CPU engine. It keeps the contract (void steps, budgets in memory,
// reports) and none of the speed, and it is as unhelpful as the contract allows: workspace is overwritten, and so are
// the masks of a void step.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "bittersweet/cuda.hpp"
#include "bittersweet/flow.hpp"
#include "bittersweet/optim.hpp"
#include "bittersweet/prune.hpp"
#include "stand_in.hpp"

namespace bittersweet::cuda {
namespace {

std::int64_t words_in(std::span<const ScoreInputs> tensors) {
  std::int64_t words = 0;
  for (const ScoreInputs& tensor : tensors) words += bits::words(tensor.numel);
  return words;
}

// Every exp_avg_sq that is live and a number, against eps and 0.
void count_second_moment(std::span<const ScoreInputs> tensors, const Scorer& scorer, bool regrow, StepReport& report) {
  if (!(info_of(scorer).reads & reads::exp_avg_sq)) return;
  const float eps = std::visit(
      [](const auto& s) {
        if constexpr (requires { s.eps; })
          return s.eps;
        else
          return 0.0f;
      },
      scorer);
  for (const ScoreInputs& tensor : tensors)
    for (std::int64_t i = 0; i < tensor.numel; ++i) {
      const float v = load_as_float(tensor.exp_avg_sq.data, tensor.exp_avg_sq.dtype, i);
      if ((!regrow && !is_live(tensor, i)) || std::isnan(v)) continue;
      ++report.v_sampled;
      report.v_below_eps += v < eps;
      report.v_zero += v == 0.0f;
    }
}

// From the answer to the numbers of the contract.
StepReport to_report(const PruneReport& found) {
  StepReport report;
  report.value = found.value.value_or(minus_infinity);
  report.standard_error = found.standard_error.value_or(no_number);
  report.converged = found.converged;
  report.passes = static_cast<float>(found.passes);
  report.k = found.k;
  report.total = found.total;
  report.dead = found.dead;
  report.below = found.count_below;
  report.equal = found.count_equal;
  report.ties = found.count_below < 0 ? -1 : found.pruned - found.dead - found.count_below;
  report.nan = found.nonfinite;
  report.pruned = found.pruned;
  report.churn = found.churn;
  report.empty_rows = found.empty_rows;
  return report;
}

// What ranges allow, where a budget was outside of them.
void say_allowed(std::span<const ScoreInputs> tensors, const PruneOptions& options, StepReport& report) {
  if (options.tensor_sparsity.empty()) return;
  std::vector<const std::uint64_t*> masks;
  for (const ScoreInputs& tensor : tensors) masks.push_back(options.regrow ? nullptr : tensor.mask);
  std::vector<std::int64_t> numels, dead = bittersweet::count_live(tensors, masks);
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    numels.push_back(tensors[t].numel);
    dead[t] = numels[t] - dead[t];
  }
  for (const CountRange& range : ranges_of(options.tensor_sparsity, {}, numels, dead)) {
    report.below += range.least;
    report.equal += range.most;
  }
  report.dead = std::accumulate(dead.begin(), dead.end(), std::int64_t{0});
}

std::int64_t position_of(std::span<const ScoreInputs> tensors, const NonFiniteScoreError& error) {
  std::int64_t position = error.first_index();
  for (const ScoreInputs& tensor : tensors) {
    if (tensor.name == error.parameter()) break;
    position += tensor.numel;
  }
  return position;
}

}  // namespace

std::size_t step_workspace_bytes(std::span<const ScoreInputs> tensors, const Scorer& scorer, const StepOptions& options,
                                 bool) {
  make_view(tensors, scorer);
  flow::check(tensors, prune_options(options));
  return 1024 + 8 * static_cast<std::size_t>(words_in(tensors));
}

void step(const Queue& queue, std::span<const ScoreInputs> tensors, const Scorer& scorer, const StepBudget* budget,
          const StepOptions& options, MaskTable new_masks, std::int64_t* tensor_pruned, void* workspace,
          std::size_t workspace_bytes, StepReport* report) {
  check(queue);
  const std::size_t needed = step_workspace_bytes(tensors, scorer, options, !new_masks.empty());
  if (workspace_bytes < needed) throw ArgumentError("workspace: " + std::to_string(workspace_bytes) + " bytes");
  std::memset(workspace, 0xa5, workspace_bytes);
  const PruneOptions selection = prune_options(options);
  flow::check(tensors, selection);  // before anything is enqueued; what depends on the budget is a status
  Budget asked{.k = budget->k};
  if (!std::isnan(budget->sparsity)) asked = {.sparsity = budget->sparsity};
  Workspace memory;
  const auto give_up = [&](std::uint32_t status) {
    for (std::size_t t = 0; t < new_masks.size(); ++t)
      std::memset(new_masks[t], 0x5a, 8 * static_cast<std::size_t>(bits::words(tensors[t].numel)));
    report->status = status | status::failed;
    report->k = budget->k;
    report->total = std::accumulate(tensors.begin(), tensors.end(), std::int64_t{0},
                                    [](std::int64_t n, const ScoreInputs& tensor) { return n + tensor.numel; });
  };
  *report = {};
  try {
    PruneReport found = new_masks.empty() ? threshold(tensors, scorer, asked, selection, memory)
                                          : make_masks(tensors, scorer, asked, selection, new_masks, memory);
    *report = to_report(found);
    report->status = found.nonfinite > 0 ? status::nan : 0;
    count_second_moment(tensors, scorer, options.regrow, *report);
    if (tensor_pruned && !new_masks.empty())
      std::copy(found.tensor_pruned.begin(), found.tensor_pruned.end(), tensor_pruned);
    if (options.tensor_threshold != nullptr)
      std::ranges::transform(found.tensor_threshold, options.tensor_threshold, [](const std::optional<float>& value) {
        return value.value_or(std::numeric_limits<float>::quiet_NaN());
      });
  } catch (const NonFiniteScoreError& error) {
    give_up(status::nan);
    report->nan = error.count();
    report->first_nan = position_of(tensors, error);
    return;
  } catch (const ArgumentError&) {
    give_up(status::bad_k);
    say_allowed(tensors, selection, *report);
    return;
  }
  if (!new_masks.empty())
    bittersweet::apply_masks(tensors, std::vector<const std::uint64_t*>(new_masks.begin(), new_masks.end()),
                             options.zero);
}

void write_scores(const Queue& queue, std::span<const ScoreInputs> tensors, const Scorer& scorer,
                  std::span<float* const> scores) {
  check(queue);
  bittersweet::write_scores(tensors, scorer, scores);
}

void apply_masks(const Queue& queue, std::span<const ScoreInputs> tensors, std::span<const std::uint64_t* const> masks,
                 std::uint32_t which, const std::uint32_t* gate) {
  check(queue);
  if (gate == nullptr || !(*gate & status::failed)) bittersweet::apply_masks(tensors, masks, which);
}

void count_live(const Queue& queue, std::span<const ScoreInputs> tensors, std::span<const std::uint64_t* const> masks,
                std::int64_t* live) {
  check(queue);
  const std::vector<std::int64_t> counts = bittersweet::count_live(tensors, masks);
  std::copy(counts.begin(), counts.end(), live);
}

void count_violations(const Queue& queue, std::span<const ScoreInputs> tensors,
                      std::span<const std::uint64_t* const> masks, std::uint32_t which, std::int64_t* found) {
  check(queue);
  const std::vector<std::int64_t> counts = bittersweet::count_violations(tensors, masks, which);
  std::copy(counts.begin(), counts.end(), found);
}

std::size_t adam_workspace_bytes(std::span<const ScoreInputs> tensors) { return 256 + 64 * tensors.size(); }

void step_adam(const Queue& queue, std::span<const ScoreInputs> tensors, std::span<const AdamOptions> options,
               const AdamArguments& call, void* workspace, std::size_t workspace_bytes) {
  check(queue);
  const std::size_t needed = adam_workspace_bytes(tensors);
  if (workspace_bytes < needed) throw ArgumentError("workspace: " + std::to_string(workspace_bytes) + " bytes");
  std::memset(workspace, 0xa5, workspace_bytes);
  std::fill_n(call.dirty, tensors.size(), 0);
  if (call.found_inf != nullptr && *call.found_inf != 0.0f) return;
  std::vector<AdamOptions> by_tensor(options.begin(), options.end());
  std::vector<double> steps;
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    if (!call.lr.empty() && call.lr[t] != nullptr) by_tensor[t].lr = static_cast<double>(*call.lr[t]);
    steps.push_back(static_cast<double>(*call.steps[t] + 1.0f));
  }
  const float scale = call.grad_scale == nullptr ? 0.0f : *call.grad_scale;
  std::vector<std::optional<RoundingKey>> draws(call.draws.begin(), call.draws.end());
  for (std::size_t t = 0; t < draws.size(); ++t)
    if (draws[t]) draws[t]->step = static_cast<std::uint32_t>(static_cast<std::int64_t>(steps[t]));
  const std::vector<std::uint8_t> dirty =
      bittersweet::step_adam(tensors, by_tensor, steps, {call.rounding, scale, call.weights_only, draws}, call.trusted);
  std::copy(dirty.begin(), dirty.end(), call.dirty);
  for (float* const step : call.steps) *step += 1.0f;
}

}  // namespace bittersweet::cuda
