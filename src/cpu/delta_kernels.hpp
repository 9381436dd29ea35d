// What one instruction set offers for delta matrices: functions over one panel. Part of a StripKernels.
#pragma once

#include <cstdint>

#include "bittersweet/engine/sparse.hpp"

namespace bittersweet::cpu {

inline constexpr std::int64_t most_columns_of_panel = 16;  // of the batch in one pass over a panel

// A panel's place in memory. `codes` and `values` point to its first; `offsets` to its first group's.
struct DeltaPanel {
  const std::uint8_t* codes;
  const void* values;
  const std::uint64_t* offsets;
  std::int64_t columns;  // of the matrix
  std::int64_t rows;     // of the panel
  std::int64_t groups;   // of each block
};

struct DeltaKernels {
  // Writes the steps of each group.
  DeltaCount (*count)(const DenseMatrix&, const std::uint64_t* keep, std::int64_t panel, std::uint64_t* steps);
  // Writes a panel's codes and values, or returns false where its groups have other steps.
  bool (*pack)(const DenseMatrix&, const std::uint64_t* keep, std::int64_t panel, const std::uint64_t* offsets,
               std::uint8_t* codes, void* values);
  // Writes a panel's rows to `out`, which begins with the panel's first row.
  void (*unpack)(const DeltaPanel&, DType type, void* out);
  // A row of x as `multiply` reads it for values of `type`: for each block a table of 256 entries, of 1 KiB or less.
  void (*arrange)(const TensorView& x, std::int64_t first, std::int64_t columns, DType type, float* out);
  // Sums of a panel's rows for `batch` columns, 1 to most_columns_of_panel: out[b][256]. The tables of column b begin
  // at x + b * blocks * 256; `from` is the type that they were arranged from.
  void (*multiply)(const DeltaPanel&, DType type, DType from, const float* x, std::int64_t batch, float* out);
};

}  // namespace bittersweet::cpu
