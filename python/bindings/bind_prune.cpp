// Thresholds and masks: options in, report out. The interpreter lock is released while the weights are read, and
// taken between passes to let Ctrl-C through.
#include "options.hpp"
#include "table.hpp"
#include "workspace.hpp"

namespace py = pybind11;

namespace bittersweet::python {
namespace {

Selector to_selector(const py::tuple& spec) {
  if (spec.size() != 4) throw ArgumentError("selector: (name, fraction, verify, tolerance) is needed");
  Selector selector = make_selector(spec[0].cast<std::string>());
  if (auto* sampling = std::get_if<Sampling>(&selector)) {
    sampling->fraction = spec[1].cast<double>();
    sampling->verify = spec[2].cast<bool>();
  }
  if (auto* streaming = std::get_if<Streaming>(&selector)) streaming->tolerance = spec[3].cast<double>();
  return selector;
}

PruneOptions to_options(const py::tuple& selector, const std::optional<std::string>& ties, const std::string& nonfinite,
                        std::uint64_t seed, bool regrow) {
  PruneOptions options;
  options.selector = to_selector(selector);
  options.ties = to_ties(ties);
  options.nonfinite = to_nonfinite(nonfinite);
  options.seed = seed;
  options.regrow = regrow;
  options.between_passes = [] {
    const py::gil_scoped_acquire acquire;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  };
  return options;
}

template <class T>
py::object or_none(const std::optional<T>& value) {
  return value ? py::cast(*value) : py::none();
}

py::object counted(std::int64_t count) { return count < 0 ? py::none() : py::object(py::int_(count)); }

py::dict to_dict(const PruneReport& report) {
  py::dict d;
  d["value"] = exactly(report.value);
  d["k"] = report.k;
  d["total"] = report.total;
  d["pruned"] = counted(report.pruned);
  d["dead"] = report.dead;
  d["count_below"] = counted(report.count_below);
  d["count_equal"] = counted(report.count_equal);
  d["passes"] = report.passes;
  d["extra_bytes"] = report.extra_bytes;
  d["nonfinite"] = report.nonfinite;
  d["standard_error"] = or_none(report.standard_error);
  d["converged"] = report.converged;
  d["path"] = report.path;
  d["v_below_eps"] = or_none(report.v_below_eps);
  d["v_zero"] = or_none(report.v_zero);
  return d;
}

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
                          const py::tuple& selector, std::optional<double> sparsity, std::optional<std::int64_t> k,
                          const std::string& scope, const std::optional<std::string>& distribution,
                          const std::string& rounding, const std::string& remainder,
                          std::optional<double> max_tensor_sparsity, const std::optional<std::string>& ties,
                          const std::string& nonfinite, std::uint64_t seed, bool regrow) {
  const Table rows(table, std::move(names));
  const Scorer s = to_scorer(scorer);
  PruneOptions options = to_options(selector, ties, nonfinite, seed, regrow);
  options.scope = parse_scope(scope);
  if (distribution)
    options.distribution = choose<Distribution>("distribution", *distribution,
                                                {{"uniform", Distribution::uniform},
                                                 {"erk", Distribution::erk},
                                                 {"layer_adaptive", Distribution::layer_adaptive}});
  options.rounding =
      choose<Rounding>("rounding", rounding, {{"nearest", Rounding::nearest}, {"floor", Rounding::floor}});
  options.remainder =
      choose<Remainder>("remainder", remainder, {{"error", Remainder::error}, {"keep", Remainder::keep}});
  options.max_tensor_sparsity = max_tensor_sparsity;
  PruneReport report;
  {
    const py::gil_scoped_release release;
    BorrowedWorkspace workspace;
    report = make_masks(rows.tensors, s, {sparsity, k}, options, rows.new_masks, *workspace);
  }
  py::dict d = to_dict(report);
  d["tensor_pruned"] = report.tensor_pruned;
  py::list thresholds;
  for (const auto& value : report.tensor_threshold) thresholds.append(exactly(value));
  d["tensor_threshold"] = thresholds;
  d["churn"] = report.churn;
  d["empty_rows"] = report.empty_rows;
  return d;
}

}  // namespace

void bind_prune(py::module_& module) {
  module.def("threshold", &bound_threshold, py::arg("table"), py::arg("names"), py::arg("scorer"), py::arg("selector"),
             py::kw_only(), py::arg("sparsity"), py::arg("k"), py::arg("ties"), py::arg("nonfinite"), py::arg("seed"),
             py::arg("regrow"));
  module.def("make_masks", &bound_make_masks, py::arg("table"), py::arg("names"), py::arg("scorer"),
             py::arg("selector"), py::kw_only(), py::arg("sparsity"), py::arg("k"), py::arg("scope"),
             py::arg("distribution"), py::arg("rounding"), py::arg("remainder"), py::arg("max_tensor_sparsity"),
             py::arg("ties"), py::arg("nonfinite"), py::arg("seed"), py::arg("regrow"));
}

}  // namespace bittersweet::python
