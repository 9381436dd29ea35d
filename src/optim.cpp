// The public function of the optimizer's pass: checks, constants, then the verb of the engine.
#include "bittersweet/optim.hpp"

#include <cmath>

#include "bittersweet/engine/optim_checks.hpp"
#include "bittersweet/flow.hpp"
#include "checks.hpp"
#include "cpu/parallel.hpp"
#include "nvtx_range.hpp"
#include "step_then_select.hpp"

namespace bittersweet {
namespace {

CpuEngine& cpu_engine() {
  static CpuEngine engine;
  return engine;
}

// Checked tensors, as the verb takes them, and each one's constants.
struct Checked {
  std::vector<ScoreInputs> tensors;
  std::vector<AdamStep> steps;

  Checked(std::span<const ScoreInputs> given, std::span<const AdamOptions> options, std::span<const double> counts,
          const AdamCall& call)
      : tensors(given.begin(), given.end()) {
    check_adam_length("options", options.size(), given.size());
    check_adam_length("steps", counts.size(), given.size());
    if (!call.draws.empty()) check_adam_length("draws", call.draws.size(), given.size());
    check_alignment(given);
    check_adam_rounding(call.rounding);
    steps.reserve(given.size());
    for (std::size_t t = 0; t < given.size(); ++t) {
      const bool same = t > 0 && options[t] == options[t - 1] && counts[t] == counts[t - 1];
      if (!same) check_adam_options(options[t]);
      if (!(counts[t] >= 1)) throw ArgumentError("step: " + std::to_string(counts[t]) + "; accepted: a count from 1");
      check_adam_tensor(given[t], options[t].amsgrad);
      if (const RoundingKey* const draw = call.draw_of(t)) check_adam_draw(given[t], *draw);
      if (!options[t].amsgrad) tensors[t].max_exp_avg_sq = {};
      tensors[t].bias_correction1 = static_cast<float>(1.0 - std::pow(options[t].beta1, counts[t]));
      steps.push_back(same ? steps.back() : make_adam_step(options[t], counts[t], call.scale));
    }
  }
};

}  // namespace

std::vector<std::uint8_t> step_adam(std::span<const ScoreInputs> tensors, std::span<const AdamOptions> options,
                                    std::span<const double> steps, const AdamCall& call,
                                    std::span<const std::uint8_t> trusted) {
  const NvtxRange range("bittersweet::step_adam");
  if (!trusted.empty()) check_adam_length("trusted", trusted.size(), tensors.size());
  const Checked checked(tensors, options, steps, call);
  const std::vector<std::uint8_t> untrusted(trusted.empty() ? tensors.size() : 0);
  std::vector<std::uint8_t> dirty(tensors.size());
  cpu_engine().step_adam(checked.tensors, make_chunks(checked.tensors), checked.steps, call,
                         trusted.empty() ? untrusted : trusted, dirty);
  return dirty;
}

SteppedMasks step_adam_and_make_masks(std::span<const ScoreInputs> tensors, std::span<const AdamOptions> options,
                                      std::span<const double> steps, const AdamCall& call, const Scorer& scorer,
                                      const Budget& budget, const PruneOptions& prune_options, MaskTable masks,
                                      Workspace& workspace) {
  const NvtxRange range("bittersweet::step_adam_and_make_masks");
  const FpEnvironment::Mode mode = FpEnvironment::current();
  const FpEnvironment environment;
  const cpu::Team team;
  const Checked checked(tensors, options, steps, call);
  check_adam_length("masks", masks.size(), tensors.size());
  SteppedMasks found{.dirty = std::vector<std::uint8_t>(tensors.size())};
  const cpu::StepInPass step{checked.steps, call, mode, found.dirty};
  const std::vector<ScoreInputs> stepped = flow::competitors(checked.tensors, prune_options.regrow);
  StepThenSelect engine(cpu_engine(), stepped, step);
  try {
    found.report = flow::make_masks(engine, checked.tensors, scorer, budget, prune_options, masks, workspace);
  } catch (const Error&) {
    if (!engine.stepped()) throw;
  }
  engine.step();
  return found;
}

}  // namespace bittersweet
