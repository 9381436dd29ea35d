// Trackers on a device: the calls of bind_track.cpp on a queue, over memory that lies there.
#include "bittersweet/cuda_track.hpp"

#include "queue.hpp"
#include "track_rows.hpp"

namespace py = pybind11;

namespace bittersweet::python {

void bind_cuda_track(py::module_& module) {
  module.def(
      "cuda_track_bytes",
      [](const py::buffer& table, std::vector<std::string> names) {
        return cuda::track_workspace_bytes(Table(table, std::move(names)).tensors);
      },
      py::arg("table"), py::arg("names"));
  module.def(
      "cuda_track_coherence",
      [](const QueueSpec& queue, const py::buffer& table, std::vector<std::string> names, const py::buffer& memory,
         double decay, std::uint64_t seed, std::uintptr_t workspace, std::size_t bytes) {
        const Table rows(table, std::move(names));
        const std::vector<CoherenceMemory> states = coherence_of(memory, rows, seed);
        const py::gil_scoped_release release;
        cuda::track_coherence(to_queue(queue), rows.tensors, states, decay, reinterpret_cast<void*>(workspace), bytes);
      },
      py::arg("queue"), py::arg("table"), py::arg("names"), py::arg("memory"), py::arg("decay"), py::arg("seed"),
      py::arg("workspace_ptr"), py::arg("bytes"));
  module.def(
      "cuda_measure_retention",
      [](const QueueSpec& queue, const py::buffer& table, std::vector<std::string> names, const py::buffer& memory,
         std::uintptr_t found, std::uintptr_t workspace, std::size_t bytes) {
        const Table rows(table, std::move(names));
        const std::vector<CoherenceMemory> states = remembered_of(memory, rows);
        auto* const to = address<double>(found, static_cast<std::int64_t>(states.size()), "found");
        const py::gil_scoped_release release;
        cuda::measure_retention(to_queue(queue), rows.tensors, states, to, reinterpret_cast<void*>(workspace), bytes);
      },
      py::arg("queue"), py::arg("table"), py::arg("names"), py::arg("memory"), py::arg("found_ptr"),
      py::arg("workspace_ptr"), py::arg("bytes"));
  module.def(
      "cuda_track_sketch",
      [](const QueueSpec& queue, const py::buffer& table, std::vector<std::string> names, const py::buffer& memory,
         double decay) {
        const Table rows(table, std::move(names));
        const std::vector<SketchMemory> states = sketches_of(memory, rows);
        const py::gil_scoped_release release;
        cuda::track_sketch(to_queue(queue), rows.tensors, states, decay);
      },
      py::arg("queue"), py::arg("table"), py::arg("names"), py::arg("memory"), py::arg("decay"));
  module.def(
      "cuda_compare_snapshot",
      [](const QueueSpec& queue, const py::buffer& table, std::vector<std::string> names, const py::buffer& memory,
         std::uintptr_t workspace, std::size_t bytes) {
        const Table rows(table, std::move(names));
        const std::vector<SnapshotMemory> states = snapshots_of(memory, rows);
        const py::gil_scoped_release release;
        cuda::compare_snapshot(to_queue(queue), rows.tensors, states, reinterpret_cast<void*>(workspace), bytes);
      },
      py::arg("queue"), py::arg("table"), py::arg("names"), py::arg("memory"), py::arg("workspace_ptr"),
      py::arg("bytes"));
  module.def(
      "cuda_accumulate_movement",
      [](const QueueSpec& queue, const py::buffer& table, std::vector<std::string> names, const py::buffer& memory,
         const std::vector<float>& rates, std::uint64_t seed) {
        const Table rows(table, std::move(names));
        const std::vector<MovementMemory> states = movements_of(memory, rows, rates, seed);
        const py::gil_scoped_release release;
        cuda::accumulate_movement(to_queue(queue), rows.tensors, states);
      },
      py::arg("queue"), py::arg("table"), py::arg("names"), py::arg("memory"), py::arg("rates"), py::arg("seed"));
}

}  // namespace bittersweet::python
