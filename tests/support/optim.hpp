// Models in the middle of training, options of Adam, and what two equal steps of them leave.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "bittersweet/optim.hpp"
#include "support/compare.hpp"
#include "support/inputs.hpp"

namespace bittersweet::test {

inline Values values_of(const Array& array) {
  return generate(static_cast<std::int64_t>(array.size()),
                  [&](std::int64_t i) { return array[static_cast<std::size_t>(i)]; });
}

// A model whose weights and gradients are stored as `weight`, its states as `state`.
inline Model optim_model(const std::vector<std::int64_t>& sizes, DType weight, DType state, std::uint64_t seed,
                         Placement placement = Placement::offset) {
  Model model = training_model(sizes, {DType::f32}, seed, placement);
  const auto store = [&](Array& array, DType dtype) { array = Array(values_of(array), dtype, placement); };
  for (Tensor& tensor : model.tensors) {
    for (Array* array : {&tensor.weight, &tensor.grad}) store(*array, weight);
    for (Array* array : {&tensor.exp_avg, &tensor.exp_avg_sq, &tensor.max_exp_avg_sq}) store(*array, state);
  }
  return model;
}

inline const std::vector<std::pair<DType, DType>> storages{
    {DType::f32, DType::f32}, {DType::bf16, DType::bf16}, {DType::bf16, DType::f32}, {DType::f16, DType::f32}};

struct Case {
  const char* name;
  AdamOptions options;
  double step;
  AdamCall call;
  bool drawn = false;
};

// Which of a model's tensors round stochastically in a case: two of three.
inline std::vector<std::optional<RoundingKey>> draws_of(const Case& c, std::size_t tensors) {
  std::vector<std::optional<RoundingKey>> draws(c.drawn ? tensors : 0);
  for (std::size_t t = 0; t < draws.size(); ++t)
    if (t % 3 != 2)
      draws[t] =
          RoundingKey{0xfedcba9876543210u, static_cast<std::uint32_t>(c.step), static_cast<std::uint32_t>(1000 + t)};
  return draws;
}

inline const std::vector<Case>& cases() {
  static const std::vector<Case> all{
      {"AdamW", {.lr = 1e-2, .weight_decay = 0.1}, 1, {}},
      {"AdamW, late, rounded one by one",
       {.lr = 1e-3, .beta1 = 0.3, .beta2 = 0.95, .weight_decay = 0.1},
       1000,
       {.rounding = {.contracted = false}}},
      {"Adam, coupled, far from the past",
       {.lr = 1e-2, .beta1 = 0.3, .beta2 = 0.95, .weight_decay = 0.1, .decoupled = false},
       3,
       {.rounding = {.contracted = true, .lanes_f32 = 16, .lanes_16bit = 32}}},
      {"AMSGrad, maximize", {.lr = 1e-2, .beta1 = 0.5, .eps = 0, .amsgrad = true, .maximize = true}, 7, {}},
      {"scaled", {.lr = 1e-2, .decoupled = false}, 2, {.scale = 1024.0f}},
      {"weights alone", {.lr = 1e-2, .weight_decay = 0.1, .amsgrad = true}, 2, {.weights_only = true}},
      {"drawn", {.lr = 1e-2, .weight_decay = 0.1}, 4, {}, true},
      {"drawn, AMSGrad, scaled, rounded one by one",
       {.lr = 1e-2, .beta1 = 0.5, .weight_decay = 0.1, .amsgrad = true},
       70000,
       {.rounding = {.contracted = false}, .scale = 8.0f},
       true},
      {"drawn, weights alone", {.lr = 1e-2, .decoupled = false}, 9, {.weights_only = true}, true},
  };
  return all;
}

inline void expect_same(const Model& expected, const Model& found, const std::string& where) {
  for (std::size_t t = 0; t < expected.tensors.size(); ++t) {
    const auto of_expected = expected.tensors[t].arrays(), of_found = found.tensors[t].arrays();
    for (std::size_t a = 0; a < of_expected.size(); ++a)
      EXPECT_TRUE(same_floats(values_of(*of_expected[a]), values_of(*of_found[a])))
          << where << ", tensor " << t << ", array " << a;
  }
  EXPECT_TRUE(found.intact()) << where;
}

}  // namespace bittersweet::test
