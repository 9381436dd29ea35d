// What the CUDA engine does beside steps: packed matrices, and stochastic rounding. Addresses are those of a device, so
// that what lies there (offsets, the number of values) is Python's to know.
#include "bittersweet/cuda_sparse.hpp"

#include "packed_arrays.hpp"
#include "queue.hpp"
#include "rounding_rows.hpp"

namespace py = pybind11;

namespace bittersweet::python {
namespace {

PackedMatrix packed_on_device(const PackedArrays& arrays) {
  const auto& [masks, mask_count, values, value_count, offsets, offset_count, dtype, height, width] = arrays;
  if (height < 0 || width < 0) throw ShapeError("packed weight: a negative number of rows or columns");
  check_length("masks", mask_count, strips::words(height, width));
  check_length("offsets", offset_count, strips::count(height) + 1);
  if (value_count < strips::slack)
    throw LayoutError("packed weight: " + std::to_string(value_count) + " values; " + std::to_string(strips::slack) +
                      " that are not stored stand behind the last");
  return {.rows = height,
          .columns = width,
          .masks = address<const std::uint32_t>(masks, mask_count, "masks"),
          .values = array_at(values, dtype, value_count, "values"),
          .offsets = address<const std::uint64_t>(offsets, offset_count, "offsets")};
}

// The device alone knows how many steps its offsets speak of: those that there are values for.
DeltaMatrix delta_on_device(const PackedArrays& arrays) { return delta_of(arrays, std::get<3>(arrays) / delta::group); }

}  // namespace

void bind_cuda_sparse(py::module_& module) {
  module.def(
      "cuda_stochastic_round",
      [](const QueueSpec& queue, const py::buffer& rows, std::uint64_t seed, std::uint32_t step, std::uint32_t stream) {
        const std::vector<RoundedArray> arrays = rounded_arrays(rows, seed, step, stream);
        const py::gil_scoped_release release;
        cuda::stochastic_round(to_queue(queue), arrays);
      },
      py::arg("queue"), py::arg("rows"), py::arg("seed"), py::arg("step"), py::arg("stream"));
  module.def(
      "cuda_count_strips",
      [](const QueueSpec& queue, std::uintptr_t dense, int dtype, std::int64_t height, std::int64_t width,
         std::uintptr_t keep, std::uintptr_t masks, std::uintptr_t offsets, std::uintptr_t lost) {
        const DenseMatrix matrix{array_at(dense, dtype, height * width, "matrix"), height, width};
        auto* const words = address<std::uint32_t>(masks, strips::words(height, width), "masks");
        auto* const places = address<std::uint64_t>(offsets, 1, "offsets");
        const auto* const kept = address<const std::uint64_t>(keep, 0, "keep");
        auto* const dropped = address<std::int64_t>(lost, 0, "lost");
        const py::gil_scoped_release release;
        cuda::count_strips(to_queue(queue), matrix, kept, words, places, dropped);
      },
      py::arg("queue"), py::arg("dense_ptr"), py::arg("dtype"), py::arg("rows"), py::arg("columns"),
      py::arg("keep_ptr"), py::arg("masks_ptr"), py::arg("offsets_ptr"), py::arg("lost_ptr"));
  module.def(
      "cuda_pack_strips",
      [](const QueueSpec& queue, std::uintptr_t dense, const PackedArrays& packed) {
        const PackedMatrix to = packed_on_device(packed);
        const DenseMatrix matrix{
            {address<char>(dense, to.rows * to.columns, "matrix"), to.values.dtype}, to.rows, to.columns};
        const py::gil_scoped_release release;
        cuda::pack_strips(to_queue(queue), matrix, to.masks, to.offsets, to.values.data);
      },
      py::arg("queue"), py::arg("dense_ptr"), py::arg("packed"));
  module.def(
      "cuda_unpack_strips",
      [](const QueueSpec& queue, const PackedArrays& packed, std::int64_t first_row, std::int64_t rows,
         std::uintptr_t out) {
        const PackedMatrix from = packed_on_device(packed);
        auto* const to = address<char>(out, rows * from.columns, "out");
        const py::gil_scoped_release release;
        cuda::unpack_strips(to_queue(queue), from, first_row, rows, to);
      },
      py::arg("queue"), py::arg("packed"), py::arg("first_row"), py::arg("rows"), py::arg("out_ptr"));
  module.def(
      "cuda_multiply_strips",
      [](const QueueSpec& queue, const PackedArrays& packed, std::uintptr_t x, std::int64_t batch, std::uintptr_t bias,
         std::uintptr_t y, int dtype) {
        const PackedMatrix matrix = packed_on_device(packed);
        const StripProduct product = product_of(matrix, x, batch, bias, y, dtype, true);
        const py::gil_scoped_release release;
        cuda::multiply_strips(to_queue(queue), matrix, product);
      },
      py::arg("queue"), py::arg("packed"), py::arg("x_ptr"), py::arg("batch"), py::arg("bias_ptr"), py::arg("y_ptr"),
      py::arg("dtype"));
  module.def(
      "cuda_count_delta",
      [](const QueueSpec& queue, std::uintptr_t dense, int dtype, std::int64_t height, std::int64_t width,
         std::uintptr_t keep, std::uintptr_t offsets, std::uintptr_t lost) {
        const DenseMatrix matrix{array_at(dense, dtype, height * width, "matrix"), height, width};
        auto* const places = address<std::uint64_t>(offsets, 2, "offsets");
        const auto* const kept = address<const std::uint64_t>(keep, 0, "keep");
        auto* const dropped = address<std::int64_t>(lost, 0, "lost");
        const py::gil_scoped_release release;
        cuda::count_delta(to_queue(queue), matrix, kept, places, dropped);
      },
      py::arg("queue"), py::arg("dense_ptr"), py::arg("dtype"), py::arg("rows"), py::arg("columns"),
      py::arg("keep_ptr"), py::arg("offsets_ptr"), py::arg("lost_ptr"));
  module.def(
      "cuda_pack_delta",
      [](const QueueSpec& queue, std::uintptr_t dense, std::uintptr_t keep, const PackedArrays& packed) {
        const DeltaMatrix to = delta_on_device(packed);
        const DenseMatrix matrix{
            {address<char>(dense, to.rows * to.columns, "matrix"), to.values.dtype}, to.rows, to.columns};
        const auto* const kept = address<const std::uint64_t>(keep, 0, "keep");
        const py::gil_scoped_release release;
        cuda::pack_delta(to_queue(queue), matrix, kept, to.offsets, const_cast<std::uint8_t*>(to.codes),
                         to.values.data);
      },
      py::arg("queue"), py::arg("dense_ptr"), py::arg("keep_ptr"), py::arg("packed"));
  module.def(
      "cuda_unpack_delta",
      [](const QueueSpec& queue, const PackedArrays& packed, std::int64_t first_row, std::int64_t rows,
         std::uintptr_t out) {
        const DeltaMatrix from = delta_on_device(packed);
        auto* const to = address<char>(out, rows * from.columns, "out");
        const py::gil_scoped_release release;
        cuda::unpack_delta(to_queue(queue), from, first_row, rows, to);
      },
      py::arg("queue"), py::arg("packed"), py::arg("first_row"), py::arg("rows"), py::arg("out_ptr"));
  module.def("cuda_delta_bytes", &cuda::delta_workspace_bytes, py::arg("rows"), py::arg("columns"), py::arg("batch"));
  module.def(
      "cuda_multiply_delta",
      [](const QueueSpec& queue, const PackedArrays& packed, std::uintptr_t x, std::int64_t batch, std::uintptr_t bias,
         std::uintptr_t y, int dtype, std::uintptr_t workspace, std::size_t bytes) {
        const DeltaMatrix matrix = delta_on_device(packed);
        const StripProduct product = product_of(matrix, x, batch, bias, y, dtype, true);
        const py::gil_scoped_release release;
        cuda::multiply_delta(to_queue(queue), matrix, product, reinterpret_cast<void*>(workspace), bytes);
      },
      py::arg("queue"), py::arg("packed"), py::arg("x_ptr"), py::arg("batch"), py::arg("bias_ptr"), py::arg("y_ptr"),
      py::arg("dtype"), py::arg("workspace_ptr"), py::arg("bytes"));
}

}  // namespace bittersweet::python
