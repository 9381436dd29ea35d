// A packed matrix in row order, as files hold it, and how it lies in memory. The only file that knows it.
//   bitmask      [rows][ceil(columns / 8)] bytes: bit c % 8 of byte c / 8, lowest first; the bits beyond are 0
//   row_offsets  [rows]: the place of each row's first value
//   values       the elements whose bit is set, row after row
// So strip s begins with the value with which row 16 s does, in either order.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "bittersweet/sparse/strip_layout.hpp"
#include "bittersweet/tensor_view.hpp"

namespace bittersweet {

struct RowMatrix {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::uint8_t* bitmask = nullptr;
  std::int64_t* row_offsets = nullptr;
  TensorView values{};

  std::int64_t row_bytes() const noexcept { return (columns + 7) / 8; }

  // The bits of tile `t` of a row, as the mask of a strip has them.
  std::uint32_t mask(std::int64_t row, std::int64_t t) const noexcept {
    std::uint32_t bits = 0;
    for (std::int64_t byte = 0; byte < bytes_of(t); ++byte) bits |= std::uint32_t{at(row, t)[byte]} << 8 * byte;
    return bits;
  }

  void set_mask(std::int64_t row, std::int64_t t, std::uint32_t bits) const noexcept {
    for (std::int64_t byte = 0; byte < bytes_of(t); ++byte)
      at(row, t)[byte] = static_cast<std::uint8_t>(bits >> 8 * byte);
  }

 private:
  static constexpr std::int64_t tile_bytes = strips::width / 8;

  std::uint8_t* at(std::int64_t row, std::int64_t t) const noexcept {
    return bitmask + row * row_bytes() + t * tile_bytes;
  }
  std::int64_t bytes_of(std::int64_t t) const noexcept { return std::min(tile_bytes, row_bytes() - t * tile_bytes); }
};

}  // namespace bittersweet
