// A score is a view, not a tensor: a scorer and the tensors it reads, evaluated where it is needed.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "bittersweet/mask/bit_layout.hpp"
#include "bittersweet/philox.hpp"
#include "bittersweet/score/scorers.hpp"
#include "bittersweet/tensor_view.hpp"

namespace bittersweet {

// All tensors of one call as one sequence: element (tensor t, logical index i) has position offset[t] + i.
struct ScoreView {
  Scorer scorer;
  std::span<const ScoreInputs> tensors;
  std::vector<std::int64_t> offset;  // tensors.size() + 1 entries
  bool modified = false;             // does any tensor have a modifier other than 1?

  std::int64_t size() const noexcept { return offset.back() - offset.front(); }
};

// The view, after checking that every tensor has what the scorer reads. Throws MissingStateError, DTypeError,
// ShapeError or ArgumentError that names the tensor.
inline ScoreView make_view(std::span<const ScoreInputs> tensors, const Scorer& scorer) {
  ScoreView view{scorer, tensors, {0}, false};
  const ScorerInfo info = info_of(scorer);
  std::visit(
      [&](const auto& s) {
        if constexpr (requires { s.eps; })
          if (!(s.eps >= 0.0f))
            throw ArgumentError("eps: " + std::to_string(s.eps) + " for scorer '" + std::string(info.name) +
                                "'; a number from 0 is accepted");
      },
      scorer);
  for (const ScoreInputs& tensor : tensors) {
    const std::string name(tensor.name);
    const auto require = [&](std::uint32_t role, const TensorView& input, const char* argument) {
      if (!(info.reads & role)) return;
      if (input.dtype == DType::none)
        throw MissingStateError(std::string(argument) + ": scorer '" + std::string(info.name) +
                                "' reads it and tensor '" + name + "' has none; give it, or choose another scorer");
      if (input.data == nullptr && tensor.numel > 0)
        throw ArgumentError(std::string(argument) + ": null pointer for tensor '" + name + "' of " +
                            std::to_string(tensor.numel) + " elements");
    };
    if (tensor.numel < 0) throw ShapeError("numel: " + std::to_string(tensor.numel) + " in tensor '" + name + "'");
    require(reads::weight, tensor.weight, "weight");
    require(reads::exp_avg, tensor.exp_avg, "exp_avg");
    require(reads::exp_avg_sq, tensor.exp_avg_sq, "exp_avg_sq");
    require(reads::grad, tensor.grad, "grad");
    require(reads::input_norm, tensor.input_norm, "input_norm");
    require(reads::scores, tensor.scores, "scores");
    if ((info.reads & reads::input_norm) && tensor.input_norm.dtype != DType::f32)
      throw DTypeError("input_norm: " + std::string(name_of(tensor.input_norm.dtype)) + " in tensor '" + name +
                       "'; float32 is accepted");
    const Geometry& g = tensor.geometry;
    if (g.rows * g.inputs * g.inner != tensor.numel)
      throw ShapeError("geometry: rows * inputs * inner is " + std::to_string(g.rows * g.inputs * g.inner) +
                       " but tensor '" + name + "' has " + std::to_string(tensor.numel) + " elements");
    if (g.blocks < 1 || g.rows % g.blocks != 0)
      throw ShapeError("geometry: " + std::to_string(g.blocks) + " blocks of " + std::to_string(g.rows) +
                       " rows in tensor '" + name + "'; a number from 1 that divides the rows is accepted");
    const MemoryOrder& order = tensor.order;
    if (order.p < 1 || order.q < 1 || tensor.numel % order.size() != 0)
      throw ShapeError("order: matrices of " + std::to_string(order.p) + " x " + std::to_string(order.q) +
                       " in tensor '" + name + "' of " + std::to_string(tensor.numel) +
                       " elements; numbers from 1 whose product divides the elements are accepted");
    view.modified |= tensor.modifier != 1.0f;
    view.offset.push_back(view.offset.back() + tensor.numel);
  }
  return view;
}

// Tensor t alone, at its place in the whole sequence (positions, and so random numbers, stay the same).
inline ScoreView only(const ScoreView& view, std::size_t t) {
  const ScoreInputs& tensor = view.tensors[t];
  return {view.scorer, view.tensors.subspan(t, 1), {view.offset[t], view.offset[t + 1]}, tensor.modifier != 1.0f};
}

// The tensor that holds `position` of the whole sequence.
inline std::size_t tensor_at(const ScoreView& view, std::int64_t position) {
  return static_cast<std::size_t>(std::upper_bound(view.offset.begin(), view.offset.end(), position) -
                                  view.offset.begin()) -
         1;
}

// The position that the random number of the tensor's first element has.
inline std::int64_t origin_of(const ScoreView& view, std::size_t t) noexcept {
  return view.tensors[t].origin >= 0 ? view.tensors[t].origin : view.offset[t];
}

// Indices are of memory from here on.
inline bool is_live(const ScoreInputs& tensor, std::int64_t index) noexcept {
  return tensor.mask == nullptr || bits::get(tensor.mask, index);
}

// The score of the i-th element in memory: the definition that every engine reproduces bit for bit.
template <class S>
float score_element(const S& scorer, const ScoreView& view, std::size_t t, std::int64_t i) {
  constexpr std::uint32_t r = S::info.reads;
  const ScoreInputs& tensor = view.tensors[t];
  Elements<float> x{};
  if constexpr (r & reads::weight) x.w = load_as_float(tensor.weight.data, tensor.weight.dtype, i);
  if constexpr (r & reads::exp_avg) x.m = load_as_float(tensor.exp_avg.data, tensor.exp_avg.dtype, i);
  if constexpr (r & reads::exp_avg_sq) x.v = load_as_float(tensor.exp_avg_sq.data, tensor.exp_avg_sq.dtype, i);
  if constexpr (r & reads::grad) x.g = load_as_float(tensor.grad.data, tensor.grad.dtype, i);
  if constexpr (r & reads::scores) x.score = load_as_float(tensor.scores.data, tensor.scores.dtype, i);
  if constexpr (r & reads::input_norm)
    x.norm = static_cast<const float*>(tensor.input_norm.data)[tensor.geometry.feature_of(tensor.order.logical_of(i))];
  if constexpr (r & reads::position)
    x.uniform = uniform_at(scorer.seed, Purpose::random_score,
                           static_cast<std::uint64_t>(origin_of(view, t) + tensor.order.logical_of(i)));
  x.bias_correction1 = tensor.bias_correction1;
  return scorer(x) * tensor.modifier;
}

}  // namespace bittersweet
