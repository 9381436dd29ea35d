// Sums of squares of a layer's inputs, by addresses: of the host, or of a device for a queue on it.
#include "bittersweet/calibration.hpp"

#include "bittersweet/cuda_calibration.hpp"
#include "packed_arrays.hpp"
#include "queue.hpp"

namespace py = pybind11;

namespace bittersweet::python {
namespace {

// x and its dtype, rows, columns; counted, together; times, period.
using InputSpec = std::tuple<std::uintptr_t, int, std::int64_t, std::int64_t, std::uintptr_t, std::int64_t,
                             std::uintptr_t, std::int64_t>;
using SumsSpec = std::pair<std::uintptr_t, std::uintptr_t>;  // sums, counts

LayerInput to_input(const InputSpec& spec) {
  const auto& [x, dtype, rows, columns, counted, together, times, period] = spec;
  return {.x = {reinterpret_cast<void*>(x), to_dtype(dtype)},
          .rows = rows,
          .columns = columns,
          .counted = reinterpret_cast<const std::uint8_t*>(counted),
          .together = together,
          .times = reinterpret_cast<const double*>(times),
          .period = period};
}

SquareSums to_sums(const SumsSpec& spec) {
  return {reinterpret_cast<double*>(spec.first), reinterpret_cast<std::int64_t*>(spec.second)};
}

}  // namespace

void bind_calibration(py::module_& module) {
  module.def(
      "add_squares",
      [](const InputSpec& input, const SumsSpec& sums) {
        const py::gil_scoped_release release;
        add_squares(to_input(input), to_sums(sums));
      },
      py::arg("input"), py::arg("sums"));
  module.def("cuda_calibration_bytes", &cuda::calibration_workspace_bytes, py::arg("rows"), py::arg("columns"));
  module.def(
      "cuda_add_squares",
      [](const QueueSpec& queue, const InputSpec& input, const SumsSpec& sums, std::uintptr_t workspace,
         std::size_t bytes) {
        const py::gil_scoped_release release;
        cuda::add_squares(to_queue(queue), to_input(input), to_sums(sums), reinterpret_cast<void*>(workspace), bytes);
      },
      py::arg("queue"), py::arg("input"), py::arg("sums"), py::arg("workspace_ptr"), py::arg("bytes"));
}

}  // namespace bittersweet::python
