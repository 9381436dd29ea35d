// Host side of packed matrices: checks, and what the kernels are told.
#pragma once

#include <algorithm>
#include <type_traits>

#include "bittersweet/cuda_sparse.hpp"
#include "sparse_checks.hpp"
#include "verbs.cuh"

namespace bittersweet::cuda {

struct StripsPlan {
  DType dtype = DType::none;
  std::int64_t rows = 0, columns = 0;
  std::int64_t first = 0, count = 0;  // strips
  u32* masks = nullptr;
  std::uint64_t* offsets = nullptr;
  void* values = nullptr;
  void* dense = nullptr;
  const std::uint64_t* keep = nullptr;
  std::int64_t* lost = nullptr;

  std::int64_t tiles() const { return strips::tiles(columns); }
};

// f(element): an integer of an element's size.
template <class F>
void by_size(DType type, F&& f) {
  size_of(type) == 4 ? f(u32{}) : f(u16{});
}

// A product with more columns goes by so many, and f(an integral constant): room for `batch` of them.
inline constexpr std::int64_t most_at_once = 16;
template <class F>
void by_batch(u32 batch, F&& f) {
  if (batch == 1) return f(std::integral_constant<int, 1>{});
  if (batch == 2) return f(std::integral_constant<int, 2>{});
  if (batch <= 4) return f(std::integral_constant<int, 4>{});
  if (batch <= 8) return f(std::integral_constant<int, 8>{});
  f(std::integral_constant<int, most_at_once>{});
}

// f(the product of the next columns): each part of a product with any number of them.
template <class F>
void by_columns(const StripProduct& product, std::int64_t rows, std::int64_t columns, F&& f) {
  const auto skip = [](TensorView& array, std::int64_t elements) {
    array.data = static_cast<char*>(array.data) + elements * static_cast<std::int64_t>(size_of(array.dtype));
  };
  for (std::int64_t first = 0; first < product.batch; first += most_at_once) {
    StripProduct part = product;
    skip(part.x, first * columns);
    skip(part.y, first * rows);
    part.batch = std::min(product.batch - first, most_at_once);
    f(part);
  }
}

inline void check_places(std::int64_t rows, std::int64_t columns, const std::uint32_t* masks,
                         const std::uint64_t* offsets) {
  sparse::check_shape(rows, columns);
  if (offsets == nullptr) throw LayoutError("offsets: there are none");
  if (masks == nullptr && strips::words(rows, columns) > 0) throw LayoutError("masks: there are none");
}

inline void check_lost(const std::uint64_t* keep, const std::int64_t* lost) {
  if (keep != nullptr && lost == nullptr)
    throw ArgumentError("lost: null pointer beside `keep`; device memory for one number is needed");
}

// How many values there are, the device alone knows: their address is needed, unless there can be none.
inline void check_packed(const PackedMatrix& packed) {
  check_places(packed.rows, packed.columns, packed.masks, packed.offsets);
  sparse::check_array("values", packed.values, packed.rows > 0 && packed.columns > 0 ? 1 : 0);
  if (reinterpret_cast<std::uintptr_t>(packed.values.data) % 16 != 0)
    throw LayoutError("values: their address is not a multiple of 16 bytes; copy them to memory of their own");
}

inline void check_multiply(const PackedMatrix& packed, const StripProduct& product) {
  check_packed(packed);
  sparse::check_product(packed.rows, packed.columns, product);
}

inline StripsPlan plan_of(const PackedMatrix& packed) {
  return {.dtype = packed.values.dtype,
          .rows = packed.rows,
          .columns = packed.columns,
          .count = packed.strips(),
          .masks = const_cast<u32*>(packed.masks),
          .offsets = const_cast<std::uint64_t*>(packed.offsets),
          .values = packed.values.data};
}

inline StripsPlan make_count(const DenseMatrix& dense, const std::uint64_t* keep, std::uint32_t* masks,
                             std::uint64_t* offsets, std::int64_t* lost) {
  sparse::check_dense(dense);
  check_places(dense.rows, dense.columns, masks, offsets);
  check_lost(keep, lost);
  StripsPlan plan = plan_of({dense.rows, dense.columns, masks, {nullptr, dense.elements.dtype}, offsets});
  plan.dense = dense.elements.data;
  plan.keep = keep;
  plan.lost = lost;
  return plan;
}

inline StripsPlan make_pack(const DenseMatrix& dense, const std::uint32_t* masks, const std::uint64_t* offsets,
                            void* values) {
  sparse::check_dense(dense);
  const PackedMatrix packed{dense.rows, dense.columns, masks, {values, dense.elements.dtype}, offsets};
  check_packed(packed);
  StripsPlan plan = plan_of(packed);
  plan.dense = dense.elements.data;
  return plan;
}

inline StripsPlan make_unpack(const PackedMatrix& packed, std::int64_t first_row, std::int64_t rows, void* out) {
  check_packed(packed);
  sparse::check_rows(packed.rows, first_row, rows, strips::height, "strips of 16 rows");
  sparse::check_array("out", {out, packed.values.dtype}, rows * packed.columns);
  StripsPlan plan = plan_of(packed);
  plan.first = first_row / strips::height;
  plan.count = strips::count(rows);
  plan.dense = out;
  return plan;
}

}  // namespace bittersweet::cuda
