// The public functions of delta matrices: checks, then the verbs of the CPU engine.
#include <array>
#include <string>

#include "bittersweet/engine/cpu_delta.hpp"
#include "bittersweet/error.hpp"
#include "bittersweet/sparse.hpp"
#include "fp_environment.hpp"
#include "nvtx_range.hpp"
#include "sparse_checks.hpp"

namespace bittersweet::sparse {
namespace {

CpuDelta& engine() {
  static CpuDelta chosen;
  return chosen;
}

void check_packed(const DeltaMatrix& packed) {
  check_shape(packed.rows, packed.columns);
  if (packed.offsets == nullptr) throw LayoutError("offsets: there are none");
  if (packed.codes == nullptr && packed.groups() > 0) throw LayoutError("codes: there are none");
  check_array("values", packed.values, packed.steps() * delta::group);
}

[[noreturn]] void fail(std::int64_t group, const std::string& what) {
  throw LayoutError("group " + std::to_string(group) + ": " + what);
}

// What one block must be: each row has a place of its own, sorted by number, and its codes ascend within the block.
class BlockCheck {
 public:
  BlockCheck(const DeltaMatrix& packed, std::int64_t group, std::int64_t present, std::int64_t rows, std::int64_t width)
      : packed_(packed), group_(group), width_(static_cast<std::uint8_t>(width)) {
    const std::uint8_t* const places = codes(group, packed.offsets[group]);
    row_at_.fill(delta::height);
    for (std::int64_t row = 0; row < rows; ++row) {
      if (places[row] >= rows || row_at_[places[row]] != delta::height)
        fail(group, "the places of its rows are no permutation");
      row_at_[places[row]] = row;
    }
    start_ = rows;
    std::int64_t previous = delta::most_columns;
    for (std::int64_t place = 0; place < rows; ++place) {
      const std::int64_t g = group + place / delta::group, count = count_at(place);
      if (count > 0 && row_at_[static_cast<std::size_t>(place)] >= present) fail(g, "it stores rows beyond the matrix");
      if (place % delta::group == 0 && count != steps(g)) fail(g, "it has more steps than values in its first row");
      const bool later =
          place > 0 && row_at_[static_cast<std::size_t>(place)] > row_at_[static_cast<std::size_t>(place - 1)];
      if (count > previous || (place > 0 && count == previous && !later)) fail(g, "its rows are not sorted");
      previous = count;
      live_ += count;
    }
  }

  std::int64_t live() const noexcept { return live_; }

 private:
  // From the group's first step on; those of a block's first group begin with the places.
  const std::uint8_t* codes(std::int64_t group, std::uint64_t step) const {
    return packed_.codes + delta::group * (static_cast<std::int64_t>(step) + group);
  }
  std::int64_t steps(std::int64_t group) const {
    return static_cast<std::int64_t>(packed_.offsets[group + 1] - packed_.offsets[group]);
  }

  std::int64_t count_at(std::int64_t place) const {
    const std::int64_t group = group_ + place / delta::group, lane = place % delta::group;
    const std::uint64_t first = packed_.offsets[group];
    const std::uint8_t* const code = codes(group_, first) + start_ + lane;
    std::int64_t count = 0;
    for (std::int64_t step = 0, last = 0; step < steps(group); ++step) {
      const std::int64_t found = code[step * delta::group];
      if (found > width_) fail(group, "a code lies beyond the columns of its block");
      if (found == 0) {
        const std::int64_t at = (static_cast<std::int64_t>(first) + step) * delta::group + lane;
        if (bits_at(at) != delta::nothing(packed_.values.dtype)) fail(group, "a value without a code is not -0");
      } else if (count < step || found <= last) {
        fail(group, "the codes of a row do not ascend, or one follows a 0");
      } else {
        ++count;
        last = found;
      }
    }
    return count;
  }

  std::uint32_t bits_at(std::int64_t at) const {
    if (size_of(packed_.values.dtype) == 2) return static_cast<const std::uint16_t*>(packed_.values.data)[at];
    return static_cast<const std::uint32_t*>(packed_.values.data)[at];
  }

  const DeltaMatrix& packed_;
  const std::int64_t group_;
  const std::uint8_t width_;
  std::int64_t start_ = 0, live_ = 0;
  std::array<std::int64_t, delta::height> row_at_{};
};

}  // namespace

DeltaSize measure_delta(const DenseMatrix& dense, const std::uint64_t* keep, std::uint64_t* offsets) {
  const NvtxRange range("bittersweet::sparse::measure_delta");
  check_dense(dense);
  const std::int64_t groups = delta::groups(dense.rows, dense.columns);
  const DeltaCount found = engine().count_delta(dense, keep, {offsets + 1, static_cast<std::size_t>(groups)});
  refuse_lost(found.lost);
  offsets[0] = 0;
  for (std::int64_t group = 0; group < groups; ++group) offsets[group + 1] += offsets[group];
  offsets[groups + 1] = static_cast<std::uint64_t>(found.live);
  return {static_cast<std::int64_t>(offsets[groups]), found.live};
}

void pack_delta(const DenseMatrix& dense, const std::uint64_t* keep, const std::uint64_t* offsets, std::uint8_t* codes,
                void* values) {
  const NvtxRange range("bittersweet::sparse::pack_delta");
  check_dense(dense);
  const DeltaMatrix packed{dense.rows, dense.columns, codes, {values, dense.elements.dtype}, offsets};
  check_packed(packed);
  if (!engine().pack_delta(dense, keep, packed, codes, values))
    throw ArgumentError("matrix: it or its mask has changed since it was measured; measure it again");
}

PackedDelta pack_delta(const DenseMatrix& dense, const std::uint64_t* keep) {
  check_dense(dense);
  PackedDelta made{.rows = dense.rows, .columns = dense.columns, .dtype = dense.elements.dtype};
  made.offsets.resize(static_cast<std::size_t>(delta::groups(dense.rows, dense.columns) + 2));
  const DeltaSize size = measure_delta(dense, keep, made.offsets.data());
  made.codes.resize(static_cast<std::size_t>(delta::codes(dense.rows, dense.columns, size.steps)));
  made.values.resize(static_cast<std::size_t>(size.steps * delta::group) * size_of(made.dtype));
  pack_delta(dense, keep, made.offsets.data(), made.codes.data(), made.values.data());
  return made;
}

void unpack(const DeltaMatrix& packed, std::int64_t first_row, std::int64_t rows, void* out) {
  const NvtxRange range("bittersweet::sparse::unpack");
  check_packed(packed);
  check_rows(packed.rows, first_row, rows, delta::height, "panels of 256 rows");
  if (rows == 0 || packed.columns == 0) return;
  check_array("out", {out, packed.values.dtype}, rows * packed.columns);
  engine().unpack_delta(packed, first_row / delta::height, delta::panels(rows), out);
}

void multiply(const DeltaMatrix& packed, const StripProduct& product, Workspace& workspace) {
  const NvtxRange range("bittersweet::sparse::multiply");
  check_packed(packed);
  check_product(packed.rows, packed.columns, product);
  const FpEnvironment environment;
  engine().multiply_delta(packed, product, workspace);
}

void check(const DeltaMatrix& packed, std::int64_t codes, std::int64_t values) {
  check_shape(packed.rows, packed.columns);
  if (packed.offsets == nullptr) throw LayoutError("offsets: there are none");
  if (packed.offsets[0] != 0) throw LayoutError("offsets: the first is not 0");
  for (std::int64_t group = 0; group < packed.groups(); ++group)  // before anything is read at them
    if (packed.offsets[group + 1] - packed.offsets[group] > delta::most_columns)
      fail(group, "its offsets are not 0 to 255 steps apart");
  if (values != delta::group * packed.steps() || codes != delta::codes(packed.rows, packed.columns, packed.steps()))
    throw LayoutError("values: " + std::to_string(values) + ", codes: " + std::to_string(codes) +
                      "; the offsets speak of " + std::to_string(packed.steps()) + " steps of 32");
  check_packed(packed);
  std::int64_t group = 0;
  std::uint64_t live = 0;
  for (std::int64_t panel = 0; panel < packed.panels(); ++panel) {
    const std::int64_t present = delta::rows_of(packed.rows, panel), groups = delta::groups_of(packed.rows, panel);
    for (std::int64_t block = 0; block < packed.blocks(); ++block, group += groups)
      live += static_cast<std::uint64_t>(
          BlockCheck(packed, group, present, groups * delta::group, delta::width_of(packed.columns, block)).live());
  }
  if (packed.offsets[packed.groups() + 1] != live)
    throw LayoutError("offsets: " + std::to_string(packed.live()) + " values, and the codes have " +
                      std::to_string(live));
}

}  // namespace bittersweet::sparse
