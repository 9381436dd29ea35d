// Borrowed tensors: pointers and shapes, never owners. What a scorer reads is a ScoreInputs per tensor.
#pragma once

#include <cstdint>
#include <string_view>

#include "bittersweet/dtype.hpp"

namespace bittersweet {

// Contiguous row-major memory (host; a GPU for cuda.hpp). `data == nullptr` means "not given" (or zero elements).
struct TensorView {
  void* data = nullptr;
  DType dtype = DType::none;
};

inline TensorView view(float* data) noexcept { return {data, DType::f32}; }
inline TensorView view(const float* data) noexcept { return {const_cast<float*>(data), DType::f32}; }

// How a weight's elements form output rows: element (row, input, inner) sits at
// row * row_stride + input * input_stride + inner. Linear (out, in): {out, in, 1, in, 1}. Conv2d (O, I, kH, kW):
// {O, I, kH*kW, I*kH*kW, kH*kW}. Transposed (in, out), as in transformers' Conv1D: {out, in, 1, 1, out}.
struct Geometry {
  std::int64_t rows = 1;
  std::int64_t inputs = 0;
  std::int64_t inner = 1;
  std::int64_t row_stride = 0;
  std::int64_t input_stride = 1;

  std::int64_t row_size() const noexcept { return inputs * inner; }
  bool rows_are_contiguous() const noexcept { return input_stride == inner && row_stride == row_size(); }
};

inline Geometry flat(std::int64_t numel) noexcept { return {1, numel, 1, numel, 1}; }
inline Geometry matrix(std::int64_t rows, std::int64_t columns) noexcept { return {rows, columns, 1, columns, 1}; }

// One weight tensor and all that a scorer may read beside it. Everything is borrowed for the length of a call.
// Element i of every array belongs to element i of the weight (its logical row-major index).
struct ScoreInputs {
  TensorView weight{};
  TensorView exp_avg{};     // Adam's m
  TensorView exp_avg_sq{};  // Adam's v
  TensorView grad{};
  TensorView input_norm{};              // WANDA: one f32 per input feature, `geometry.inputs` of them
  TensorView scores{};                  // Identity: scores that the caller computed
  TensorView max_exp_avg_sq{};          // AMSGrad's buffer; never scored, masked on request
  const std::uint64_t* mask = nullptr;  // current keep bits (mask/bit_layout.hpp); null: every element is live
  std::int64_t numel = 0;
  Geometry geometry{};
  std::int64_t dimension_sum = 0;  // sum of the sizes of the shape (Erdos-Renyi-Kernel budgets); 0: rows + inputs
  float modifier = 1.0f;           // multiplies every score of this tensor
  float bias_correction1 = 1.0f;   // 1 - beta1^t of this tensor
  std::string_view name{};         // for error messages
};

}  // namespace bittersweet
