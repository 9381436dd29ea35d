// Host side of the optimizer's pass: checks, and the tables that travel in kernel arguments.
#pragma once

#include <array>

#include "bittersweet/cuda.hpp"
#include "bittersweet/engine/optim_checks.hpp"
#include "plan.hpp"

namespace bittersweet::cuda {

// What one step's constants of a tensor are made of.
struct AdamTensor {
  AdamOptions options;
  const float* lr;  // null: that of the options
  float* step;
};

// Arrays of one tensor.
struct AdamRow {
  void *w, *g, *m, *v, *largest;  // the last is null without amsgrad
  const std::uint64_t* mask;      // null: all ones
  std::int64_t numel;
  u32 first;  // number of its first tile within the launch
  u32 tensor;
  std::uint8_t rest;  // elements at the end that are rounded as those of a scalar loop
  bool vectors;       // can all arrays be read by vectors?
  bool trusted;
};

// What a tensor's draws are made of: its step is the count at `step`.
struct AdamDraw {
  RoundingKey key;
  const float* step;
};

// Tensors that one kernel takes; a draw for each, or none.
struct AdamRows {
  std::vector<AdamRow> rows;
  std::vector<AdamDraw> draws;
};

// By storage, whether there is an AMSGrad buffer and, last, whether arrays are drawn: one kernel each.
inline constexpr std::array adam_storages{Storage::f32, Storage::bf16, Storage::bf16_f32, Storage::f16_f32};

struct AdamPlan {
  std::vector<AdamTensor> tensors;
  AdamRows tensors_of[adam_storages.size()][2][2];
  AdamStep* constants;
  std::uint32_t* dirty;
  const float* grad_scale;
  const float* found_inf;
  bool contracted, weights_only;
};

inline std::size_t adam_bytes(std::size_t tensors) { return tensors * sizeof(AdamStep) + alignment; }

inline std::size_t adam_storage_of(const ScoreInputs& tensor) {
  const DType w = tensor.weight.dtype;
  if (w == DType::f32) return 0;
  return tensor.exp_avg.dtype == w ? 1 : w == DType::bf16 ? 2 : 3;
}

inline AdamRow adam_row(const ScoreInputs& tensor, bool amsgrad) {
  AdamRow row{};
  row.w = tensor.weight.data;
  row.g = tensor.grad.data;
  row.m = tensor.exp_avg.data;
  row.v = tensor.exp_avg_sq.data;
  row.largest = amsgrad ? tensor.max_exp_avg_sq.data : nullptr;
  row.mask = tensor.mask;
  row.numel = tensor.numel;
  const auto at_multiples = [](std::size_t bytes, auto... arrays) {
    return ((reinterpret_cast<std::uintptr_t>(arrays) % bytes == 0) && ...);
  };
  const bool pair = tensor.weight.dtype != DType::f32 && tensor.exp_avg.dtype == DType::f32;
  row.vectors = at_multiples(pair ? 8 : 16, row.w, row.g) && at_multiples(16, row.m, row.v, row.largest);
  return row;
}

inline AdamPlan make_adam(std::span<const ScoreInputs> tensors, std::span<const AdamOptions> options,
                          const AdamArguments& call, void* workspace, std::size_t workspace_bytes) {
  check_adam_length("options", options.size(), tensors.size());
  check_adam_length("steps", call.steps.size(), tensors.size());
  if (!call.lr.empty()) check_adam_length("lr", call.lr.size(), tensors.size());
  if (!call.trusted.empty()) check_adam_length("trusted", call.trusted.size(), tensors.size());
  if (!call.draws.empty()) check_adam_length("draws", call.draws.size(), tensors.size());
  check_addresses(tensors);
  check_adam_rounding(call.rounding);
  if (tiles_in(tensors) >= device::max_tiles)
    throw ArgumentError("tensors: " + std::to_string(tiles_in(tensors)) + " tiles of 1024 elements; accepted: below " +
                        std::to_string(device::max_tiles));
  AdamPlan plan{};
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    const ScoreInputs& tensor = tensors[t];
    check_adam_options(options[t]);
    check_adam_tensor(tensor, options[t].amsgrad);
    const RoundingKey* const draw = !call.draws.empty() && call.draws[t] ? &*call.draws[t] : nullptr;
    if (draw != nullptr) check_adam_draw(tensor, *draw);
    const std::string name(tensor.name);
    if (call.steps[t] == nullptr)
      throw ArgumentError("steps: null pointer for tensor '" + name + "'; a float in device memory is needed");
    plan.tensors.push_back({options[t], call.lr.empty() ? nullptr : call.lr[t], call.steps[t]});
    if (tensor.numel == 0) continue;
    AdamRow row = adam_row(tensor, options[t].amsgrad);
    row.tensor = static_cast<u32>(t);
    row.rest = static_cast<std::uint8_t>(call.rounding.contracted ? adam_rest(tensor, call.rounding) : 0);
    row.trusted = !call.weights_only && !call.trusted.empty() && call.trusted[t] != 0;
    const bool drawn = draw != nullptr && tensor.weight.dtype == DType::bf16;
    AdamRows& rows = plan.tensors_of[adam_storage_of(tensor)][options[t].amsgrad][drawn];
    rows.rows.push_back(row);
    if (drawn) rows.draws.push_back({*draw, call.steps[t]});
  }
  if (tensors.empty()) return plan;
  if (call.dirty == nullptr)
    throw ArgumentError("dirty: null pointer; device memory for one number a tensor is needed");
  if (workspace == nullptr || workspace_bytes < adam_bytes(tensors.size()))
    throw ArgumentError("workspace_bytes: " + std::to_string(workspace_bytes) + "; this step needs " +
                        std::to_string(adam_bytes(tensors.size())) + " (adam_workspace_bytes)");
  plan.constants = reinterpret_cast<AdamStep*>((reinterpret_cast<std::uintptr_t>(workspace) + alignment - 1) /
                                               alignment * alignment);
  plan.dirty = call.dirty;
  plan.grad_scale = call.grad_scale;
  plan.found_inf = call.found_inf;
  plan.contracted = call.rounding.contracted;
  plan.weights_only = call.weights_only;
  return plan;
}

}  // namespace bittersweet::cuda
