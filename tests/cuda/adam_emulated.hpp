// The optimizer's pass of the CUDA engine on the emulator, and comparison with the reference engine, bit by bit.
#pragma once

#include "cuda/adam_support.hpp"
#include "support/simt/emulated.hpp"

namespace bittersweet::test {

inline constexpr AdamOptions telling{
    .beta1 = 0.3, .beta2 = 0.95, .weight_decay = 0.1};  // betas at which roundings differ

// What one call leaves beside the arrays.
struct Left {
  std::vector<float> steps;
  std::vector<std::uint32_t> dirty;
  int launches;
};

// The scale of `call` is one in memory.
inline Left emulated_step(AdamModel& model, const AdamCall& call = {}, const float* found_inf = nullptr,
                          std::uint64_t seed = 1) {
  Left left;
  std::vector<float*> steps;
  std::vector<const float*> lr;
  for (AdamTensor& tensor : model.tensors) {
    steps.push_back(&tensor.step);
    lr.push_back(tensor.lr >= 0 ? &tensor.lr : nullptr);
  }
  left.dirty.assign(model.tensors.size(), 7);
  const std::vector<std::uint8_t> trusted = model.trusted();
  std::vector<std::optional<RoundingKey>> draws(call.draws.begin(), call.draws.end());
  for (auto& draw : draws)
    if (draw) draw->step = 123456;  // the counts stand for it
  left.launches = EmulatedCuda(seed, seed % 3 + 1)
                      .step_adam(model.inputs(), model.options(),
                                 {.rounding = call.rounding,
                                  .weights_only = call.weights_only,
                                  .steps = steps,
                                  .lr = lr,
                                  .trusted = trusted,
                                  .draws = draws,
                                  .grad_scale = call.scale != 0 || seed % 2 == 0 ? &call.scale : nullptr,
                                  .found_inf = found_inf,
                                  .dirty = left.dirty.data()});
  for (const AdamTensor& tensor : model.tensors) left.steps.push_back(tensor.step);
  return left;
}

inline void expect_same(const AdamModel& expected, const AdamModel& found) {
  constexpr const char* names[] = {"weight", "grad", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"};
  for (std::size_t t = 0; t < expected.tensors.size(); ++t) {
    const AdamTensor &want = expected.tensors[t], &got = found.tensors[t];
    EXPECT_EQ(want.step, got.step) << "step of tensor " << t;
    for (std::size_t a = 0; a < 5; ++a) {
      if (want.arrays()[a]->bytes() == got.arrays()[a]->bytes()) continue;
      for (std::size_t i = 0; i < want.arrays()[a]->size(); ++i) {
        const float x = (*want.arrays()[a])[i], y = (*got.arrays()[a])[i];
        if (!same_bits(x, y)) {
          ADD_FAILURE() << names[a] << "[" << i << "] of tensor " << t << " of " << want.numel << ": " << show(x)
                        << " expected, found " << show(y);
          break;
        }
      }
    }
  }
  EXPECT_TRUE(found.intact());
}

inline void expect_like_reference(AdamModel model, const AdamCall& call = {}, int calls = 2, std::uint64_t seed = 1) {
  AdamModel expected = model;
  for (int i = 0; i < calls; ++i) {
    const std::vector<std::uint32_t> dirty = reference_step(expected, call);
    EXPECT_EQ(emulated_step(model, call, nullptr, ++seed).dirty, dirty);
  }
  expect_same(expected, model);
}

inline std::string show(AdamStorage storage, AdamPlacement placement) {
  return std::string(bittersweet::name_of(storage.weight)) + "/" + std::string(bittersweet::name_of(storage.state)) +
         ", placement " + std::to_string(static_cast<int>(placement));
}

}  // namespace bittersweet::test
