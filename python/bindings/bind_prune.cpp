// Thresholds and masks: options in, report out. The interpreter lock is released while the weights are read, and
// taken between passes to let Ctrl-C through.
#include <functional>
#include <numeric>

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

// How many elements each tensor gives to a share of all, as `make_masks` under scope tensor counts them where nothing
// is dead.
std::vector<std::int64_t> bound_budgets(const std::vector<std::vector<std::int64_t>>& shapes, double sparsity,
                                        const std::string& distribution) {
  std::vector<ScoreInputs> tensors(shapes.size());
  std::int64_t total = 0;
  for (std::size_t t = 0; t < shapes.size(); ++t) {
    ScoreInputs& tensor = tensors[t];
    tensor.numel = std::accumulate(shapes[t].begin(), shapes[t].end(), std::int64_t{1}, std::multiplies<>());
    tensor.dimension_sum = std::accumulate(shapes[t].begin(), shapes[t].end(), std::int64_t{0});
    tensor.geometry.inputs = tensor.numel;
    total += tensor.numel;
  }
  return allocate(tensors, std::vector<std::int64_t>(tensors.size()), to_distribution(distribution),
                  resolve({sparsity, std::nullopt}, total), total, sparsity);
}

}  // namespace

void bind_prune(py::module_& module) {
  module.def("threshold", &bound_threshold, py::arg("table"), py::arg("names"), py::arg("scorer"), py::arg("selector"),
             py::kw_only(), py::arg("sparsity"), py::arg("k"), py::arg("ties"), py::arg("nonfinite"), py::arg("seed"),
             py::arg("regrow"));
  module.def("make_masks", &bound_make_masks, py::arg("table"), py::arg("names"), py::arg("scorer"),
             py::arg("selector"));
  module.def("tensor_budgets", &bound_budgets, py::arg("shapes"), py::arg("sparsity"), py::arg("distribution"));
}

}  // namespace bittersweet::python
