// Borrowed matrices, dense and packed: what the verbs of engine/sparse.hpp read and write. Row-major, without gaps.
#pragma once

#include <cstdint>

#include "bittersweet/sparse/delta_layout.hpp"
#include "bittersweet/sparse/strip_layout.hpp"
#include "bittersweet/tensor_view.hpp"

namespace bittersweet {

struct DenseMatrix {
  TensorView elements{};
  std::int64_t rows = 0;
  std::int64_t columns = 0;
};

// Strips as in sparse/strip_layout.hpp.
struct PackedMatrix {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  const std::uint32_t* masks = nullptr;
  TensorView values{};
  const std::uint64_t* offsets = nullptr;

  std::int64_t strips() const noexcept { return bittersweet::strips::count(rows); }
  std::int64_t tiles() const noexcept { return bittersweet::strips::tiles(columns); }
  std::int64_t live() const noexcept { return rows > 0 ? static_cast<std::int64_t>(offsets[strips()]) : 0; }
  std::int64_t bytes() const noexcept { return bittersweet::strips::bytes(rows, columns, live(), values.dtype); }
};

// Columns as differences, as in sparse/delta_layout.hpp.
struct DeltaMatrix {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  const std::uint8_t* codes = nullptr;
  TensorView values{};
  const std::uint64_t* offsets = nullptr;

  std::int64_t panels() const noexcept { return delta::panels(rows); }
  std::int64_t blocks() const noexcept { return delta::blocks(columns); }
  std::int64_t groups() const noexcept { return delta::groups(rows, columns); }
  std::int64_t steps() const noexcept { return static_cast<std::int64_t>(offsets[groups()]); }
  std::int64_t live() const noexcept { return static_cast<std::int64_t>(offsets[groups() + 1]); }
  std::int64_t bytes() const noexcept { return delta::bytes(rows, columns, steps(), values.dtype); }
};

// A product y = x * transposed matrix + bias, as a linear layer makes it.
struct StripProduct {
  TensorView x{};  // [batch][columns]
  TensorView y{};  // [batch][rows]
  std::int64_t batch = 1;
  TensorView bias{};  // [rows], or none
  // False: of two columns of the batch and more, an engine may add in another order, and multiply bf16 by units to
  // which denormals are 0. The bits then depend on the instruction set and on the batch, not on the threads; one
  // column's never do.
  bool reproducible = true;
};

}  // namespace bittersweet
