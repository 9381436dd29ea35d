// How a matrix of few values lies in memory when each of them has its column beside it, as a difference of one byte.
// The only file that knows it.
//
// Panel p is rows 256 p .. 256 p + 255, padded to a multiple of 32; a block is a panel's part of width(columns)
// columns, which is at most 255. In each block the rows are sorted by their number of values, most first, equal ones
// in order, and 32 of them that follow one another are a group. Step k of a group is value k of each of its rows, for
// as many steps as its first row has values. Of each group, in the order of panel, block and group:
//   offsets  [groups + 2]: its first step; then the number of all steps, and that of the values that are stored
//   codes    of a block: one byte a row of the panel, its place among the sorted; then 32 of each step: 0 where the row
//            has no such value, else 1 + the value's column - the first column of the block, ascending in a row
//   values   32 of each step, as they were; -0 where the code is 0
// So 32 rows are 32 lanes, and a block's part of the input is a table of 256 entries that fits in registers: the entry
// of code 0 is +0, and its product with -0 changes no sum.
#pragma once

#include <cstdint>

#include "bittersweet/dtype.hpp"

namespace bittersweet::delta {

inline constexpr std::int64_t height = 256, group = 32, most_columns = 255, entries = 256;

constexpr std::int64_t panels(std::int64_t rows) noexcept { return (rows + height - 1) / height; }
constexpr std::int64_t blocks(std::int64_t columns) noexcept { return (columns + most_columns - 1) / most_columns; }

// Of every block but the last, which may have less: as equal as can be.
constexpr std::int64_t width(std::int64_t columns) noexcept {
  return columns == 0 ? 0 : (columns + blocks(columns) - 1) / blocks(columns);
}
constexpr std::int64_t width_of(std::int64_t columns, std::int64_t block) noexcept {
  const std::int64_t left = columns - block * width(columns);
  return left < width(columns) ? left : width(columns);
}

constexpr std::int64_t rows_of(std::int64_t rows, std::int64_t panel) noexcept {
  const std::int64_t left = rows - panel * height;
  return left < height ? left : height;
}

// Of each block of a panel.
constexpr std::int64_t groups_of(std::int64_t rows, std::int64_t panel) noexcept {
  return (rows_of(rows, panel) + group - 1) / group;
}
constexpr std::int64_t groups(std::int64_t rows, std::int64_t columns) noexcept {
  return (rows + group - 1) / group * blocks(columns);
}
constexpr std::int64_t first_group(std::int64_t columns, std::int64_t panel) noexcept {
  return panel * (height / group) * blocks(columns);
}

constexpr std::int64_t codes(std::int64_t rows, std::int64_t columns, std::int64_t steps) noexcept {
  return group * (groups(rows, columns) + steps);
}

// All bytes of such a matrix.
constexpr std::int64_t bytes(std::int64_t rows, std::int64_t columns, std::int64_t steps, DType type) noexcept {
  return codes(rows, columns, steps) + group * steps * static_cast<std::int64_t>(size_of(type)) +
         8 * (groups(rows, columns) + 2);
}

// The bits of -0.
constexpr std::uint32_t nothing(DType type) noexcept { return size_of(type) == 2 ? 0x8000u : 0x80000000u; }

}  // namespace bittersweet::delta
