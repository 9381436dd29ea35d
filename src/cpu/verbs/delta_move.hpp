// Elements into panels and back, as bits.
#pragma once

#include "cpu/delta_kernels.hpp"
#include "cpu/verbs/strip_move.hpp"

namespace bittersweet {
namespace {

// The rows of one block: which columns they store, and where sorting puts them.
struct SortedRows {
  std::uint64_t stored[delta::height][4];
  std::uint8_t place[delta::height];  // of each row
  std::uint8_t count[delta::height];
  std::uint8_t longest[delta::height / delta::group];  // of each group
  DeltaCount found;
};

// Which of a row's columns first .. first + width - 1 are to be stored.
template <class U>
BITTERSWEET_INLINE void read_row(const DenseMatrix& dense, const std::uint64_t* keep, std::int64_t row,
                                 std::int64_t first, std::int64_t width, std::uint64_t* stored, DeltaCount& found) {
  const std::int64_t index = row * dense.columns + first;
  const U* const from = static_cast<const U*>(dense.elements.data) + index;
  U edge[strips::width]{};
  for (std::int64_t word = 0; word < 4; ++word) stored[word] = 0;
  for (std::int64_t c = 0; c < width; c += strips::width) {
    const std::int64_t here = std::min(strips::width, width - c);
    if (here < strips::width) std::memcpy(edge, from + c, static_cast<std::size_t>(here) * sizeof(U));
    std::uint32_t mask = with_bits(here < strips::width ? edge : from + c);
    if (keep != nullptr) {
      const auto kept = static_cast<std::uint32_t>(bits::read(keep, index + c, here));
      found.lost += strips::live(mask & ~kept);
      mask = kept;
    }
    found.live += strips::live(mask);
    stored[c / 64] |= std::uint64_t{mask} << c % 64;
  }
}

template <class U>
void sort_rows(const DenseMatrix& dense, const std::uint64_t* keep, std::int64_t panel, std::int64_t block,
               SortedRows& rows) {
  const std::int64_t present = delta::rows_of(dense.rows, panel),
                     all = delta::groups_of(dense.rows, panel) * delta::group;
  const std::int64_t width = delta::width_of(dense.columns, block), first = block * delta::width(dense.columns);
  std::uint16_t with_count[delta::entries]{};
  rows.found = {};
  for (std::int64_t i = 0; i < all; ++i) {
    DeltaCount row;
    if (i < present) read_row<U>(dense, keep, panel * delta::height + i, first, width, rows.stored[i], row);
    rows.count[i] = static_cast<std::uint8_t>(row.live);
    rows.found.live += row.live;
    rows.found.lost += row.lost;
    ++with_count[row.live];
  }
  std::uint16_t next[delta::entries];  // places of rows by count, most first
  for (std::int64_t count = delta::most_columns, place = 0; count >= 0; --count) {
    next[count] = static_cast<std::uint16_t>(place);
    place += with_count[count];
  }
  for (std::int64_t i = 0; i < all; ++i) {
    rows.place[i] = static_cast<std::uint8_t>(next[rows.count[i]]++);
    if (rows.place[i] % delta::group == 0) rows.longest[rows.place[i] / delta::group] = rows.count[i];
  }
}

template <class U>
DeltaCount count_panel(const DenseMatrix& dense, const std::uint64_t* keep, std::int64_t panel, std::uint64_t* steps) {
  const std::int64_t groups = delta::groups_of(dense.rows, panel);
  DeltaCount found;
  SortedRows rows;
  for (std::int64_t block = 0; block < delta::blocks(dense.columns); ++block) {
    sort_rows<U>(dense, keep, panel, block, rows);
    found.live += rows.found.live;
    found.lost += rows.found.lost;
    for (std::int64_t g = 0; g < groups; ++g) *steps++ = rows.longest[g];
  }
  return found;
}

template <class U>
bool pack_panel(const DenseMatrix& dense, const std::uint64_t* keep, std::int64_t panel, const std::uint64_t* offsets,
                std::uint8_t* codes, void* values) {
  const std::int64_t groups = delta::groups_of(dense.rows, panel), present = delta::rows_of(dense.rows, panel);
  auto* to = static_cast<U*>(values);
  SortedRows rows;
  for (std::int64_t block = 0; block < delta::blocks(dense.columns); ++block, offsets += groups) {
    sort_rows<U>(dense, keep, panel, block, rows);
    for (std::int64_t g = 0; g < groups; ++g)
      if (rows.longest[g] != offsets[g + 1] - offsets[g]) return false;
    std::memcpy(codes, rows.place, static_cast<std::size_t>(groups * delta::group));
    codes += groups * delta::group;
    const auto slots = static_cast<std::int64_t>(offsets[groups] - offsets[0]) * delta::group;
    std::memset(codes, 0, static_cast<std::size_t>(slots));
    std::fill(to, to + slots, static_cast<U>(delta::nothing(dense.elements.dtype)));
    const std::int64_t first = block * delta::width(dense.columns);
    for (std::int64_t i = 0; i < present; ++i) {
      const U* const from =
          static_cast<const U*>(dense.elements.data) + (panel * delta::height + i) * dense.columns + first;
      const std::int64_t place = rows.place[i];
      auto at =
          static_cast<std::int64_t>(offsets[place / delta::group] - offsets[0]) * delta::group + place % delta::group;
      for (int word = 0; word < 4; ++word)
        for (std::uint64_t left = rows.stored[i][word]; left != 0; left &= left - 1, at += delta::group) {
          const int column = 64 * word + std::countr_zero(left);
          codes[at] = static_cast<std::uint8_t>(1 + column);
          to[at] = from[column];
        }
    }
    codes += slots;
    to += slots;
  }
  return true;
}

template <class U>
void unpack_panel(const cpu::DeltaPanel& panel, void* out) {
  if (panel.columns == 0) return;
  const std::int64_t rows = panel.groups * delta::group, width = delta::width(panel.columns);
  const std::uint8_t* codes = panel.codes;
  const auto* from = static_cast<const U*>(panel.values);
  const std::uint64_t* offsets = panel.offsets;
  U* to[delta::height]{};  // of each place, one element before its row in the block
  std::memset(out, 0, static_cast<std::size_t>(panel.rows * panel.columns) * sizeof(U));
  for (std::int64_t block = 0; block < delta::blocks(panel.columns); ++block, offsets += panel.groups) {
    for (std::int64_t i = 0; i < panel.rows; ++i)
      to[codes[i]] = static_cast<U*>(out) + i * panel.columns + block * width - 1;
    codes += rows;
    for (std::int64_t g = 0; g < panel.groups; ++g)
      for (std::uint64_t steps = offsets[g + 1] - offsets[g]; steps > 0; --steps, codes += delta::group)
        for (std::int64_t lane = 0; lane < delta::group; ++lane, ++from)
          if (codes[lane] != 0) to[g * delta::group + lane][codes[lane]] = *from;
  }
}

inline DeltaCount count_panel_any(const DenseMatrix& dense, const std::uint64_t* keep, std::int64_t panel,
                                  std::uint64_t* steps) {
  return size_of(dense.elements.dtype) == 2 ? count_panel<std::uint16_t>(dense, keep, panel, steps)
                                            : count_panel<std::uint32_t>(dense, keep, panel, steps);
}

inline bool pack_panel_any(const DenseMatrix& dense, const std::uint64_t* keep, std::int64_t panel,
                           const std::uint64_t* offsets, std::uint8_t* codes, void* values) {
  return size_of(dense.elements.dtype) == 2 ? pack_panel<std::uint16_t>(dense, keep, panel, offsets, codes, values)
                                            : pack_panel<std::uint32_t>(dense, keep, panel, offsets, codes, values);
}

inline void unpack_panel_any(const cpu::DeltaPanel& panel, DType type, void* out) {
  size_of(type) == 2 ? unpack_panel<std::uint16_t>(panel, out) : unpack_panel<std::uint32_t>(panel, out);
}

}  // namespace
}  // namespace bittersweet
