// The optimizer's step on a device and on the host: every storage, both roundings, with and without masks.
#pragma once

#include <optional>
#include <utility>

#include "bittersweet/optim.hpp"
#include "records.hpp"
#include "side_by_side.hpp"
#include "support/inputs.hpp"

namespace bittersweet::bench {

struct AdamCase {
  DType weight, state;
  AdamRounding rounding;
  bool masked, misaligned, amsgrad;
  float scale;
};

inline test::Model adam_model(const AdamCase& c, const std::vector<std::int64_t>& sizes) {
  test::Model model;
  for (const std::int64_t n : sizes) {
    const std::vector<DType> dtypes{c.weight, c.state, c.state, c.weight, DType::f32, c.state};
    model.tensors.push_back(test::training_model({n}, dtypes, 40 + static_cast<std::uint64_t>(n)).tensors.front());
  }
  if (c.masked) model.set_masks(0.5, 5);
  return model;
}

// What differs after three steps, or "". A dry run steps on the host alone.
inline std::string adam_difference(const AdamCase& c, const std::vector<std::int64_t>& sizes, bool dry) {
  const test::Model model = adam_model(c, sizes);
  const std::vector<ScoreInputs> inputs = model.inputs();
  const AdamOptions option{.beta1 = 0.3, .beta2 = 0.95, .weight_decay = 0.1, .amsgrad = c.amsgrad};
  const std::vector<AdamOptions> options(inputs.size(), option);
  std::optional<Copy> copy;
  if (!dry) copy.emplace(inputs, c.misaligned);
  const auto before = model.bytes();
  std::vector<std::uint8_t> expected;
  for (int step = 1; step <= 3; ++step)
    expected = step_adam(inputs, options, std::vector<double>(inputs.size(), step), {c.rounding, c.scale});
  if (!copy) return model.bytes() == before ? "the CPU changed nothing" : "";

  const Buffer counts = on_device(std::vector<float>(inputs.size())), scale = on_device(std::vector<float>{c.scale});
  const Buffer workspace(cuda::adam_workspace_bytes(inputs)), dirty(4 * inputs.size());
  workspace.fill(0xab);
  dirty.fill(0xab);
  std::vector<float*> steps;
  for (std::size_t t = 0; t < inputs.size(); ++t) steps.push_back(counts.as<float>() + t);
  for (int step = 0; step < 3; ++step)
    cuda::step_adam(
        {}, copy->inputs(), options,
        {.rounding = c.rounding, .steps = steps, .grad_scale = scale.as<float>(), .dirty = dirty.as<std::uint32_t>()},
        workspace.data(), workspace.size());
  synchronize("the optimizer's step");
  for (std::size_t t = 0; t < inputs.size(); ++t) {
    const std::string tensor = "tensor " + std::to_string(t) + ", ";
    if (counts.read<float>(t) != 3.0f) return tensor + "its count";
    if (dirty.read<std::uint32_t>(t) != expected[t]) return tensor + "whether a dead weight was not zero";
    for (const std::uint32_t role : roles::all) {
      const TensorView &here = roles::of(inputs[t], role), &there = roles::of(copy->inputs()[t], role);
      if (here.dtype == DType::none || inputs[t].numel == 0) continue;
      const std::int64_t bytes = inputs[t].numel * static_cast<std::int64_t>(size_of(here.dtype));
      if (std::memcmp(here.data, fetched(static_cast<const std::byte*>(there.data), bytes).data(),
                      static_cast<std::size_t>(bytes)) != 0)
        return tensor + "array of role " + std::to_string(role);
    }
  }
  return "";
}

inline void adam_bits(Records& records, const char* section, const std::vector<std::int64_t>& sizes) {
  const std::pair<DType, DType> storages[] = {
      {DType::f32, DType::f32}, {DType::bf16, DType::bf16}, {DType::bf16, DType::f32}, {DType::f16, DType::f32}};
  int number = 0;
  for (const auto& [weight, state] : storages)
    for (const AdamRounding& rounding : {AdamRounding{}, AdamRounding{false}})
      for (const bool masked : {false, true}) {
        const bool more = ++number % 4 < 2;  // in every mixture with masks
        const AdamCase c{weight, state, rounding, masked, number % 3 == 0, more, more ? 1024.0f : 0.0f};
        const std::string name = std::string("Adam, ") + name_of(weight) + ", state " + name_of(state) +
                                 (rounding.contracted ? ", contracted" : "") + (masked ? ", masked" : "");
        attempt(records, section, name, [&] {
          const std::string differs = adam_difference(c, sizes, records.dry());
          records.verdict(Record(section, name), differs.empty(), differs);
        });
      }
}

}  // namespace bittersweet::bench
