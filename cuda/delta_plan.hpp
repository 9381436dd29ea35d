// Host side of delta matrices: checks, and what the kernels are told.
#pragma once

#include "strips_plan.hpp"

namespace bittersweet::cuda {

struct DeltaShape {
  std::int64_t rows = 0, columns = 0;
  u32 width = 0, blocks = 0;  // of a panel: columns of each block, and how many of these

  static DeltaShape of(std::int64_t rows, std::int64_t columns) {
    return {rows, columns, static_cast<u32>(delta::width(columns)), static_cast<u32>(delta::blocks(columns))};
  }
};

struct DeltaPlan {
  DType dtype = DType::none;
  DeltaShape shape;
  std::int64_t first = 0, count = 0;  // panels
  std::uint8_t* codes = nullptr;
  std::uint64_t* offsets = nullptr;
  void* values = nullptr;
  void* dense = nullptr;
  const std::uint64_t* keep = nullptr;
  std::int64_t* lost = nullptr;

  std::int64_t groups() const { return delta::groups(shape.rows, shape.columns); }
  u32 grid() const { return static_cast<u32>(count * shape.blocks); }  // a block of threads for each of the panels'
};

// How many values there are, the device alone knows: they may have no address.
inline void check_delta(const DeltaMatrix& packed) {
  sparse::check_shape(packed.rows, packed.columns);
  if (packed.offsets == nullptr) throw LayoutError("offsets: there are none");
  if (packed.codes == nullptr && packed.groups() > 0) throw LayoutError("codes: there are none");
  sparse::check_array("values", packed.values, 0);
}

inline DeltaPlan plan_of(const DeltaMatrix& packed) {
  return {.dtype = packed.values.dtype,
          .shape = DeltaShape::of(packed.rows, packed.columns),
          .count = packed.panels(),
          .codes = const_cast<std::uint8_t*>(packed.codes),
          .offsets = const_cast<std::uint64_t*>(packed.offsets),
          .values = packed.values.data};
}

inline DeltaPlan make_delta_count(const DenseMatrix& dense, const std::uint64_t* keep, std::uint64_t* offsets,
                                  std::int64_t* lost) {
  sparse::check_dense(dense);
  if (offsets == nullptr) throw LayoutError("offsets: there are none");
  check_lost(keep, lost);
  DeltaPlan plan = plan_of(DeltaMatrix{dense.rows, dense.columns, nullptr, {nullptr, dense.elements.dtype}, offsets});
  plan.dense = dense.elements.data;
  plan.keep = keep;
  plan.lost = lost;
  return plan;
}

inline DeltaPlan make_delta_pack(const DenseMatrix& dense, const std::uint64_t* keep, const std::uint64_t* offsets,
                                 std::uint8_t* codes, void* values) {
  sparse::check_dense(dense);
  const DeltaMatrix packed{dense.rows, dense.columns, codes, {values, dense.elements.dtype}, offsets};
  check_delta(packed);
  DeltaPlan plan = plan_of(packed);
  plan.dense = dense.elements.data;
  plan.keep = keep;
  return plan;
}

inline DeltaPlan make_delta_unpack(const DeltaMatrix& packed, std::int64_t first_row, std::int64_t rows, void* out) {
  check_delta(packed);
  sparse::check_rows(packed.rows, first_row, rows, delta::height, "panels of 256 rows");
  sparse::check_array("out", {out, packed.values.dtype}, rows * packed.columns);
  DeltaPlan plan = plan_of(packed);
  plan.first = first_row / delta::height;
  plan.count = delta::panels(rows);
  plan.dense = out;
  return plan;
}

inline std::size_t delta_bytes(std::int64_t rows, std::int64_t columns, std::int64_t batch) {
  const std::int64_t at_once = std::clamp<std::int64_t>(batch, 0, most_at_once);
  return static_cast<std::size_t>(delta::blocks(columns) * rows * at_once) * sizeof(float);
}

inline void check_multiply(const DeltaMatrix& packed, const StripProduct& product, const void* workspace,
                           std::size_t workspace_bytes) {
  check_delta(packed);
  sparse::check_product(packed.rows, packed.columns, product);
  const std::size_t needed = delta_bytes(packed.rows, packed.columns, product.batch);
  if (needed > 0 && (workspace == nullptr || workspace_bytes < needed))
    throw ArgumentError("workspace_bytes: " + std::to_string(workspace_bytes) + "; this call needs " +
                        std::to_string(needed) + " (delta_workspace_bytes)");
  if (needed > 0 && reinterpret_cast<std::uintptr_t>(workspace) % sizeof(float) != 0)
    throw LayoutError("workspace: its address is not a multiple of 4");
}

}  // namespace bittersweet::cuda
