// Stochastic rounding, from rows of addresses.
#include "rounding_rows.hpp"

namespace py = pybind11;

namespace bittersweet::python {

void bind_rounding(py::module_& module) {
  module.def(
      "stochastic_round",
      [](const py::buffer& rows, std::uint64_t seed, std::uint32_t step, std::uint32_t stream) {
        const std::vector<RoundedArray> arrays = rounded_arrays(rows, seed, step, stream);
        const py::gil_scoped_release release;
        stochastic_round(arrays);
      },
      py::arg("rows"), py::arg("seed"), py::arg("step"), py::arg("stream"));
  module.attr("ROUNDING_STREAMS") = RoundingKey::streams;
}

}  // namespace bittersweet::python
