// The public face of packed matrices: weights without their zeros, and products with them for any number of columns.
// With few they cost what reading the packed bytes costs.
//
// Promises: an error changes nothing; packing loses no bit (NaN payloads, -0, denormals); the same inputs give the
// same bits whatever the number of threads and, unless a product gives that up, the instruction set and the batch; any
// floating-point environment is respected. Of two layouts, strips (sparse/strip_layout.hpp) have a bit for every
// element and the values; delta (sparse/delta_layout.hpp) has a byte beside each value, and is smaller and faster where
// few are left. The order of sums and their error bound are in engine/sparse.hpp.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "bittersweet/engine/sparse.hpp"
#include "bittersweet/engine/workspace.hpp"

namespace bittersweet::sparse {

// First half of packing into the caller's memory: writes strips::words(rows, columns) masks and strips::count(rows) + 1
// offsets, and returns the number of values. Which elements are stored: those that `keep` keeps (mask/bit_layout.hpp,
// flat row-major index; a kept 0 is stored), without it those whose bits are not all 0, so -0 too. Never a comparison
// of floats. Throws ShapeError, DTypeError, LayoutError, or ArgumentError where `keep` drops elements that are not +0.
std::int64_t measure(const DenseMatrix& dense, const std::uint64_t* keep, std::uint32_t* masks, std::uint64_t* offsets);

// Second half: writes what measure counted. `values` has room for it and for strips::slack elements more.
void pack(const DenseMatrix& dense, const std::uint32_t* masks, const std::uint64_t* offsets, void* values);

// A packed matrix that owns its memory.
struct Packed {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  DType dtype = DType::none;
  std::vector<std::uint32_t> masks{};
  std::vector<std::uint64_t> offsets{};
  std::vector<std::byte> values{};

  PackedMatrix view() const noexcept {
    return {rows, columns, masks.data(), {const_cast<std::byte*>(values.data()), dtype}, offsets.data()};
  }
};
Packed pack(const DenseMatrix& dense, const std::uint64_t* keep = nullptr);

// Rows first_row .. first_row + rows of the dense matrix, bit for bit. first_row is a multiple of 16; rows too, or they
// end with the matrix.
void unpack(const PackedMatrix& packed, std::int64_t first_row, std::int64_t rows, void* out);

// The matrix in row order, as files hold it, into the caller's arrays, of the shape and type of `packed`: bit for bit.
void to_rows(const PackedMatrix& packed, const RowMatrix& rows);

// And back: writes strips::words(rows, columns) masks, strips::count(rows) + 1 offsets, and values as pack does. Throws
// what check(rows, values) does.
void from_rows(const RowMatrix& rows, std::int64_t count, std::uint32_t* masks, std::uint64_t* offsets, void* values);

// y = x * transposed matrix + bias, for any batch. x, y and bias are f32, bf16 or f16, each on its own. Scratch beside
// x's own size: some MiB a thread. With `reproducible` batches beyond some dozens take longer than a dense product.
void multiply(const PackedMatrix& packed, const StripProduct& product, Workspace& workspace);

// Throws LayoutError or ShapeError, with what is wrong, unless the masks and offsets agree with each other, with the
// shape, and with `values` elements behind the address (slack not counted). What comes from a file is to be checked
// once; the other functions trust it.
void check(const PackedMatrix& packed, std::int64_t values);

// The same for a matrix in row order.
void check(const RowMatrix& rows, std::int64_t values);

// ---- delta ----

struct DeltaSize {
  std::int64_t steps = 0;  // so many codes: delta::codes(rows, columns, steps); and 32 * steps values
  std::int64_t live = 0;   // elements that are stored
};

// First half of packing as delta: writes delta::groups(rows, columns) + 2 offsets. Which elements are stored, and what
// is thrown, is as of `measure`.
DeltaSize measure_delta(const DenseMatrix& dense, const std::uint64_t* keep, std::uint64_t* offsets);

// Second half: writes the codes and values. Throws ArgumentError, with neither of use, where `dense` or `keep` have
// changed since they were measured.
void pack_delta(const DenseMatrix& dense, const std::uint64_t* keep, const std::uint64_t* offsets, std::uint8_t* codes,
                void* values);

// A delta matrix that owns its memory.
struct PackedDelta {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  DType dtype = DType::none;
  std::vector<std::uint8_t> codes{};
  std::vector<std::uint64_t> offsets{};
  std::vector<std::byte> values{};

  DeltaMatrix view() const noexcept {
    return {rows, columns, codes.data(), {const_cast<std::byte*>(values.data()), dtype}, offsets.data()};
  }
};
PackedDelta pack_delta(const DenseMatrix& dense, const std::uint64_t* keep = nullptr);

// Rows first_row .. first_row + rows of the dense matrix, bit for bit. first_row is a multiple of 256; rows too, or
// they end with the matrix.
void unpack(const DeltaMatrix& packed, std::int64_t first_row, std::int64_t rows, void* out);

// As of strips. What is not stored is not multiplied, not even by an infinity or NaN of x.
void multiply(const DeltaMatrix& packed, const StripProduct& product, Workspace& workspace);

// Throws LayoutError or ShapeError, with what is wrong, unless the codes, values and offsets are those of a delta
// matrix of this shape with `codes` and `values` bytes and elements behind the addresses: the only way to store its
// values.
void check(const DeltaMatrix& packed, std::int64_t codes, std::int64_t values);

// The instruction set in use.
const char* isa();

}  // namespace bittersweet::sparse
