// The public function of the optimizer's pass: checks, constants, then the verb of the engine.
#include "bittersweet/optim.hpp"

#include "bittersweet/engine/cpu.hpp"
#include "bittersweet/engine/optim_checks.hpp"
#include "checks.hpp"

namespace bittersweet {
namespace {

CpuEngine& cpu_engine() {
  static CpuEngine engine;
  return engine;
}

}  // namespace

std::vector<std::uint8_t> step_adam(std::span<const ScoreInputs> tensors, std::span<const AdamOptions> options,
                                    std::span<const double> steps, const AdamCall& call,
                                    std::span<const std::uint8_t> trusted) {
  check_adam_length("options", options.size(), tensors.size());
  check_adam_length("steps", steps.size(), tensors.size());
  if (!trusted.empty()) check_adam_length("trusted", trusted.size(), tensors.size());
  check_alignment(tensors);
  check_adam_rounding(call.rounding);
  std::vector<ScoreInputs> used(tensors.begin(), tensors.end());
  std::vector<AdamStep> constants;
  constants.reserve(tensors.size());
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    const bool same = t > 0 && options[t] == options[t - 1] && steps[t] == steps[t - 1];
    if (!same) {
      check_adam_options(options[t]);
      if (!(steps[t] >= 1)) throw ArgumentError("step: " + std::to_string(steps[t]) + "; accepted: a count from 1");
    }
    check_adam_tensor(tensors[t], options[t].amsgrad);
    if (!options[t].amsgrad) used[t].max_exp_avg_sq = {};
    constants.push_back(same ? constants.back() : make_adam_step(options[t], steps[t], call.scale));
  }
  const std::vector<std::uint8_t> untrusted(trusted.empty() ? tensors.size() : 0);
  std::vector<std::uint8_t> dirty(tensors.size());
  cpu_engine().step_adam(used, make_chunks(used), constants, call, trusted.empty() ? untrusted : trusted, dirty);
  return dirty;
}

}  // namespace bittersweet
