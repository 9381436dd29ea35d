// Scores as arrays, and scorers from their Python description.
#include "table.hpp"

namespace py = pybind11;

namespace bittersweet::python {

Scorer to_scorer(const py::tuple& spec) {
  if (spec.size() != 4) throw ArgumentError("scorer: (name, eps, q, seed) is needed");
  const auto name = spec[0].cast<std::string>();
  Scorer scorer = make_scorer(name);
  const bool has_eps = !spec[1].is_none(), has_q = !spec[2].is_none();
  std::visit(
      [&](auto& s) {
        if (has_eps) {
          if constexpr (requires { s.eps; }) {
            s.eps = static_cast<float>(spec[1].cast<double>());
            if (!(s.eps >= 0.0f && s.eps <= std::numeric_limits<float>::max()))
              throw ArgumentError("eps: " + std::to_string(spec[1].cast<double>()) + " for scorer '" + name +
                                  "'; a finite number from 0 is accepted");
          } else {
            throw ArgumentError("eps: scorer '" + name + "' has none; leave it out");
          }
        }
        if (has_q) {
          if constexpr (requires { s.roots; }) {
            const auto q = spec[2].cast<double>();
            s.roots = q == 0.5 ? 1 : q == 0.25 ? 2 : q == 0.125 ? 3 : 0;
            if (s.roots == 0)
              throw ArgumentError("q: " + std::to_string(q) + " for scorer '" + name +
                                  "'; accepted are 0.5, 0.25 and 0.125");
          } else {
            throw ArgumentError("q: scorer '" + name + "' has none; leave it out");
          }
        }
        if constexpr (requires { s.seed; }) s.seed = spec[3].cast<std::uint64_t>();
      },
      scorer);
  return scorer;
}

void bind_score(py::module_& module) {
  module.def(
      "write_scores",
      [](const py::buffer& table, std::vector<std::string> names, const py::tuple& scorer, const py::buffer& out) {
        const Table rows(table, std::move(names));
        const Scorer s = to_scorer(scorer);
        const std::vector<float*> outputs = outputs_of(out, rows.tensors);
        const py::gil_scoped_release release;
        write_scores(rows.tensors, s, outputs);
      },
      py::arg("table"), py::arg("names"), py::arg("scorer"), py::arg("out"));
}

}  // namespace bittersweet::python
