// Masks: apply, verify, count, pack and unpack.
#include "bittersweet/bittersweet.hpp"
#include "table.hpp"

namespace py = pybind11;

namespace bittersweet::python {

void bind_mask(py::module_& module) {
  module.def(
      "apply_masks",
      [](const py::buffer& table, std::size_t which, std::uint32_t roles) {
        const Table rows(table);
        const py::gil_scoped_release release;
        apply_masks(rows.tensors, rows.masks_of(which), roles);
      },
      py::arg("table"), py::arg("which"), py::arg("roles"));
  module.def(
      "count_violations",
      [](const py::buffer& table, std::size_t which, std::uint32_t roles) {
        const Table rows(table);
        const py::gil_scoped_release release;
        return count_violations(rows.tensors, rows.masks_of(which), roles);
      },
      py::arg("table"), py::arg("which"), py::arg("roles"));
  module.def(
      "count_live",
      [](const py::buffer& table, std::size_t which) {
        const Table rows(table);
        const py::gil_scoped_release release;
        return count_live(rows.tensors, rows.masks_of(which));
      },
      py::arg("table"), py::arg("which"));
  module.def(
      "pack_mask",
      [](std::uintptr_t keep, std::int64_t numel, std::uintptr_t words) {
        const auto* const from = address<const unsigned char>(keep, numel, "mask");
        auto* const to = address<std::uint64_t>(words, numel, "words");
        const py::gil_scoped_release release;
        bits::pack(from, numel, to);
      },
      py::arg("bool_ptr"), py::arg("numel"), py::arg("words_ptr"));
  module.def(
      "unpack_mask",
      [](std::uintptr_t words, std::int64_t numel, std::uintptr_t keep) {
        const auto* const from = address<const std::uint64_t>(words, numel, "words");
        auto* const to = address<unsigned char>(keep, numel, "mask");
        const py::gil_scoped_release release;
        bits::unpack(from, numel, to);
      },
      py::arg("words_ptr"), py::arg("numel"), py::arg("bool_ptr"));
  module.def(
      "reorder_mask",
      [](std::uintptr_t words, std::int64_t numel, const std::pair<std::int64_t, std::int64_t>& order, bool to_memory,
         std::uintptr_t out) {
        const auto* const from = address<const std::uint64_t>(words, numel, "words");
        auto* const to = address<std::uint64_t>(out, numel, "out");
        const MemoryOrder in_memory{order.first, order.second};
        check_order(in_memory, numel, "order");
        const py::gil_scoped_release release;
        (to_memory ? bits::to_memory : bits::to_logical)(from, numel, in_memory, to);
      },
      py::arg("words_ptr"), py::arg("numel"), py::arg("order"), py::arg("to_memory"), py::arg("out_ptr"));
}

}  // namespace bittersweet::python
