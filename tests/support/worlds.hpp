// Models over ranks on which several suites run.
#pragma once

#include "support/ranks.hpp"

namespace bittersweet::test {

inline constexpr const char* kinds[] = {"half_normal",  "bf16_rounded", "all_equal",    "all_zero",
                                        "mostly_zeros", "narrow",       "three_values", "student_t",
                                        "denormals",    "sorted",       "infinities",   "ternary",
                                        "bitter7_like", "signed_zeros", "row_scale",    "any_number"};

inline Values values_of(const char* kind, std::int64_t n, std::uint64_t seed) {
  if (std::string_view(kind) != "narrow") return values_named(kind, n, seed);
  return generate(n, [r = Generator(seed)](std::int64_t) mutable { return 1.0 + 1e-3 * r.uniform(); });
}

// ---- larger models, whose bracket comes from a sample ----

inline const std::vector<Shape>& large_shapes() {
  static const std::vector<Shape> shapes{{300, 200}, {64, 32, 9}, {1, 500}, {77, 1}};
  return shapes;
}

inline World large_world(const char* kind, const Cut& cut, std::int64_t ranks, DType dtype = DType::f32,
                         double dead = 0) {
  std::vector<Values> values;
  for (const Shape& shape : large_shapes()) values.push_back(values_of(kind, numel_of(shape), 1 + values.size()));
  Model model = model_of(values, dtype);
  for (Tensor& tensor : model.tensors) {
    tensor.exp_avg_sq = Array(second_moments(tensor.numel, 3), dtype);
    tensor.exp_avg = Array(half_normal(tensor.numel, 4), dtype);
  }
  if (dead > 0) model.set_masks(dead, 5);
  return cut_model(std::move(model), large_shapes(), cut, ranks);
}

// Worlds in which every kind of round comes up.
struct Try {
  const char* name;
  World world;
  PruneOptions options{};
  RunSettings settings{};
};

inline std::vector<Try> tries() {
  std::vector<Try> all;
  all.push_back({"normal", large_world("half_normal", cuts()[0], 3)});
  all.push_back({"runs", large_world("three_values", cuts()[3], 3), {}, {.bins = 64}});
  all.push_back(
      {"digits", large_world("half_normal", cuts()[2], 4), {.selector = Exact{.guess = Bracket{1.0f, 2.0f}}}});
  all.push_back({"by tensor", large_world("half_normal", cuts()[4], 4), {.scope = {Scope::tensor}}});
  all.push_back({"caps", large_world("row_scale", cuts()[0], 2), {.max_tensor_sparsity = 0.6}});
  const World ranged = large_world("row_scale", cuts()[0], 2);
  std::vector<CountRange> ranges;
  for (const Tensor& tensor : ranged.whole.tensors) ranges.push_back({tensor.numel / 3, tensor.numel * 3 / 5});
  all.push_back({"ranges", large_world("row_scale", cuts()[0], 2), {.tensor_sparsity = ranges}});
  all.push_back({"rows", large_world("half_normal", cuts()[0], 2), {.scope = {Scope::row}}});
  all.push_back({"threshold", large_world("half_normal", cuts()[1], 4), {}, {.threshold_only = true}});
  return all;
}

}  // namespace bittersweet::test
