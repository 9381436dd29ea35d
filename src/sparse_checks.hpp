// What the public functions of packed matrices check, whatever their layout.
#pragma once

#include <string>

#include "bittersweet/error.hpp"
#include "bittersweet/sparse/packed_matrix.hpp"

namespace bittersweet::sparse {

inline void check_array(const char* name, const TensorView& array, std::int64_t count) {
  if (array.dtype == DType::none)
    throw DTypeError(std::string(name) + ": no dtype; accepted: float32, float16, bfloat16");
  if (count > 0 && array.data == nullptr)
    throw LayoutError(std::string(name) + ": there is no memory for " + std::to_string(count) + " elements");
  if (reinterpret_cast<std::uintptr_t>(array.data) % size_of(array.dtype) != 0)
    throw LayoutError(std::string(name) + ": its address is not a multiple of the size of " + name_of(array.dtype) +
                      "; copy it to aligned memory");
}

inline void check_shape(std::int64_t rows, std::int64_t columns) {
  constexpr std::int64_t most = std::int64_t{1} << 31;
  if (rows < 0 || columns < 0 || rows > most || columns > most)
    throw ShapeError("matrix: " + std::to_string(rows) + " rows and " + std::to_string(columns) +
                     " columns; accepted: 0 to 2^31 of each");
}

inline void check_dense(const DenseMatrix& dense) {
  check_shape(dense.rows, dense.columns);
  check_array("matrix", dense.elements, dense.rows * dense.columns);
}

inline void check_rows(std::int64_t all, std::int64_t first, std::int64_t rows, std::int64_t unit, const char* whole) {
  if (first < 0 || rows < 0 || first > all || rows > all - first || first % unit != 0 ||
      (rows % unit != 0 && first + rows != all))
    throw ShapeError("rows: " + std::to_string(rows) + " from " + std::to_string(first) + " on, of " +
                     std::to_string(all) + "; accepted: whole " + whole);
}

inline void check_product(std::int64_t rows, std::int64_t columns, const StripProduct& product) {
  if (product.batch < 0) throw ShapeError("batch: " + std::to_string(product.batch) + "; accepted: 0 or more");
  check_array("x", product.x, product.batch * columns);
  check_array("y", product.y, product.batch * rows);
  if (product.bias.data != nullptr) check_array("bias", product.bias, rows);
}

inline void refuse_lost(std::int64_t lost) {
  if (lost > 0)
    throw ArgumentError("keep: " + std::to_string(lost) +
                        " elements that it drops are not +0, and packing would lose them; write the zeros first "
                        "(apply_masks, in Python apply_masks_), or pack without masks");
}

}  // namespace bittersweet::sparse
