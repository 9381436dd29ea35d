// Addresses that Python sends, looked at before anything is read through them: an error in the place of a crash.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "bittersweet/error.hpp"
#include "bittersweet/tensor_view.hpp"

namespace bittersweet::python {

// `count` objects at an address; null only where there are none.
template <class T>
T* address(std::uint64_t word, std::int64_t count, const char* what) {
  if (count < 0) throw ShapeError(std::string(what) + ": " + std::to_string(count) + " elements");
  if (count > 0 && word == 0)
    throw LayoutError(std::string(what) + ": there is no memory for " + std::to_string(count) + " elements");
  if (word % alignof(T) != 0) throw LayoutError(std::string(what) + ": its address is not a multiple of its alignment");
  return reinterpret_cast<T*>(static_cast<std::uintptr_t>(word));
}

// An order of memory fits so many elements.
inline void check_order(const MemoryOrder& order, std::int64_t numel, const char* what) {
  const std::int64_t most = std::max<std::int64_t>(numel, 1);
  if (order.p < 1 || order.q < 1 || order.p > most || order.q > most / order.p || numel % order.size() != 0)
    throw LayoutError(std::string(what) + ": an order of memory that " + std::to_string(numel) +
                      " elements do not have");
}

// What holds for every row of the table, whatever will be read of it.
inline void check_row(const ScoreInputs& row, const std::uint64_t* new_mask) {
  if (row.numel < 0) throw ShapeError("table: " + std::to_string(row.numel) + " elements");
  check_order(row.order, row.numel, "table");
  for (const TensorView* array :
       {&row.weight, &row.exp_avg, &row.exp_avg_sq, &row.grad, &row.input_norm, &row.scores, &row.max_exp_avg_sq})
    if (array->data != nullptr && array->dtype == DType::none) throw DTypeError("table: an array without a dtype");
  for (const std::uint64_t* words : {row.mask, new_mask})
    if (reinterpret_cast<std::uintptr_t>(words) % alignof(std::uint64_t) != 0)
      throw LayoutError("table: a mask whose address is not a multiple of 8");
}

}  // namespace bittersweet::python
