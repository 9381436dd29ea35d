// Packed matrices, by the addresses of their three arrays.
#include "packed_arrays.hpp"
#include "workspace.hpp"

namespace py = pybind11;

namespace bittersweet::python {
namespace {

PackedMatrix packed_at(const PackedArrays& arrays) {
  const auto& [masks, mask_count, values, value_count, offsets, offset_count, dtype, height, width] = arrays;
  if (height < 0 || width < 0) throw ShapeError("packed weight: a negative number of rows or columns");
  check_length("masks", mask_count, strips::words(height, width));
  check_length("offsets", offset_count, strips::count(height) + 1);
  const auto* const places = address<const std::uint64_t>(offsets, 1, "offsets");
  const std::int64_t live = height > 0 ? static_cast<std::int64_t>(places[offset_count - 1]) : 0;
  check_length("values", value_count - strips::slack, live);
  return {.rows = height,
          .columns = width,
          .masks = address<const std::uint32_t>(masks, mask_count, "masks"),
          .values = array_at(values, dtype, live, "values"),
          .offsets = places};
}

// Addresses of bitmask, row offsets and values, and how many these are; dtype, rows, columns.
using RowArrays =
    std::tuple<std::uintptr_t, std::uintptr_t, std::uintptr_t, std::int64_t, int, std::int64_t, std::int64_t>;

RowMatrix rows_at(const RowArrays& arrays) {
  const auto& [bitmask, row_offsets, values, value_count, dtype, height, width] = arrays;
  return {.rows = height,
          .columns = width,
          .bitmask = address<std::uint8_t>(bitmask, height * ((width + 7) / 8), "bitmask"),
          .row_offsets = address<std::int64_t>(row_offsets, height, "row_offsets"),
          .values = array_at(values, dtype, value_count, "rows")};
}

}  // namespace

void bind_sparse(py::module_& module) {
  module.attr("STRIP_HEIGHT") = strips::height;
  module.attr("STRIP_WIDTH") = strips::width;
  module.attr("STRIP_SLACK") = strips::slack;
  module.def("strips_isa", &sparse::isa);
  module.def(
      "measure_strips",
      [](std::uintptr_t dense, int dtype, std::int64_t height, std::int64_t width, std::uintptr_t keep,
         std::uintptr_t masks, std::uintptr_t offsets) {
        const DenseMatrix matrix{array_at(dense, dtype, height * width, "matrix"), height, width};
        auto* const words = address<std::uint32_t>(masks, strips::words(height, width), "masks");
        auto* const places = address<std::uint64_t>(offsets, 1, "offsets");
        const auto* const kept = address<const std::uint64_t>(keep, 0, "keep");
        const py::gil_scoped_release release;
        return sparse::measure(matrix, kept, words, places);
      },
      py::arg("dense_ptr"), py::arg("dtype"), py::arg("rows"), py::arg("columns"), py::arg("keep_ptr"),
      py::arg("masks_ptr"), py::arg("offsets_ptr"));
  module.def(
      "pack_strips",
      [](std::uintptr_t dense, const PackedArrays& packed) {
        const PackedMatrix to = packed_at(packed);
        const DenseMatrix matrix{
            {address<char>(dense, to.rows * to.columns, "matrix"), to.values.dtype}, to.rows, to.columns};
        const py::gil_scoped_release release;
        sparse::pack(matrix, to.masks, to.offsets, to.values.data);
      },
      py::arg("dense_ptr"), py::arg("packed"));
  module.def(
      "unpack_strips",
      [](const PackedArrays& packed, std::int64_t first_row, std::int64_t rows, std::uintptr_t out) {
        const PackedMatrix from = packed_at(packed);
        auto* const to = address<char>(out, rows * from.columns, "out");
        const py::gil_scoped_release release;
        sparse::unpack(from, first_row, rows, to);
      },
      py::arg("packed"), py::arg("first_row"), py::arg("rows"), py::arg("out_ptr"));
  module.def(
      "strips_to_rows",
      [](const PackedArrays& packed, const RowArrays& rows) {
        const PackedMatrix from = packed_at(packed);
        const RowMatrix to = rows_at(rows);
        check_length("values", std::get<3>(rows), from.live());
        const py::gil_scoped_release release;
        sparse::to_rows(from, to);
      },
      py::arg("packed"), py::arg("rows"));
  module.def(
      "strips_from_rows",
      [](const RowArrays& rows, std::uintptr_t masks, std::uintptr_t offsets, std::uintptr_t values) {
        const RowMatrix from = rows_at(rows);
        const std::int64_t count = std::get<3>(rows);
        auto* const words = address<std::uint32_t>(masks, strips::words(from.rows, from.columns), "masks");
        auto* const places = address<std::uint64_t>(offsets, 1, "offsets");
        auto* const to = address<char>(values, count, "values");
        const py::gil_scoped_release release;
        sparse::from_rows(from, count, words, places, to);
      },
      py::arg("rows"), py::arg("masks_ptr"), py::arg("offsets_ptr"), py::arg("values_ptr"));
  module.def(
      "check_rows",
      [](const RowArrays& rows) {
        const RowMatrix matrix = rows_at(rows);
        const py::gil_scoped_release release;
        sparse::check(matrix, std::get<3>(rows));
      },
      py::arg("rows"));
  module.def(
      "multiply_strips",
      [](const PackedArrays& packed, std::uintptr_t x, std::int64_t batch, std::uintptr_t bias, std::uintptr_t y,
         int dtype, bool reproducible) {
        const PackedMatrix matrix = packed_at(packed);
        const StripProduct product = product_of(matrix, x, batch, bias, y, dtype, reproducible);
        const py::gil_scoped_release release;
        BorrowedWorkspace workspace;
        sparse::multiply(matrix, product, *workspace);
      },
      py::arg("packed"), py::arg("x_ptr"), py::arg("batch"), py::arg("bias_ptr"), py::arg("y_ptr"), py::arg("dtype"),
      py::arg("reproducible") = true);
  module.def(
      "check_strips",
      [](const PackedArrays& packed) {
        const PackedMatrix matrix = packed_at(packed);
        const py::gil_scoped_release release;
        sparse::check(matrix, matrix.live());
      },
      py::arg("packed"));
}

}  // namespace bittersweet::python
