// Delta matrices, by the addresses of their three arrays.
#include "packed_arrays.hpp"
#include "workspace.hpp"

namespace py = pybind11;

namespace bittersweet::python {
namespace {

DeltaMatrix delta_at(const PackedArrays& arrays) {
  const auto& [codes, code_count, values, value_count, offsets, offset_count, dtype, height, width] = arrays;
  if (height < 0 || width < 0) throw ShapeError("packed weight: a negative number of rows or columns");
  const std::int64_t groups = delta::groups(height, width);
  check_length("offsets", offset_count, groups + 2);
  const std::uint64_t steps = address<const std::uint64_t>(offsets, 2, "offsets")[groups];
  if (steps > static_cast<std::uint64_t>(value_count))
    throw LayoutError("packed weight: its offsets speak of " + std::to_string(steps) + " steps, and it has " +
                      std::to_string(value_count) + " values");
  return delta_of(arrays, static_cast<std::int64_t>(steps));
}

}  // namespace

void bind_delta(py::module_& module) {
  module.attr("DELTA_HEIGHT") = delta::height;
  module.attr("DELTA_GROUP") = delta::group;
  module.attr("DELTA_COLUMNS") = delta::most_columns;
  module.def(
      "measure_delta",
      [](std::uintptr_t dense, int dtype, std::int64_t height, std::int64_t width, std::uintptr_t keep,
         std::uintptr_t offsets) {
        const DenseMatrix matrix{array_at(dense, dtype, height * width, "matrix"), height, width};
        auto* const places = address<std::uint64_t>(offsets, 2, "offsets");
        const auto* const kept = address<const std::uint64_t>(keep, 0, "keep");
        sparse::DeltaSize size;
        {
          const py::gil_scoped_release release;
          size = sparse::measure_delta(matrix, kept, places);
        }
        return std::pair(size.steps, size.live);
      },
      py::arg("dense_ptr"), py::arg("dtype"), py::arg("rows"), py::arg("columns"), py::arg("keep_ptr"),
      py::arg("offsets_ptr"));
  module.def(
      "pack_delta",
      [](std::uintptr_t dense, std::uintptr_t keep, const PackedArrays& packed) {
        const DeltaMatrix to = delta_at(packed);
        const DenseMatrix matrix{
            {address<char>(dense, to.rows * to.columns, "matrix"), to.values.dtype}, to.rows, to.columns};
        const auto* const kept = address<const std::uint64_t>(keep, 0, "keep");
        const py::gil_scoped_release release;
        sparse::pack_delta(matrix, kept, to.offsets, const_cast<std::uint8_t*>(to.codes), to.values.data);
      },
      py::arg("dense_ptr"), py::arg("keep_ptr"), py::arg("packed"));
  module.def(
      "unpack_delta",
      [](const PackedArrays& packed, std::int64_t first_row, std::int64_t rows, std::uintptr_t out) {
        const DeltaMatrix from = delta_at(packed);
        auto* const to = address<char>(out, rows * from.columns, "out");
        const py::gil_scoped_release release;
        sparse::unpack(from, first_row, rows, to);
      },
      py::arg("packed"), py::arg("first_row"), py::arg("rows"), py::arg("out_ptr"));
  module.def(
      "multiply_delta",
      [](const PackedArrays& packed, std::uintptr_t x, std::int64_t batch, std::uintptr_t bias, std::uintptr_t y,
         int dtype, bool reproducible) {
        const DeltaMatrix matrix = delta_at(packed);
        const StripProduct product = product_of(matrix, x, batch, bias, y, dtype, reproducible);
        const py::gil_scoped_release release;
        BorrowedWorkspace workspace;
        sparse::multiply(matrix, product, *workspace);
      },
      py::arg("packed"), py::arg("x_ptr"), py::arg("batch"), py::arg("bias_ptr"), py::arg("y_ptr"), py::arg("dtype"),
      py::arg("reproducible") = true);
  module.def(
      "check_delta",
      [](const PackedArrays& packed) {
        const DeltaMatrix matrix = delta_at(packed);
        const py::gil_scoped_release release;
        sparse::check(matrix, std::get<1>(packed), std::get<3>(packed));
      },
      py::arg("packed"));
}

}  // namespace bittersweet::python
