// The verbs that know masks but no scores walk arrays: one entry for each array of each tensor, in kernel arguments or,
// during a step, in device memory.
#pragma once

#include "verbs.cuh"

namespace bittersweet::cuda {

struct ArrayRow {
  void* data;                 // null where only the mask counts
  const std::uint64_t* mask;  // null: all ones
  std::int64_t numel;
  u32 first;  // number of its first tile within the launch
  u32 tensor;
  DType dtype;
};

inline constexpr u32 most_arrays = 512;

struct ArrayTable {
  u32 count = 0, tiles = 0;
  ArrayRow rows[most_arrays];
};

// f(row, tile within it) for every tile, shared out to the grid's warps.
template <class F>
BITTERSWEET_DEVICE void for_each_array_tile(const ArrayRow* rows, u32 count, u32 tiles, F&& f) {
  u32 row = 0;
  for (u64 t = first_warp(); t < tiles; t += warps()) {
    while (row + 1 < count && t >= rows[row + 1].first) ++row;
    f(rows[row], static_cast<u32>(t) - rows[row].first);
  }
}

// f(table) for tables that hold the rows, as many as fit in one launch's arguments.
template <class F>
void for_each_table(std::span<const ArrayRow> rows, F&& f) {
  for (std::size_t first = 0; first < rows.size(); first += most_arrays) {
    ArrayTable table{};
    for (ArrayRow row : rows.subspan(first, std::min<std::size_t>(most_arrays, rows.size() - first))) {
      row.first = table.tiles;
      table.tiles += tiles_of(row.numel);
      table.rows[table.count++] = row;
    }
    if (table.tiles > 0) f(table);
  }
}

// The chosen arrays of all tensors, those that are there.
inline std::vector<ArrayRow> chosen_arrays(std::span<const ScoreInputs> tensors,
                                           std::span<const std::uint64_t* const> masks, std::uint32_t which) {
  std::vector<ArrayRow> rows;
  for (std::size_t t = 0; t < tensors.size(); ++t)
    for (const std::uint32_t role : roles::all) {
      const TensorView& array = roles::of(tensors[t], role);
      if ((which & role) == 0 || array.dtype == DType::none || array.data == nullptr || masks[t] == nullptr) continue;
      rows.push_back({array.data, masks[t], tensors[t].numel, 0, static_cast<u32>(t), array.dtype});
    }
  return rows;
}

// The masks alone.
inline std::vector<ArrayRow> mask_rows(std::span<const ScoreInputs> tensors,
                                       std::span<const std::uint64_t* const> masks) {
  std::vector<ArrayRow> rows;
  for (std::size_t t = 0; t < tensors.size(); ++t)
    rows.push_back({nullptr, masks[t], tensors[t].numel, 0, static_cast<u32>(t), DType::none});
  return rows;
}

}  // namespace bittersweet::cuda
