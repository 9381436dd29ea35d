// Packed matrices as three arrays by their addresses, whatever their layout.
#pragma once

#include <string>
#include <tuple>

#include "bittersweet/sparse.hpp"
#include "table.hpp"

namespace bittersweet::python {

inline DType to_dtype(int code) {
  if (code < 1 || code > 3) throw DTypeError("dtype: unknown code " + std::to_string(code));
  return static_cast<DType>(code);
}

inline TensorView array_at(std::uintptr_t word, int dtype, std::int64_t count, const char* what) {
  return {address<char>(word, count, what), to_dtype(dtype)};
}

// Addresses and lengths of masks (strips) or codes (delta), values and offsets; dtype, rows, columns.
using PackedArrays = std::tuple<std::uintptr_t, std::int64_t, std::uintptr_t, std::int64_t, std::uintptr_t,
                                std::int64_t, int, std::int64_t, std::int64_t>;

inline void check_length(const char* what, std::int64_t found, std::int64_t expected) {
  if (found == expected) return;
  throw LayoutError("packed weight: " + std::to_string(found) + " " + what + "; its shape and offsets speak of " +
                    std::to_string(expected));
}

// The delta matrix of these arrays, which have so many steps. Addresses of the host, or of a device.
inline DeltaMatrix delta_of(const PackedArrays& arrays, std::int64_t steps) {
  const auto& [codes, code_count, values, value_count, offsets, offset_count, dtype, height, width] = arrays;
  if (height < 0 || width < 0) throw ShapeError("packed weight: a negative number of rows or columns");
  check_length("offsets", offset_count, delta::groups(height, width) + 2);
  check_length("codes", code_count, delta::codes(height, width, steps));
  check_length("values", value_count, delta::group * steps);
  return {.rows = height,
          .columns = width,
          .codes = address<const std::uint8_t>(codes, code_count, "codes"),
          .values = array_at(values, dtype, value_count, "values"),
          .offsets = address<const std::uint64_t>(offsets, offset_count, "offsets")};
}

// `matrix` is the packed one; all arrays of the product have one dtype.
template <class Matrix>
StripProduct product_of(const Matrix& matrix, std::uintptr_t x, std::int64_t batch, std::uintptr_t bias,
                        std::uintptr_t y, int dtype, bool reproducible) {
  return {.x = array_at(x, dtype, batch * matrix.columns, "x"),
          .y = array_at(y, dtype, batch * matrix.rows, "y"),
          .batch = batch,
          .bias = {address<char>(bias, 0, "bias"), to_dtype(dtype)},
          .reproducible = reproducible};
}

}  // namespace bittersweet::python
