// Stochastic rounding, from rows of addresses.
#include "bittersweet/rounding.hpp"

#include "table.hpp"

namespace py = pybind11;

namespace bittersweet::python {

void bind_rounding(py::module_& module) {
  // Rows of (from, to, numel); row i draws from stream + i.
  module.def(
      "stochastic_round",
      [](const py::buffer& rows, std::uint64_t seed, std::uint32_t step, std::uint32_t stream) {
        const std::span<const std::uint64_t> words = words_of(rows, "rows");
        if (words.size() % 3 != 0) throw ArgumentError("rows: (from, to, numel) is needed for each array");
        std::vector<RoundedArray> arrays;
        for (std::size_t row = 0; row < words.size(); row += 3) {
          const auto numel = static_cast<std::int64_t>(words[row + 2]);
          arrays.push_back({address<const float>(words[row], numel, "from"),
                            address<std::uint16_t>(words[row + 1], numel, "to"),
                            numel,
                            {seed, step, stream++}});
        }
        const py::gil_scoped_release release;
        stochastic_round(arrays);
      },
      py::arg("rows"), py::arg("seed"), py::arg("step"), py::arg("stream"));
  module.attr("ROUNDING_STREAMS") = RoundingKey::streams;
}

}  // namespace bittersweet::python
