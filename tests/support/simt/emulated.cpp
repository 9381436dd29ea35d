#include "support/simt/emulated.hpp"

#include <memory>

#include "cuda/adam.cuh"
#include "cuda/bracket.cuh"
#include "cuda/count_runs.cuh"
#include "cuda/guess.cuh"
#include "cuda/ordered.cuh"
#include "cuda/prove_margin.cuh"
#include "cuda/rounds.cuh"
#include "cuda/sample.cuh"
#include "cuda/select.cuh"
#include "cuda/selectors.cuh"
#include "cuda/tally.cuh"
#include "cuda/write_mask.cuh"
#include "cuda/write_scores.cuh"

namespace bittersweet::test {
namespace {

// The launcher of a test: after the kernel that places the bracket it can put another in its place.
class Launcher : public simt::Launcher {
 public:
  using simt::Launcher::Launcher;
  bool forced = false;
  std::int64_t row = -1;
  float low = 0, high = 0;

  template <class K>
  void launch(unsigned grid, const typename K::Args& args) {
    simt::Launcher::launch<K>(grid, args);
    if constexpr (std::is_same_v<K, cuda::Guess<cuda::Pass::place>>) {
      if (!forced || cuda::idle(args)) return;
      const cuda::u32 units = args.units ? args.unit_of_block[args.unit_blocks - 1] + 1 : 1;
      for (cuda::u32 u = 0; u < units; ++u)
        if (args.state[u].rank > 0 && (!args.units || row < 0 || row == std::int64_t{args.units[u].row}))
          device::set_ends(args.state[u].attempt[0], low, high, args.non_negative && low == smallest_positive);
    }
  }
};

}  // namespace

cuda::StepReport EmulatedCuda::step(std::span<const ScoreInputs> tensors, const Scorer& scorer,
                                    const cuda::StepBudget& budget, const cuda::StepOptions& options,
                                    MaskTable new_masks, std::vector<std::int64_t>* tensor_pruned) {
  if (options.scope.in_groups()) return step_groups(tensors, scorer, budget, options, new_masks, tensor_pruned);
  return replay(tensors, scorer, {&budget, 1}, options, new_masks, tensor_pruned).front();
}

std::vector<cuda::StepReport> EmulatedCuda::replay(std::span<const ScoreInputs> tensors, const Scorer& scorer,
                                                   std::span<const cuda::StepBudget> budgets,
                                                   const cuda::StepOptions& options, MaskTable new_masks,
                                                   std::vector<std::int64_t>* tensor_pruned,
                                                   const std::function<void(const cuda::StepReport&)>& after) {
  const std::size_t bytes = cuda::step_bytes(tensors, options, !new_masks.empty(), room_);
  std::vector<unsigned char> workspace(bytes);
  simt::fill_with_rubbish(workspace.data(), bytes);
  const auto report = std::make_unique<cuda::StepReport>();
  simt::fill_with_rubbish(report.get(), sizeof *report);
  if (tensor_pruned) tensor_pruned->assign(tensors.size(), -1);
  cuda::StepBudget budget;
  cuda::StepPlan plan =
      cuda::make_selected(tensors, scorer, &budget, options, new_masks, tensor_pruned ? tensor_pruned->data() : nullptr,
                          workspace.data(), bytes, report.get(), room_);
  if (capacity_ >= 0) plan.context.capacity = static_cast<std::uint64_t>(capacity_);
  if (bits_ > 0) plan.units.bits = bits_;
  for (cuda::UnitsLaunch& launch : plan.units.launches)
    for (cuda::Unit& unit : launch.units)
      if (capacity_ >= 0 && forced(unit.row)) unit.capacity = static_cast<std::uint64_t>(capacity_);
  Launcher launcher(seed_++ * 1000, processors_);
  launcher.forced = forced_;
  launcher.row = row_;
  launcher.low = low_;
  launcher.high = high_;
  std::vector<cuda::StepReport> reports;
  for (const cuda::StepBudget& next : budgets) {
    budget = next;
    cuda::enqueue_selected(launcher, scorer, plan);
    reports.push_back(*report);
    if (after) after(*report);
  }
  return reports;
}

void EmulatedCuda::write_scores(std::span<const ScoreInputs> tensors, const Scorer& scorer,
                                std::span<float* const> scores) {
  Launcher launcher(seed_++ * 1000, processors_);
  cuda::write_scores(launcher, scorer, cuda::score_rows(tensors, scorer, scores));
}

void EmulatedCuda::apply_masks(std::span<const ScoreInputs> tensors, std::span<const std::uint64_t* const> masks,
                               std::uint32_t which, const std::uint32_t* gate) {
  Launcher launcher(seed_++ * 1000, processors_);
  cuda::apply_mask(launcher, cuda::chosen_arrays(tensors, masks, which), gate);
}

std::vector<std::int64_t> EmulatedCuda::count_live(std::span<const ScoreInputs> tensors,
                                                   std::span<const std::uint64_t* const> masks) {
  std::vector<std::int64_t> live(tensors.size(), -1);
  Launcher launcher(seed_++ * 1000, processors_);
  cuda::count_live(launcher, cuda::mask_rows(tensors, masks), tensors.size(), live.data());
  return live;
}

std::vector<std::int64_t> EmulatedCuda::count_violations(std::span<const ScoreInputs> tensors,
                                                         std::span<const std::uint64_t* const> masks,
                                                         std::uint32_t which) {
  std::vector<std::int64_t> found(tensors.size(), -1);
  Launcher launcher(seed_++ * 1000, processors_);
  cuda::verify_mask(launcher, cuda::chosen_arrays(tensors, masks, which), tensors.size(), found.data());
  return found;
}

cuda::BracketReport EmulatedCuda::bracket(std::span<const ScoreInputs> tensors, const Scorer& scorer,
                                          const Bracket& ends, MaskTable new_masks) {
  workspace_.resize(cuda::make_layout(tensors, !new_masks.empty()).bytes);
  simt::fill_with_rubbish(workspace_.data(), workspace_.size());
  const auto report = std::make_unique<cuda::BracketReport>();
  simt::fill_with_rubbish(report.get(), sizeof *report);
  cuda::check_bracket(ends, report.get());
  cuda::StepPlan plan = cuda::make_plan(tensors, scorer, {}, new_masks, workspace_.data(), workspace_.size());
  if (capacity_ >= 0) plan.context.capacity = static_cast<std::uint64_t>(capacity_);
  Launcher launcher(seed_++ * 1000, processors_);
  cuda::enqueue_bracket(launcher, scorer, plan, ends, report.get());
  return *report;
}

std::vector<std::int64_t> EmulatedCuda::tally(std::span<const ScoreInputs> tensors, std::span<const std::int64_t> units,
                                              const KeyRange& keys, std::size_t bins) {
  std::vector<std::int64_t> found(bins, -1);
  cuda::TallyPlan plan = cuda::make_tally(tensors, units, keys, workspace_.data(), workspace_.size(), found);
  if (capacity_ >= 0) plan.context.capacity = static_cast<std::uint64_t>(capacity_);
  Launcher launcher(seed_++ * 1000, processors_);
  cuda::enqueue_tally(launcher, plan, keys, found);
  return found;
}

std::vector<std::int64_t> EmulatedCuda::count_runs(std::span<const ScoreInputs> tensors, const Scorer& scorer,
                                                   std::size_t t, float value, const RunRange& runs, std::size_t bins) {
  std::vector<std::int64_t> found(bins, -1);
  const cuda::Row row = cuda::runs_row(tensors, scorer, t, runs, found);
  Launcher launcher(seed_++ * 1000, processors_);
  cuda::count_runs(launcher, scorer, row, value, runs, found);
  return found;
}

int EmulatedCuda::step_adam(std::span<const ScoreInputs> tensors, std::span<const AdamOptions> options,
                            const cuda::AdamArguments& call) {
  std::vector<unsigned char> workspace(cuda::adam_bytes(tensors.size()));
  simt::fill_with_rubbish(workspace.data(), workspace.size());
  Launcher launcher(seed_++ * 1000, processors_);
  cuda::step_adam(launcher, cuda::make_adam(tensors, options, call, workspace.data(), workspace.size()));
  return launcher.launches();
}

cuda::MarginProof EmulatedCuda::prove_margin(std::uint32_t step) {
  cuda::MarginProof proof{1, 1, 1, 1};
  Launcher launcher(seed_++ * 1000, 1);
  cuda::prove_margin(launcher, &proof, step);
  return proof;
}

}  // namespace bittersweet::test
