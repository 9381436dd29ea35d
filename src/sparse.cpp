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

const char* isa() { return engine().isa(); }

}  // namespace bittersweet::sparse
