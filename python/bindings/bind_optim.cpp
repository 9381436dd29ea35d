// The optimizer's own pass, from rows of addresses.
#include "bittersweet/optim.hpp"

#include "optim_rows.hpp"

namespace py = pybind11;

namespace bittersweet::python {
namespace {

// Rows whose dead weights were not all zero.
std::vector<std::size_t> step(const py::buffer& table, const py::buffer& groups, bool contracted, int lanes_f32,
                              int lanes_16bit, float scale, bool weights_only) {
  OptimRows rows(table, groups_of(groups));
  const AdamCall call{
      {contracted, static_cast<std::uint8_t>(lanes_f32), static_cast<std::uint8_t>(lanes_16bit)}, scale, weights_only};
  std::vector<double> steps;
  for (const float* const count : rows.counts) steps.push_back(static_cast<double>(*count + 1.0f));
  const py::gil_scoped_release release;
  const std::vector<std::uint8_t> dirty = step_adam(rows.tensors, rows.options, steps, call, rows.trusted);
  for (float* const count : rows.counts) *count += 1.0f;
  std::vector<std::size_t> found;
  for (std::size_t t = 0; t < dirty.size(); ++t)
    if (dirty[t]) found.push_back(t);
  return found;
}

template <std::size_t N>
py::tuple names_of(const std::array<const char*, N>& columns) {
  py::tuple names(N);
  for (std::size_t i = 0; i < N; ++i) names[i] = columns[i];
  return names;
}

}  // namespace

void bind_optim(py::module_& module) {
  module.attr("OPTIM_COLUMNS") = names_of(optim_columns);
  module.attr("OPTION_COLUMNS") = names_of(option_columns);
  module.def("step_adam", &step, py::arg("table"), py::arg("groups"), py::arg("contracted"), py::arg("lanes_f32"),
             py::arg("lanes_16bit"), py::arg("scale"), py::arg("weights_only"));
}

}  // namespace bittersweet::python
