// Where the output rows of a weight lie in its memory.
#pragma once

#include "bittersweet/tensor_view.hpp"

namespace bittersweet {

// A geometry speaks of logical indices; this says the same of memory.
struct RowLayout {
  enum Kind {
    strided,   // as `geometry` says of memory, a row's elements in logical order: most weights
    permuted,  // each row is one run of memory, as `geometry` says, its elements in another order: channels_last
    scattered  // anything else: element by element
  } kind = strided;
  Geometry geometry{};
  std::int64_t feature_stride = 0;  // in place of geometry.input_stride for Geometry::feature_of; 0: there is none
};

constexpr RowLayout rows_in_memory(const Geometry& g, const MemoryOrder& order) noexcept {
  if (order.row_major() || g.rows == 0 || g.row_size() == 0) return {RowLayout::strided, g, g.input_stride};
  const std::int64_t row = g.row_size(), block = g.rows_per_block() * row;
  const bool features_stay = g.blocks == 1 || block % order.size() == 0;  // in the block that they belong to
  RowLayout found{RowLayout::scattered, g, 0};
  if (g.rows_are_contiguous()) {
    if (order.q == row) {  // a transposed matrix of rows
      found = {RowLayout::strided, {g.rows, row, 1, 1, order.p, g.rows / order.p}, order.p * g.inner};
    } else if (row % order.size() == 0) {
      found.kind = RowLayout::permuted;
      if (order.p == g.inputs && order.q == g.inner) found.feature_stride = 1;
    }
  } else if (order.p == g.rows_per_block() && order.q == g.inner) {  // a transposed convolution in channels_last
    found = {RowLayout::strided, {g.rows, row, 1, 1, order.p, g.blocks}, g.input_stride};
  } else if (order.p == g.inputs && order.q == g.input_stride &&
             g.inner == 1) {  // rows that a transposition makes runs
    found = {RowLayout::strided, matrix(g.rows, row), 1};
  }
  if (!features_stay) found.feature_stride = 0;
  return found;
}

}  // namespace bittersweet
