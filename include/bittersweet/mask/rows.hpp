// Output rows under a mask.
#pragma once

#include "bittersweet/mask/bit_layout.hpp"
#include "bittersweet/tensor_view.hpp"

namespace bittersweet {

inline bool row_is_empty(const std::uint64_t* mask, const Geometry& g, std::int64_t row) {
  const std::int64_t first = g.first_of(row);
  if (g.rows_are_contiguous()) return bits::none(mask, first, g.row_size());
  for (std::int64_t input = 0; input < g.inputs; ++input)
    if (!bits::none(mask, first + input * g.input_stride, g.inner)) return false;
  return true;
}

// Rows of first .. last that had a live weight under the tensor's current mask and have none under `mask`.
inline std::int64_t emptied_rows(const ScoreInputs& tensor, const std::uint64_t* mask, std::int64_t first,
                                 std::int64_t last) {
  std::int64_t count = 0;
  for (std::int64_t row = first; row < last; ++row)
    count +=
        row_is_empty(mask, tensor.geometry, row) && !(tensor.mask && row_is_empty(tensor.mask, tensor.geometry, row));
  return count;
}

inline std::int64_t emptied_rows(const ScoreInputs& tensor, const std::uint64_t* mask) {
  return tensor.numel == 0 ? 0 : emptied_rows(tensor, mask, 0, tensor.geometry.rows);
}

}  // namespace bittersweet
