// What is inside: versions, instruction sets, lists of scorers and selectors, threads.
#include "bittersweet/version.hpp"
#include "table.hpp"
#include "workspace.hpp"

namespace py = pybind11;

namespace bittersweet::python {
namespace {

py::list names_read(std::uint32_t mask) {
  py::list names;
  const std::pair<std::uint32_t, const char*> all[] = {
      {reads::weight, "weight"}, {reads::exp_avg, "exp_avg"},       {reads::exp_avg_sq, "exp_avg_sq"},
      {reads::grad, "grad"},     {reads::input_norm, "input_norm"}, {reads::scores, "scores"},
      {reads::step, "step"},     {reads::modifier, "modifier"}};
  for (const auto& [bit, name] : all)
    if (mask & bit) names.append(name);
  return names;
}

py::dict row_of(const ScorerInfo& info, std::string_view name, bool alias) {
  py::dict row;
  row["name"] = std::string(name);
  row["alias_of"] = alias ? py::object(py::str(std::string(info.name))) : py::none();
  row["formula"] = std::string(info.formula);
  row["reads"] = names_read(info.reads);
  row["default_eps"] = info.default_eps < 0 ? py::object(py::none()) : py::float_(double{info.default_eps});
  row["signed"] = !info.non_negative;
  return row;
}

}  // namespace

void bind_info(py::module_& module) {
  module.attr("__version__") = BITTERSWEET_VERSION_STRING;
  py::tuple names(columns.size());
  for (std::size_t i = 0; i < columns.size(); ++i) names[i] = columns[i];
  module.attr("TABLE_COLUMNS") = names;

  module.def("build_info", [] {
    const BuildInfo info = build_info();
    py::dict result;
    result["version"] = info.version;
    result["compiler"] = info.compiler;
    result["build_type"] = info.build_type;
    result["cuda"] = info.cuda;
    result["isa"] = info.isa;
    result["isa_available"] = info.isa_available;
    result["threads"] = num_threads();
    result["workspace_bytes"] = shared_workspace_bytes();
    return result;
  });
  module.def("scorer_table", [] {
    py::list rows;
    for_each_scorer([&](const auto& scorer) { rows.append(row_of(scorer.info, scorer.info.name, false)); });
    for (const auto& tracked : tracked_scorers) rows.append(row_of(tracked.info, tracked.info.name, false));
    for (const auto& alias : scorer_aliases) rows.append(row_of(info_of(make_scorer(alias.of)), alias.name, true));
    return rows;
  });
  module.def("selector_names", [] {
    std::vector<std::string> all;
    for_each_selector([&](const auto& selector) { all.emplace_back(selector.name); });
    return all;
  });
  module.def("set_num_threads", &set_num_threads, py::arg("n"));
  module.def("get_num_threads", &num_threads);
  module.def("lend_openmp_threads", &lend_openmp_threads, py::arg("name"));
  module.def("release_workspace", &release_shared_workspace);
}

}  // namespace bittersweet::python
