// Borrowed tensors: pointers and shapes, never owners. What a scorer reads is a ScoreInputs per tensor.
#pragma once

#include <cstdint>
#include <string_view>

#include "bittersweet/dtype.hpp"
#include "bittersweet/memory_order.hpp"

namespace bittersweet {

// Memory without gaps (host; a GPU for cuda.hpp). `data == nullptr` means "not given" (or zero elements).
struct TensorView {
  void* data = nullptr;
  DType dtype = DType::none;
};

inline TensorView view(float* data) noexcept { return {data, DType::f32}; }
inline TensorView view(const float* data) noexcept { return {const_cast<float*>(data), DType::f32}; }

// How a weight's elements form output rows, by their logical row-major indices. The rows fall into `blocks` equal runs,
// one after another, and each block reads input features of its own. Element (input, inner) of a block's r-th row sits
// at r * row_stride + input * input_stride + inner from the block's start.
//   Linear (out, in)                                {out, in, 1, in, 1}
//   (in, out), as in transformers' Conv1D           {out, in, 1, 1, out}
//   Conv2d (O, I, kH, kW)                           {O, I, kH*kW, I*kH*kW, kH*kW}
//   Conv2d in G groups (O, I/G, kH, kW)             {O, I/G, kH*kW, I/G*kH*kW, kH*kW, G}
//   ConvTranspose1d in G groups (I, O/G, k)         {O, I/G, k, k, O/G*k, G}
//   experts (E, in, out)                            {E*out, in, 1, 1, out, E}
struct Geometry {
  std::int64_t rows = 1;
  std::int64_t inputs = 0;  // that one row reads
  std::int64_t inner = 1;
  std::int64_t row_stride = 0;
  std::int64_t input_stride = 1;
  std::int64_t blocks = 1;

  constexpr std::int64_t row_size() const noexcept { return inputs * inner; }
  constexpr std::int64_t rows_per_block() const noexcept { return blocks == 1 ? rows : rows / blocks; }
  constexpr std::int64_t features() const noexcept { return blocks * inputs; }  // of all blocks
  constexpr bool rows_are_contiguous() const noexcept { return input_stride == inner && row_stride == row_size(); }

  // The row's first element.
  constexpr std::int64_t first_of(std::int64_t row) const noexcept {
    if (blocks == 1 || rows_are_contiguous()) return row * row_stride;
    return row / rows_per_block() * (rows_per_block() * row_size()) + row % rows_per_block() * row_stride;
  }

  // The input that element `index` multiplies, of those of its block; and of features().
  constexpr std::int64_t input_of(std::int64_t index) const noexcept {
    return input_stride <= 0 ? 0 : index / input_stride % inputs;
  }
  constexpr std::int64_t feature_of(std::int64_t index) const noexcept {
    if (input_stride <= 0) return 0;
    const std::int64_t feature = index / input_stride % inputs;
    return blocks == 1 ? feature : index / (rows_per_block() * row_size()) * inputs + feature;
  }
};

inline Geometry flat(std::int64_t numel) noexcept { return {1, numel, 1, numel, 1}; }
inline Geometry matrix(std::int64_t rows, std::int64_t columns) noexcept { return {rows, columns, 1, columns, 1}; }

// One weight tensor and all that a scorer may read beside it. Everything is borrowed for the length of a call.
// Element i in memory of every array, and bit i of every mask, belongs to element i of the weight in memory; `order`
// says which element that is. Ties, rows, groups and random numbers go by the logical index.
struct ScoreInputs {
  TensorView weight{};
  TensorView exp_avg{};     // Adam's m
  TensorView exp_avg_sq{};  // Adam's v
  TensorView grad{};
  TensorView input_norm{};              // WANDA: one f32 per input feature, geometry.features() of them
  TensorView scores{};                  // Identity: scores that the caller computed
  TensorView max_exp_avg_sq{};          // AMSGrad's buffer; never scored, masked on request
  const std::uint64_t* mask = nullptr;  // current keep bits (mask/bit_layout.hpp); null: every element is live
  std::int64_t numel = 0;
  Geometry geometry{};
  MemoryOrder order{};             // scope global of cuda.hpp takes row-major alone
  std::int64_t dimension_sum = 0;  // sum of the sizes of the shape (Erdos-Renyi-Kernel budgets); 0: rows + inputs
  float modifier = 1.0f;           // multiplies every score of this tensor
  float bias_correction1 = 1.0f;   // 1 - beta1^t of this tensor
  std::string_view name{};         // for error messages
  std::int64_t origin = -1;        // position of element 0 for random numbers; -1: after the tensors before it
};

}  // namespace bittersweet
