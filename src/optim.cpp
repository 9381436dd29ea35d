// The public function of the optimizer's pass: checks, constants, then the verb of the engine.
#include "bittersweet/optim.hpp"

#include <cmath>

#include "bittersweet/error.hpp"
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

void check_length(const char* what, std::size_t found, std::size_t tensors) {
  if (found != tensors)
    throw ShapeError(std::string(what) + ": " + std::to_string(found) + " for " + std::to_string(tensors) +
                     " tensors; one is needed for each");
}

void check_options(const AdamOptions& o, double step) {
  const auto require = [](const char* what, double found, bool good, const char* accepted) {
    if (!good) throw ArgumentError(std::string(what) + ": " + std::to_string(found) + "; accepted: " + accepted);
  };
  require("lr", o.lr, o.lr >= 0, "a number from 0");
  require("beta1", o.beta1, o.beta1 >= 0 && o.beta1 < 1, "a number from 0 to below 1");
  require("beta2", o.beta2, o.beta2 >= 0 && o.beta2 < 1, "a number from 0 to below 1");
  require("eps", o.eps, o.eps >= 0, "a number from 0");
  require("weight_decay", o.weight_decay, o.weight_decay >= 0, "a number from 0");
  require("step", step, step >= 1, "a count from 1");
}

void check_tensor(const ScoreInputs& tensor, bool amsgrad) {
  const std::string name(tensor.name);
  if (tensor.numel < 0) throw ShapeError("numel: " + std::to_string(tensor.numel) + " in tensor '" + name + "'");
  const auto require = [&](const TensorView& array, const char* what) {
    if (array.dtype == DType::none || (array.data == nullptr && tensor.numel > 0))
      throw MissingStateError(std::string(what) + ": the step needs it and tensor '" + name + "' has none; give it");
  };
  require(tensor.weight, "weight");
  require(tensor.grad, "grad");
  require(tensor.exp_avg, "exp_avg");
  require(tensor.exp_avg_sq, "exp_avg_sq");
  if (amsgrad) require(tensor.max_exp_avg_sq, "max_exp_avg_sq");
  if (!adam_takes(tensor, amsgrad))
    throw DTypeError("weight of '" + name + "' is " + name_of(tensor.weight.dtype) + ", its gradient " +
                     name_of(tensor.grad.dtype) + ", exp_avg " + name_of(tensor.exp_avg.dtype) + ", exp_avg_sq " +
                     name_of(tensor.exp_avg_sq.dtype) +
                     "; accepted: all float32, all bfloat16, or a 16-bit weight and gradient with float32 states");
}

// Checked tensors, as the verb takes them, and each one's constants.
struct Checked {
  std::vector<ScoreInputs> tensors;
  std::vector<AdamStep> steps;

  Checked(std::span<const ScoreInputs> given, std::span<const AdamOptions> options, std::span<const double> counts,
          const AdamCall& call)
      : tensors(given.begin(), given.end()) {
    check_length("options", options.size(), given.size());
    check_length("steps", counts.size(), given.size());
    check_alignment(given);
    const AdamRounding& rounding = call.rounding;
    if (rounding.lanes_f32 < 1 || rounding.lanes_f32 > 16 || rounding.lanes_16bit < 1 || rounding.lanes_16bit > 32)
      throw ArgumentError("rounding: lanes of " + std::to_string(rounding.lanes_f32) + " and " +
                          std::to_string(rounding.lanes_16bit) + "; accepted: 1 to 16, and 1 to 32");
    steps.reserve(given.size());
    for (std::size_t t = 0; t < given.size(); ++t) {
      const bool same = t > 0 && options[t] == options[t - 1] && counts[t] == counts[t - 1];
      if (!same) check_options(options[t], counts[t]);
      check_tensor(given[t], options[t].amsgrad);
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
  if (!trusted.empty()) check_length("trusted", trusted.size(), tensors.size());
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
  check_length("masks", masks.size(), tensors.size());
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
