// Where the groups of a tensor lie.
#pragma once

#include "bittersweet/engine/summaries.hpp"
#include "bittersweet/mask/bit_layout.hpp"
#include "bittersweet/rows.hpp"

namespace bittersweet::cpu {

// How a tensor's groups are taken: rows and inputs by logical index, and where they lie in memory.
struct Groups {
  Geometry logical;
  RowLayout memory;
  std::int64_t split = 1;  // rows in memory for one of the tensor's

  bool runs() const noexcept { return memory.kind != RowLayout::scattered && memory.geometry.rows_are_contiguous(); }
  bool own_words() const noexcept { return runs() && memory.geometry.row_size() % bits::per_word == 0; }
};

inline Groups groups_of(const ScoreInputs& tensor, const GroupRule& rule) {
  const Geometry& g = tensor.geometry;
  const RowLayout rows = rows_in_memory(g, tensor.order);
  if (rows.kind != RowLayout::permuted || rule.group == 0) return {g, rows};
  if (tensor.order.p != g.inputs || tensor.order.q != g.inner) return {g, {RowLayout::scattered, g, 0}};
  // channels_last: the inputs at one kernel position are neighbours, and so are those of a group.
  const bool whole = g.inputs % rule.group == 0;
  const Geometry runs = whole ? matrix(g.rows, g.row_size()) : matrix(g.rows * g.inner, g.inputs);
  return {runs, {RowLayout::strided, runs, 0}, whole ? 1 : g.inner};
}

}  // namespace bittersweet::cpu
