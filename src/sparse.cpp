// The public functions of packed matrices: checks, then the verbs of the CPU engine.
#include "bittersweet/sparse.hpp"

#include <string>

#include "bittersweet/engine/cpu_sparse.hpp"
#include "bittersweet/error.hpp"
#include "cpu/parallel.hpp"
#include "fp_environment.hpp"
#include "nvtx_range.hpp"
#include "sparse_checks.hpp"

namespace bittersweet::sparse {
namespace {

CpuSparse& engine() {
  static CpuSparse chosen;
  return chosen;
}

void check_packed(const PackedMatrix& packed) {
  check_shape(packed.rows, packed.columns);
  if (packed.offsets == nullptr) throw LayoutError("offsets: there are none");
  if (packed.masks == nullptr && strips::words(packed.rows, packed.columns) > 0)
    throw LayoutError("masks: there are none");
  check_array("values", packed.values, packed.live());
}

void check_rows(const RowMatrix& rows, std::int64_t values) {
  check_shape(rows.rows, rows.columns);
  if (rows.row_offsets == nullptr && rows.rows > 0) throw LayoutError("row_offsets: there are none");
  if (rows.bitmask == nullptr && rows.rows > 0 && rows.columns > 0) throw LayoutError("bitmask: there is none");
  check_array("rows", rows.values, values);
}

}  // namespace

std::int64_t measure(const DenseMatrix& dense, const std::uint64_t* keep, std::uint32_t* masks,
                     std::uint64_t* offsets) {
  const NvtxRange range("bittersweet::sparse::measure");
  check_dense(dense);
  const std::int64_t count = strips::count(dense.rows);
  const std::int64_t lost = engine().count_strips(dense, keep, masks, {offsets + 1, static_cast<std::size_t>(count)});
  refuse_lost(lost);
  offsets[0] = 0;
  for (std::int64_t strip = 0; strip < count; ++strip) offsets[strip + 1] += offsets[strip];
  return static_cast<std::int64_t>(offsets[count]);
}

void pack(const DenseMatrix& dense, const std::uint32_t* masks, const std::uint64_t* offsets, void* values) {
  const NvtxRange range("bittersweet::sparse::pack");
  check_dense(dense);
  const PackedMatrix packed{dense.rows, dense.columns, masks, {values, dense.elements.dtype}, offsets};
  check_packed(packed);
  engine().pack_strips(dense, packed, values);
}

Packed pack(const DenseMatrix& dense, const std::uint64_t* keep) {
  check_dense(dense);
  Packed made{.rows = dense.rows, .columns = dense.columns, .dtype = dense.elements.dtype};
  made.masks.resize(static_cast<std::size_t>(strips::words(dense.rows, dense.columns)));
  made.offsets.resize(static_cast<std::size_t>(strips::count(dense.rows) + 1));
  const std::int64_t live = measure(dense, keep, made.masks.data(), made.offsets.data());
  made.values.resize(static_cast<std::size_t>(live + strips::slack) * size_of(made.dtype));
  pack(dense, made.masks.data(), made.offsets.data(), made.values.data());
  return made;
}

void unpack(const PackedMatrix& packed, std::int64_t first_row, std::int64_t rows, void* out) {
  const NvtxRange range("bittersweet::sparse::unpack");
  check_packed(packed);
  check_rows(packed.rows, first_row, rows, strips::height, "strips of 16 rows");
  if (rows == 0 || packed.columns == 0) return;
  check_array("out", {out, packed.values.dtype}, rows * packed.columns);
  engine().unpack_strips(packed, first_row / strips::height, strips::count(rows), out);
}

void to_rows(const PackedMatrix& packed, const RowMatrix& rows) {
  const NvtxRange range("bittersweet::sparse::to_rows");
  check_packed(packed);
  if (rows.rows != packed.rows || rows.columns != packed.columns)
    throw ShapeError("rows: " + std::to_string(rows.rows) + " x " + std::to_string(rows.columns) +
                     "; accepted: the shape of the packed matrix, " + std::to_string(packed.rows) + " x " +
                     std::to_string(packed.columns));
  if (rows.values.dtype != packed.values.dtype)
    throw DTypeError(std::string("rows: ") + name_of(rows.values.dtype) + "; the packed matrix is " +
                     name_of(packed.values.dtype));
  check_rows(rows, packed.live());
  engine().repack_rows(packed, rows);
}

void from_rows(const RowMatrix& rows, std::int64_t count, std::uint32_t* masks, std::uint64_t* offsets, void* values) {
  const NvtxRange range("bittersweet::sparse::from_rows");
  check(rows, count);
  if (offsets == nullptr) throw LayoutError("offsets: there is no memory for them");
  if (masks == nullptr && strips::words(rows.rows, rows.columns) > 0)
    throw LayoutError("masks: there is no memory for them");
  check_array("values", {values, rows.values.dtype}, count);
  engine().repack_rows(rows, masks, offsets, values);
}

void multiply(const PackedMatrix& packed, const StripProduct& product, Workspace& workspace) {
  const NvtxRange range("bittersweet::sparse::multiply");
  check_packed(packed);
  check_product(packed.rows, packed.columns, product);
  const FpEnvironment environment;
  engine().multiply_strips(packed, product, workspace);
}

void check(const PackedMatrix& packed, std::int64_t values) {
  check_packed(packed);
  if (packed.offsets[0] != 0) throw LayoutError("offsets: the first is not 0");
  const std::int64_t words = strips::words_per_strip(packed.columns);
  for (std::int64_t strip = 0; strip < packed.strips(); ++strip) {
    const std::string where = "strip " + std::to_string(strip) + ": ";
    std::uint64_t live = 0;
    for (std::int64_t word = 0; word < words; ++word) {
      const std::uint32_t mask = packed.masks[strip * words + word];
      const std::int64_t row = strip * strips::height + word % strips::height;
      if ((mask & ~strips::valid(packed.columns, word / strips::height)) != 0 || (row >= packed.rows && mask != 0))
        throw LayoutError(where + "its masks have bits beyond the matrix");
      live += static_cast<std::uint64_t>(strips::live(mask));
    }
    if (packed.offsets[strip + 1] - packed.offsets[strip] != live)
      throw LayoutError(where + "its masks have " + std::to_string(live) + " bits and its offsets are " +
                        std::to_string(packed.offsets[strip + 1] - packed.offsets[strip]) + " apart");
  }
  if (packed.offsets[packed.strips()] != static_cast<std::uint64_t>(values))
    throw LayoutError("values: " + std::to_string(values) + ", and the masks have " +
                      std::to_string(packed.offsets[packed.strips()]) + " bits");
}

void check(const RowMatrix& rows, std::int64_t values) {
  check_rows(rows, values);
  std::int64_t next = 0;
  for (std::int64_t row = 0; row < rows.rows; ++row) {
    if (rows.row_offsets[row] != next)
      throw LayoutError("row_offsets and bitmask disagree from row " + std::to_string(row) + " on");
    for (std::int64_t tile = 0; tile < strips::tiles(rows.columns); ++tile) {
      const std::uint32_t mask = rows.mask(row, tile);
      if ((mask & ~strips::valid(rows.columns, tile)) != 0)
        throw LayoutError("bitmask: row " + std::to_string(row) + " has bits beyond the " +
                          std::to_string(rows.columns) + " columns");
      next += strips::live(mask);
    }
  }
  if (next != values)
    throw LayoutError("it holds " + std::to_string(values) + " values; the bitmask has " + std::to_string(next) +
                      " bits");
}

const char* isa() { return engine().isa(); }

}  // namespace bittersweet::sparse
