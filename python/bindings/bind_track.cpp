// Scorers with a memory: one update over the whole model, and the modifiers of its scalars.
#include "bittersweet/track.hpp"

#include "track_rows.hpp"

namespace py = pybind11;

namespace bittersweet::python {
namespace {

// f(scalars of one tensor) for every address, as a list.
template <class F>
std::vector<double> modifiers(const py::buffer& scalars, F&& f) {
  std::vector<double> found;
  for (const std::uint64_t word : words_of(scalars, "scalars")) found.push_back(f(*scalars_at(word), found.size()));
  return found;
}

}  // namespace

void bind_track(py::module_& module) {
  module.attr("COHERENCE_WIDTH") = coherence_width;
  module.attr("SKETCH_PLACES") = SketchMemory::most;
  module.def(
      "track_coherence",
      [](const py::buffer& table, std::vector<std::string> names, const py::buffer& memory, double decay,
         std::uint64_t seed) {
        const Table rows(table, std::move(names));
        const std::vector<CoherenceMemory> states = coherence_of(memory, rows, seed);
        const py::gil_scoped_release release;
        track_coherence(rows.tensors, states, decay);
      },
      py::arg("table"), py::arg("names"), py::arg("memory"), py::arg("decay"), py::arg("seed"));
  module.def(
      "measure_retention",
      [](const py::buffer& table, std::vector<std::string> names, const py::buffer& memory) {
        const Table rows(table, std::move(names));
        const std::vector<CoherenceMemory> states = remembered_of(memory, rows);
        const py::gil_scoped_release release;
        return measure_retention(rows.tensors, states);
      },
      py::arg("table"), py::arg("names"), py::arg("memory"));
  module.def(
      "track_sketch",
      [](const py::buffer& table, std::vector<std::string> names, const py::buffer& memory, double decay) {
        const Table rows(table, std::move(names));
        const std::vector<SketchMemory> states = sketches_of(memory, rows);
        for (std::size_t t = 0; t < states.size(); ++t)
          for (std::int64_t i = 0; i < states[t].count; ++i)
            if (states[t].positions[i] < 0 || states[t].positions[i] >= rows.tensors[t].numel)
              throw ShapeError("positions: beyond the tensor");
        const py::gil_scoped_release release;
        track_sketch(rows.tensors, states, decay);
      },
      py::arg("table"), py::arg("names"), py::arg("memory"), py::arg("decay"));
  module.def(
      "compare_snapshot",
      [](const py::buffer& table, std::vector<std::string> names, const py::buffer& memory) {
        const Table rows(table, std::move(names));
        const std::vector<SnapshotMemory> states = snapshots_of(memory, rows);
        const py::gil_scoped_release release;
        compare_snapshot(rows.tensors, states);
      },
      py::arg("table"), py::arg("names"), py::arg("memory"));
  module.def(
      "accumulate_movement",
      [](const py::buffer& table, std::vector<std::string> names, const py::buffer& memory,
         const std::vector<float>& rates, std::uint64_t seed) {
        const Table rows(table, std::move(names));
        const std::vector<MovementMemory> states = movements_of(memory, rows, rates, seed);
        const py::gil_scoped_release release;
        accumulate_movement(rows.tensors, states);
      },
      py::arg("table"), py::arg("names"), py::arg("memory"), py::arg("rates"), py::arg("seed"));
  module.def("sketch_positions", &sketch_positions, py::arg("name"), py::arg("numel"), py::arg("seed"));
  module.def(
      "coherence_modifiers",
      [](const py::buffer& scalars, const std::vector<double>& retention, double alpha, int a, int b, int c, double d,
         double floor) {
        const CoherenceParameters parameters{alpha, d, floor, a, b, c};
        return modifiers(scalars, [&](const Coherence& s, std::size_t i) {
          return coherence_modifier(s, retention.at(i), parameters);
        });
      },
      py::arg("scalars"), py::arg("retention"), py::arg("alpha"), py::arg("a"), py::arg("b"), py::arg("c"),
      py::arg("d"), py::arg("floor"));
  module.def(
      "snapshot_modifiers",
      [](const py::buffer& scalars, double floor) {
        return modifiers(scalars, [&](const Coherence& s, std::size_t) { return snapshot_modifier(s, floor); });
      },
      py::arg("scalars"), py::arg("floor"));
}

}  // namespace bittersweet::python
