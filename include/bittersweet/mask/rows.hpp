// Output rows under a mask.
#pragma once

#include "bittersweet/mask/bit_layout.hpp"
#include "bittersweet/rows.hpp"

namespace bittersweet {

inline bool row_is_empty(const std::uint64_t* mask, const RowLayout& rows, const MemoryOrder& order, std::int64_t row) {
  const Geometry& g = rows.geometry;
  const std::int64_t first = g.first_of(row);
  if (rows.kind != RowLayout::scattered && g.rows_are_contiguous()) return bits::none(mask, first, g.row_size());
  for (std::int64_t input = 0; input < g.inputs; ++input) {
    const std::int64_t at = first + input * g.input_stride;
    if (rows.kind == RowLayout::strided) {
      if (!bits::none(mask, at, g.inner)) return false;
      continue;
    }
    for (std::int64_t inner = 0; inner < g.inner; ++inner)
      if (bits::get(mask, order.memory_of(at + inner))) return false;
  }
  return true;
}

// Rows of first .. last that had a live weight under the tensor's current mask and have none under `mask`.
inline std::int64_t emptied_rows(const ScoreInputs& tensor, const RowLayout& rows, const std::uint64_t* mask,
                                 std::int64_t first, std::int64_t last) {
  if (tensor.numel == 0) return 0;
  std::int64_t count = 0;
  const Geometry& g = rows.geometry;
  const auto look = [&](std::int64_t row) {
    count += row_is_empty(mask, rows, tensor.order, row) &&
             !(tensor.mask && row_is_empty(tensor.mask, rows, tensor.order, row));
  };
  if (rows.kind != RowLayout::scattered && g.rows_are_contiguous()) {
    const std::int64_t size = g.row_size(), head = std::min(size, bits::per_word);
    const std::int64_t of_word = bits::per_word % size == 0 ? bits::per_word / size : 1;
    for (std::int64_t row = first; row < last;) {
      if (of_word > 1 && row % of_word == 0 && row + of_word <= last) {  // a word of rows at once
        for (std::uint64_t empty = bits::empty_runs(mask[row / of_word], size); empty != 0;
             empty = bits::without_lowest(empty))
          look(row + bits::lowest_or_width(empty) / size);
        row += of_word;
      } else {  // the head of a row tells most often
        if (bits::read(mask, row * size, head) == 0) look(row);
        ++row;
      }
    }
  } else {
    for (std::int64_t row = first; row < last; ++row) look(row);
  }
  return count;
}

inline std::int64_t emptied_rows(const ScoreInputs& tensor, const std::uint64_t* mask) {
  return emptied_rows(tensor, rows_in_memory(tensor.geometry, tensor.order), mask, 0, tensor.geometry.rows);
}

}  // namespace bittersweet
