// Thresholds and masks: options in, report out. The interpreter lock is released while the weights are read, and
// taken between passes to let Ctrl-C through.
#include "selecting.hpp"
#include "table.hpp"
#include "workspace.hpp"

namespace py = pybind11;

namespace bittersweet::python {
namespace {

py::dict bound_threshold(const py::buffer& table, std::vector<std::string> names, const py::tuple& scorer,
                         const py::tuple& selector, std::optional<double> sparsity, std::optional<std::int64_t> k,
                         const std::optional<std::string>& ties, const std::string& nonfinite, std::uint64_t seed,
                         bool regrow) {
  const Table rows(table, std::move(names));
  const Scorer s = to_scorer(scorer);
  const PruneOptions options = to_options(selector, ties, nonfinite, seed, regrow);
  PruneReport report;
  {
    const py::gil_scoped_release release;
    BorrowedWorkspace workspace;
    report = threshold(rows.tensors, s, {sparsity, k}, options, *workspace);
  }
  return to_dict(report);
}

py::dict bound_make_masks(const py::buffer& table, std::vector<std::string> names, const py::tuple& scorer,
                          const py::tuple& selector, const py::kwargs& given) {
  const Table rows(table, std::move(names));
  const Scorer s = to_scorer(scorer);
  const MaskArguments arguments(selector, given);
  PruneReport report;
  {
    const py::gil_scoped_release release;
    BorrowedWorkspace workspace;
    report = make_masks(rows.tensors, s, arguments.budget, arguments.options, rows.new_masks, *workspace);
  }
  return masks_to_dict(report);
}

}  // namespace

void bind_prune(py::module_& module) {
  module.def("threshold", &bound_threshold, py::arg("table"), py::arg("names"), py::arg("scorer"), py::arg("selector"),
             py::kw_only(), py::arg("sparsity"), py::arg("k"), py::arg("ties"), py::arg("nonfinite"), py::arg("seed"),
             py::arg("regrow"));
  module.def("make_masks", &bound_make_masks, py::arg("table"), py::arg("names"), py::arg("scorer"),
             py::arg("selector"));
}

}  // namespace bittersweet::python
