// Prunings by several processes: the map of who holds what, and the rounds. Python adds the vectors over ranks.
#include "bittersweet/sharded.hpp"
#include "bittersweet/sharded/setup.hpp"

#include "selecting.hpp"
#include "table.hpp"
#include "workspace.hpp"

namespace py = pybind11;

namespace bittersweet::python {
namespace {

// Rows of `columns` signed 64-bit words, as array('q') gives.
std::span<const std::int64_t> rows_of(const py::buffer& buffer, std::size_t width, const char* argument) {
  const py::buffer_info info = buffer.request();
  const auto size = static_cast<std::size_t>(info.size);
  if (info.itemsize != 8 || !PyBuffer_IsContiguous(info.view(), 'C') || size % width != 0)
    throw ArgumentError(std::string(argument) + ": rows of " + std::to_string(width) + " 64-bit words are needed");
  return {static_cast<const std::int64_t*>(info.ptr), size};
}

ShardMap make_map(std::vector<std::vector<std::int64_t>> shapes, const py::buffer& boxes, std::int64_t ranks,
                  const std::optional<py::buffer>& geometries) {
  constexpr std::size_t width = 2 + 2 * Box::most_axes;
  const std::span<const std::int64_t> words = rows_of(boxes, width, "boxes");
  std::vector<Box> all(words.size() / width);
  for (std::size_t b = 0; b < all.size(); ++b) {
    const std::int64_t* const row = words.data() + b * width;
    all[b].tensor = row[0];
    all[b].rank = row[1];
    std::copy_n(row + 2, Box::most_axes, all[b].offset.begin());
    std::copy_n(row + 2 + Box::most_axes, Box::most_axes, all[b].size.begin());
  }
  std::vector<Geometry> rows;
  if (geometries) {
    const std::span<const std::int64_t> given = rows_of(*geometries, 6, "geometries");
    for (std::size_t at = 0; at < given.size(); at += 6)
      rows.push_back({given[at], given[at + 1], given[at + 2], given[at + 3], given[at + 4], given[at + 5]});
  }
  return ShardMap(std::move(shapes), all, ranks, std::move(rows));
}

// The part that a rank holds of a tensor, as its `which`-th.
const ShardMap::Part& part_of(const ShardMap& map, std::int64_t tensor, std::int64_t rank, std::size_t which) {
  if (tensor < 0 || tensor >= static_cast<std::int64_t>(map.tensors()) || rank < 0 || rank >= map.ranks())
    throw ArgumentError("tensor, rank: " + std::to_string(tensor) + ", " + std::to_string(rank) + " in a map of " +
                        std::to_string(map.tensors()) + " tensors and " + std::to_string(map.ranks()) + " ranks");
  const std::vector<std::size_t>& held = map.held(rank, static_cast<std::size_t>(tensor));
  if (which >= held.size())
    throw ArgumentError("which: " + std::to_string(which) + " of the " + std::to_string(held.size()) +
                        " parts that rank " + std::to_string(rank) + " holds of tensor " + std::to_string(tensor));
  return map.parts()[held[which]];
}

// int32 in memory that lives as long as this.
struct RoundVector {
  std::shared_ptr<void> owner;
  std::span<std::int32_t> numbers;

  static py::memoryview view(std::shared_ptr<void> owner, std::span<std::int32_t> numbers) {
    return py::memoryview(py::cast(RoundVector{std::move(owner), numbers}));
  }
};

// A ShardedPrune and all that it borrows, but the map.
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
           const py::kwargs& given)
      : run_(new Run{Table(table, std::move(names)), masks}) {
    const MaskArguments arguments(selector, given);
    const std::optional<MaskTable> written = masks ? std::optional<MaskTable>(run_->rows.new_masks) : std::nullopt;
    run_->prune.emplace(map, rank, run_->rows.tensors, tensors, names_of_all, to_scorer(scorer), arguments.budget,
                        arguments.options, agreement, written, *run_->workspace);
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

void bind_sharded(py::module_& module) {
  py::class_<RoundVector>(module, "RoundVector", py::buffer_protocol()).def_buffer([](RoundVector& vector) {
    return py::buffer_info(vector.numbers.data(), static_cast<py::ssize_t>(vector.numbers.size()));
  });
  py::class_<ShardMap>(module, "ShardMap")
      .def(py::init(&make_map), py::arg("shapes"), py::arg("boxes"), py::arg("ranks"),
           py::arg("geometries") = py::none())
      .def_property_readonly("ranks", &ShardMap::ranks)
      .def_property_readonly("total", &ShardMap::total)
      .def_property_readonly("units", [](const ShardMap& map) { return map.units(); })
      .def(
          "boxed", [](const ShardMap& map, std::size_t tensor) { return map.boxed(tensor); }, py::arg("tensor"))
      .def(
          "copies",
          [](const ShardMap& map, std::int64_t tensor, std::int64_t rank, std::size_t which) {
            return part_of(map, tensor, rank, which).copies;
          },
          py::arg("tensor"), py::arg("rank"), py::arg("which") = 0)
      .def(
          "counts",  // does the rank count for its part?
          [](const ShardMap& map, std::int64_t tensor, std::int64_t rank, std::size_t which) {
            return part_of(map, tensor, rank, which).rank == rank;
          },
          py::arg("tensor"), py::arg("rank"), py::arg("which") = 0);
  py::class_<BoundRun>(module, "ShardedPrune")
      .def(py::init<const ShardMap&, std::int64_t, const py::buffer&, std::vector<std::string>,
                    const std::vector<std::int64_t>&, const std::vector<std::string>&, const py::tuple&,
                    const py::tuple&, const std::string&, bool, const py::kwargs&>(),
           py::keep_alive<1, 2>(), py::arg("map"), py::arg("rank"), py::arg("table"), py::arg("names"),
           py::arg("tensors"), py::arg("names_of_all"), py::arg("scorer"), py::arg("selector"), py::arg("agreement"),
           py::arg("masks") = true)
      .def("next", &BoundRun::next, py::arg("fault") = false)
      .def("report", &BoundRun::report)
      .def_property_readonly("agreement", &BoundRun::agreement);
  module.def(
      "check_over_ranks",
      [](const ShardMap& map, const std::vector<std::string>& names, const py::tuple& scorer, const py::tuple& selector,
         const py::kwargs& given) {
        flow::check_sharded({.map = &map, .names = names}, to_scorer(scorer), MaskArguments(selector, given).options);
      },
      py::arg("map"), py::arg("names"), py::arg("scorer"), py::arg("selector"));
  module.def("fault_vector", [] {
    const auto vector = std::make_shared<std::vector<std::int32_t>>(ShardedPrune::fault_vector());
    return RoundVector::view(vector, *vector);
  });
}

}  // namespace bittersweet::python
