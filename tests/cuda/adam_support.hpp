// Models in the middle of their training, for the optimizer's pass, and what the reference engine makes of them.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <string>

#include "bittersweet/cuda.hpp"
#include "bittersweet/engine/reference_optim.hpp"
#include "support/compare.hpp"
#include "support/inputs.hpp"

namespace bittersweet::test {

struct AdamStorage {
  DType weight, state;
};

inline constexpr std::array adam_storages{AdamStorage{DType::f32, DType::f32}, AdamStorage{DType::bf16, DType::bf16},
                                          AdamStorage{DType::bf16, DType::f32}, AdamStorage{DType::f16, DType::f32}};

// Where arrays lie. aligned: at a multiple of 16 bytes, up to 15 bytes before a page that cannot be touched.
enum class AdamPlacement { aligned, flush, offset };

struct AdamTensor {
  std::int64_t numel = 0;
  Array w{}, g{}, m{}, v{}, largest{};
  Words mask{};
  bool masked = false, trusted = false;
  AdamOptions options{};
  float step = 0;  // of steps made so far
  float lr = -1;   // in device memory, where not negative

  std::array<Array*, 5> arrays() { return {&w, &g, &m, &v, &largest}; }
  std::array<const Array*, 5> arrays() const { return {&w, &g, &m, &v, &largest}; }
  bool is_dead(std::size_t i) const { return masked && !bits::get(mask.data(), static_cast<std::int64_t>(i)); }
  ScoreInputs inputs() const {
    return {.weight = w.view(),
            .exp_avg = m.view(),
            .exp_avg_sq = v.view(),
            .grad = g.view(),
            .max_exp_avg_sq = largest.view(),
            .mask = masked ? mask.data() : nullptr,
            .numel = numel};
  }
};

inline AdamTensor adam_tensor(std::int64_t numel, AdamStorage storage, std::uint64_t seed,
                              AdamPlacement placement = AdamPlacement::aligned) {
  const bool aligned = placement == AdamPlacement::aligned;
  const std::int64_t room = aligned ? (numel + 7) / 8 * 8 : numel;
  const auto array = [&](DType dtype, double size, std::uint64_t purpose, bool positive) {
    const Values values = generate(room, [&, r = Generator(seed * 16 + purpose)](std::int64_t) mutable {
      const double x = size * r.normal() * std::exp(4.0 * r.normal());  // over many powers of ten
      return positive ? x * x : x;
    });
    return Array(values, dtype, placement == AdamPlacement::offset ? Placement::offset : Placement::flush);
  };
  AdamTensor tensor{.numel = numel};
  tensor.w = array(storage.weight, 0.02, 1, false);
  tensor.g = array(storage.weight, 1e-3, 2, false);
  tensor.m = array(storage.state, 1e-3, 3, false);
  tensor.v = array(storage.state, 1e-3, 4, true);
  tensor.largest = array(storage.state, 1e-3, 5, true);
  tensor.step = static_cast<float>(seed % 7);
  return tensor;
}

struct AdamModel {
  std::vector<AdamTensor> tensors;

  void set_masks(double dead, std::uint64_t seed) {
    for (AdamTensor& tensor : tensors) {
      tensor.mask = random_mask(tensor.numel, dead, ++seed);
      tensor.masked = true;
    }
  }
  void set_options(const AdamOptions& options) {
    for (AdamTensor& tensor : tensors) tensor.options = options;
  }
  std::vector<ScoreInputs> inputs() const {
    std::vector<ScoreInputs> all;
    for (const AdamTensor& tensor : tensors) all.push_back(tensor.inputs());
    return all;
  }
  std::vector<AdamOptions> options() const {
    std::vector<AdamOptions> all;
    for (const AdamTensor& tensor : tensors) all.push_back(tensor.options);
    return all;
  }
  std::vector<std::uint8_t> trusted() const {
    std::vector<std::uint8_t> all;
    for (const AdamTensor& tensor : tensors) all.push_back(tensor.trusted);
    return all;
  }
  std::vector<std::vector<unsigned char>> bytes() const {
    std::vector<std::vector<unsigned char>> all;
    for (const AdamTensor& tensor : tensors)
      for (const Array* array : tensor.arrays()) all.push_back(array->bytes());
    return all;
  }
  bool intact() const {
    return std::ranges::all_of(tensors, [](const AdamTensor& tensor) {
      return std::ranges::all_of(tensor.arrays(), [](const Array* array) { return array->intact(); });
    });
  }
};

// Sizes around vectors, words and tiles, each tensor with a count of its own.
inline AdamModel adam_model(AdamStorage storage, std::uint64_t seed, AdamPlacement placement = AdamPlacement::aligned,
                            const std::vector<std::int64_t>& sizes = {1, 0, 3, 7, 8, 31, 33, 127, 1023, 1024, 1030,
                                                                      2100}) {
  AdamModel model;
  for (const std::int64_t n : sizes) model.tensors.push_back(adam_tensor(n, storage, ++seed, placement));
  return model;
}

// One step of the reference engine; the tensors' dirty flags.
inline std::vector<std::uint32_t> reference_step(AdamModel& model, const AdamCall& call) {
  std::vector<ScoreInputs> inputs = model.inputs();
  std::vector<AdamStep> steps;
  for (std::size_t t = 0; t < inputs.size(); ++t) {
    AdamTensor& tensor = model.tensors[t];
    AdamOptions options = tensor.options;
    if (tensor.lr >= 0) options.lr = static_cast<double>(tensor.lr);
    if (!options.amsgrad) inputs[t].max_exp_avg_sq = {};
    tensor.step += 1;
    steps.push_back(make_adam_step(options, static_cast<double>(tensor.step), call.scale));
  }
  std::vector<std::uint8_t> dirty(inputs.size());
  ReferenceStepper().step_adam(inputs, {}, steps, call, model.trusted(), dirty);
  return {dirty.begin(), dirty.end()};
}

}  // namespace bittersweet::test
