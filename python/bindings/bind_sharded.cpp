// Prunings by several processes: the map of who holds what, and what can be checked of it.
#include "bittersweet/sharded.hpp"

#include "selecting.hpp"
#include "table.hpp"

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

}  // namespace

void bind_sharded(py::module_& module) {
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
  module.def(
      "check_over_ranks",
      [](const ShardMap& map, const std::vector<std::string>& names, const py::tuple& scorer, const py::tuple& selector,
         const py::kwargs& given) {
        ShardedPrune::check(map, names, to_scorer(scorer), MaskArguments(selector, given).options);
      },
      py::arg("map"), py::arg("names"), py::arg("scorer"), py::arg("selector"));
}

}  // namespace bittersweet::python
