// The rounds of prunings by several processes, on the CPU or on a device. Python adds the vectors over ranks. The
// classes are each module's own: what stands in for CUDA in tests has them, too.
#include "bittersweet/cuda_sharded.hpp"
#include "queue.hpp"
#include "selecting.hpp"
#include "table.hpp"
#include "workspace.hpp"

namespace py = pybind11;

namespace bittersweet::python {
namespace {

// int32 in memory that lives as long as this.
struct RoundVector {
  std::shared_ptr<void> owner;
  std::span<std::int32_t> numbers;

  static py::memoryview view(std::shared_ptr<void> owner, std::span<std::int32_t> numbers) {
    return py::memoryview(py::cast(RoundVector{std::move(owner), numbers}));
  }
};

using DeviceSpec = std::tuple<QueueSpec, std::uintptr_t, std::size_t>;  // and its workspace: address and bytes

// A ShardedPrune and all that it borrows, but the map and memory of a device.
struct Run {
  Table rows;
  bool masks;
  BorrowedWorkspace workspace{};
  std::optional<ShardedPrune> prune{};
};

class BoundRun {
 public:
  BoundRun(const ShardMap& map, std::int64_t rank, const py::buffer& table, std::vector<std::string> names,
           const std::vector<std::int64_t>& tensors, const std::vector<std::string>& names_of_all,
           const py::tuple& scorer, const py::tuple& selector, const std::string& agreement, bool masks,
           const std::optional<DeviceSpec>& device, const py::kwargs& given)
      : run_(new Run{Table(table, std::move(names)), masks}) {
    const MaskArguments arguments(selector, given);
    const std::optional<MaskTable> written = masks ? std::optional<MaskTable>(run_->rows.new_masks) : std::nullopt;
    const std::vector<ScoreInputs>& rows = run_->rows.tensors;
    const Scorer s = to_scorer(scorer);
    if (!device) {
      run_->prune.emplace(map, rank, rows, tensors, names_of_all, s, arguments.budget, arguments.options, agreement,
                          written, *run_->workspace);
      return;
    }
    const auto& [queue, workspace, bytes] = *device;
    run_->prune.emplace(cuda::sharded_prune(to_queue(queue), map, rank, rows, tensors, names_of_all, s,
                                            arguments.budget, arguments.options, agreement, written,
                                            reinterpret_cast<void*>(workspace), bytes, *run_->workspace));
  }

  py::object next(bool fault) {
    std::span<std::int32_t> vector;
    {
      const py::gil_scoped_release release;
      vector = run_->prune->next(fault);
    }
    if (vector.empty()) return py::none();
    return RoundVector::view(run_, vector);
  }

  py::dict report() const {
    const PruneReport& report = run_->prune->report();
    py::dict d = run_->masks ? masks_to_dict(report) : to_dict(report);
    d["rounds"] = run_->prune->rounds();
    d["bytes_sent"] = run_->prune->bytes();
    return d;
  }

  const std::string& agreement() const { return run_->prune->agreement(); }

 private:
  std::shared_ptr<Run> run_;
};

}  // namespace

void bind_rounds(py::module_& module) {
  py::class_<RoundVector>(module, "RoundVector", py::buffer_protocol(), py::module_local())
      .def_buffer([](RoundVector& vector) {
        return py::buffer_info(vector.numbers.data(), static_cast<py::ssize_t>(vector.numbers.size()));
      });
  py::class_<BoundRun>(module, "ShardedPrune", py::module_local())
      .def(py::init<const ShardMap&, std::int64_t, const py::buffer&, std::vector<std::string>,
                    const std::vector<std::int64_t>&, const std::vector<std::string>&, const py::tuple&,
                    const py::tuple&, const std::string&, bool, const std::optional<DeviceSpec>&, const py::kwargs&>(),
           py::keep_alive<1, 2>(), py::arg("map"), py::arg("rank"), py::arg("table"), py::arg("names"),
           py::arg("tensors"), py::arg("names_of_all"), py::arg("scorer"), py::arg("selector"), py::arg("agreement"),
           py::arg("masks") = true, py::arg("device") = py::none())
      .def("next", &BoundRun::next, py::arg("fault") = false)
      .def("report", &BoundRun::report)
      .def_property_readonly("agreement", &BoundRun::agreement);
  module.def("fault_vector", [] {
    const auto vector = std::make_shared<std::vector<std::int32_t>>(ShardedPrune::fault_vector());
    return RoundVector::view(vector, *vector);
  });
  module.def(
      "cuda_sharded_bytes",
      [](const py::buffer& table, std::vector<std::string> names) {
        return cuda::sharded_workspace_bytes(Table(table, std::move(names)).tensors);
      },
      py::arg("table"), py::arg("names"));
}

}  // namespace bittersweet::python
