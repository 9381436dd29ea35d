#include "selecting.hpp"

#include <pybind11/stl.h>

#include "table.hpp"

namespace py = pybind11;

namespace bittersweet::python {
namespace {

Selector to_selector(const py::tuple& spec) {
  if (spec.size() != 5) throw ArgumentError("selector: (name, fraction, verify, tolerance, by) is needed");
  Selector selector = make_selector(spec[0].cast<std::string>());
  if (auto* sampling = std::get_if<Sampling>(&selector)) {
    sampling->fraction = spec[1].cast<double>();
    sampling->verify = spec[2].cast<bool>();
    sampling->by = choose<Sampling::By>("by", spec[4].cast<std::string>(),
                                        {{"line", Sampling::By::line}, {"element", Sampling::By::element}});
  }
  if (auto* streaming = std::get_if<Streaming>(&selector)) streaming->tolerance = spec[3].cast<double>();
  return selector;
}

template <class T>
py::object or_none(const std::optional<T>& value) {
  return value ? py::cast(*value) : py::none();
}

// One keyword argument; the wrapper in Python gives them all.
template <class T>
T take(const py::kwargs& given, const char* name) {
  if (!given.contains(name)) throw ArgumentError(std::string(name) + ": missing");
  return given[name].cast<T>();
}

}  // namespace

Distribution to_distribution(const std::string& given) {
  return choose<Distribution>("distribution", given,
                              {{"uniform", Distribution::uniform},
                               {"erk", Distribution::erk},
                               {"layer_adaptive", Distribution::layer_adaptive}});
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

py::object counted(std::int64_t count) { return count < 0 ? py::none() : py::object(py::int_(count)); }

PruneOptions to_mask_options(const py::tuple& selector, const py::kwargs& given) {
  PruneOptions options =
      to_options(selector, take<std::optional<std::string>>(given, "ties"), take<std::string>(given, "nonfinite"),
                 take<std::uint64_t>(given, "seed"), take<bool>(given, "regrow"));
  options.scope = parse_scope(take<std::string>(given, "scope"));
  if (const auto distribution = take<std::optional<std::string>>(given, "distribution"))
    options.distribution = to_distribution(*distribution);
  options.rounding = choose<Rounding>("rounding", take<std::string>(given, "rounding"),
                                      {{"nearest", Rounding::nearest}, {"floor", Rounding::floor}});
  options.remainder = choose<Remainder>("remainder", take<std::string>(given, "remainder"),
                                        {{"error", Remainder::error}, {"keep", Remainder::keep}});
  options.max_tensor_sparsity = take<std::optional<double>>(given, "max_tensor_sparsity");
  using Counts = std::vector<std::pair<std::int64_t, std::int64_t>>;
  for (const auto& [least, most] : take<std::optional<Counts>>(given, "tensor_sparsity").value_or(Counts{}))
    options.tensor_sparsity.push_back({least, most});
  return options;
}

MaskArguments::MaskArguments(const py::tuple& selector, const py::kwargs& given)
    : budget{take<std::optional<double>>(given, "sparsity"), take<std::optional<std::int64_t>>(given, "k")},
      options(to_mask_options(selector, given)) {}

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

py::dict masks_to_dict(const PruneReport& report) {
  py::dict d = to_dict(report);
  d["tensor_pruned"] = report.tensor_pruned;
  py::list thresholds;
  for (const auto& value : report.tensor_threshold) thresholds.append(exactly(value));
  d["tensor_threshold"] = thresholds;
  d["churn"] = report.churn;
  d["empty_rows"] = counted(report.empty_rows);
  return d;
}

}  // namespace bittersweet::python
