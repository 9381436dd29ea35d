// How a packed matrix lies in memory. The only file that knows it.
//
// Strip s is rows 16 s .. 16 s + 15, tile t of it columns 32 t .. 32 t + 31; rows and columns that the matrix does not
// have are padded with zero bits.
//   masks    [strips][tiles][16] words: bit c is column 32 t + c of row 16 s + i, lowest first
//   values   the elements whose bit is set, as they were, in the order of the masks; `slack` elements behind the last
//            may be read, and hold anything
//   offsets  [strips + 1]: the place of each strip's first value; the last is their number
// So a strip is one stream of masks and one of values, and 16 rows share each load of the input.
#pragma once

#include <bit>
#include <cstdint>

#include "bittersweet/dtype.hpp"

namespace bittersweet::strips {

inline constexpr std::int64_t height = 16, width = 32;
inline constexpr std::int64_t slack = 32;  // elements: no vector is wider, whatever their type
inline constexpr int lanes = 16;           // partial sums of a row

constexpr std::int64_t count(std::int64_t rows) noexcept { return (rows + height - 1) / height; }
constexpr std::int64_t tiles(std::int64_t columns) noexcept { return (columns + width - 1) / width; }
constexpr std::int64_t words_per_strip(std::int64_t columns) noexcept { return tiles(columns) * height; }
constexpr std::int64_t words(std::int64_t rows, std::int64_t columns) noexcept {
  return count(rows) * words_per_strip(columns);
}

// All bytes of a packed matrix, without the slack.
constexpr std::int64_t bytes(std::int64_t rows, std::int64_t columns, std::int64_t values, DType type) noexcept {
  return values * static_cast<std::int64_t>(size_of(type)) + 4 * words(rows, columns) + 8 * (count(rows) + 1);
}

constexpr bool has(std::uint32_t mask, int column) noexcept { return (mask >> column & 1u) != 0; }
constexpr int live(std::uint32_t mask) noexcept { return std::popcount(mask); }

// The bits of tile `t` that belong to columns of the matrix.
constexpr std::uint32_t valid(std::int64_t columns, std::int64_t t) noexcept {
  const std::int64_t left = columns - t * width;
  return left >= width ? ~std::uint32_t{0} : (std::uint32_t{1} << left) - 1;
}

// Which of a row's 16 sums the products of a column are added to. Neighbours of bf16 share one, because two of them are
// one 32-bit word, whose halves become floats where they lie.
constexpr int lane_of(DType type, int column_of_tile) noexcept {
  return type == DType::bf16 ? column_of_tile / 2 : column_of_tile % lanes;
}

}  // namespace bittersweet::strips
