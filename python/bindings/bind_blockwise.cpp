// Pruning of checkpoints block by block. Memory comes as buffers, whose sizes are looked at before they are read.
#include "bittersweet/blockwise.hpp"

#include "options.hpp"
#include "table.hpp"
#include "workspace.hpp"

namespace py = pybind11;

namespace bittersweet::python {
namespace {

DType to_dtype(int code) {
  if (code < 1 || code > 3) throw DTypeError("dtype: unknown code " + std::to_string(code));
  return static_cast<DType>(code);
}

// A part of a weight in memory: (rows, inputs, inner, transposed), its input norms or None, and its tensor's name.
struct Block {
  Block(const py::buffer& memory, int dtype, const std::tuple<std::int64_t, std::int64_t, std::int64_t, bool>& shape,
        const py::object& norms, std::string tensor, bool writes)
      : name(std::move(tensor)), info(memory.request(writes)) {
    const auto [rows, inputs, inner, transposed] = shape;
    for (const std::int64_t size : {rows, inputs, inner})
      if (size < 0 || size > std::int64_t{1} << 31) throw ShapeError("block: a size of " + std::to_string(size));
    const auto columns = static_cast<std::uint64_t>(inputs) * static_cast<std::uint64_t>(inner);  // up to 2^62
    const auto bytes = static_cast<std::uint64_t>(info.size) * static_cast<std::uint64_t>(info.itemsize);
    if (columns != 0 && static_cast<std::uint64_t>(rows) > bytes / columns)
      throw ShapeError("block: memory of " + std::to_string(bytes) + " bytes for more elements");
    block.weight = {info.ptr, to_dtype(dtype)};
    block.numel = rows * inputs * inner;
    if (info.ndim != 1 || info.itemsize != 1 || (info.size > 0 && info.strides[0] != 1) ||
        bytes != static_cast<std::uint64_t>(block.numel) * size_of(block.weight.dtype))
      throw ShapeError("block: memory of " + std::to_string(bytes) + " bytes for " + std::to_string(block.numel) +
                       " elements of " + name_of(block.weight.dtype) + "; as many bytes, side by side, are needed");
    block.geometry = transposed ? Geometry{rows, inputs, inner, inner, rows * inner}
                                : Geometry{rows, inputs, inner, inputs * inner, inner};
    block.name = name;
    if (norms.is_none()) return;
    norm = norms.cast<py::buffer>().request();
    if (norm.ndim != 1 || norm.itemsize != 4 || norm.size != inputs || (inputs > 0 && norm.strides[0] != 4))
      throw ShapeError("norms: " + std::to_string(norm.size) + " for " + std::to_string(inputs) +
                       " inputs; one float32 each is needed");
    block.input_norm = {norm.ptr, DType::f32};
  }

  std::string name;
  py::buffer_info info, norm;
  ScoreInputs block;
};

using Shape = std::tuple<std::int64_t, std::int64_t, std::int64_t, bool>;

// All elements of the block under one budget and scope of their own.
std::int64_t prune_block(const py::buffer& memory, int dtype, const Shape& shape, const py::object& norms,
                         const std::string& name, const py::tuple& scorer, double sparsity, const std::string& scope,
                         const std::string& rounding, const std::string& remainder) {
  const Block given(memory, dtype, shape, norms, name, true);
  const Scorer s = to_scorer(scorer);
  PruneOptions options;
  options.scope = parse_scope(scope);
  options.rounding =
      choose<Rounding>("rounding", rounding, {{"nearest", Rounding::nearest}, {"floor", Rounding::floor}});
  options.remainder =
      choose<Remainder>("remainder", remainder, {{"error", Remainder::error}, {"keep", Remainder::keep}});
  const py::gil_scoped_release release;
  BorrowedWorkspace workspace;
  std::vector<std::uint64_t> words(static_cast<std::size_t>(bits::words(given.block.numel)));
  std::uint64_t* const mask = words.data();
  return prune(std::span(&given.block, 1), s, {.sparsity = sparsity}, options, MaskTable(&mask, 1), *workspace).pruned;
}

const char* name_of_pass(Pass pass) {
  switch (pass) {
    case Pass::sample: return "sample";
    case Pass::count: return "count";
    case Pass::write: break;
  }
  return "write";
}

}  // namespace

void bind_blockwise(py::module_& module) {
  py::class_<BlockwisePrune>(module, "BlockwisePrune")
      .def(py::init([](std::int64_t total, double sparsity, const py::tuple& scorer) {
             return BlockwisePrune(total, {.sparsity = sparsity}, to_scorer(scorer));
           }),
           py::arg("total"), py::arg("sparsity"), py::arg("scorer"))
      .def_property_readonly("stage", [](const BlockwisePrune& run) { return name_of_pass(run.pass()); })
      .def("sample_positions", &BlockwisePrune::sample_positions)
      .def("sample",
           [](BlockwisePrune& run, const py::buffer& memory, int dtype, const Shape& shape, const py::object& norms,
              const std::string& name) { run.sample(Block(memory, dtype, shape, norms, name, false).block); })
      .def("count",
           [](BlockwisePrune& run, const py::buffer& memory, int dtype, const Shape& shape, const py::object& norms,
              const std::string& name, std::int64_t first) {
             const Block given(memory, dtype, shape, norms, name, false);
             const py::gil_scoped_release release;
             run.count(given.block, first);
           })
      .def("next", &BlockwisePrune::next)
      .def("write",
           [](BlockwisePrune& run, const py::buffer& memory, int dtype, const Shape& shape, const py::object& norms,
              const std::string& name) {
             const Block given(memory, dtype, shape, norms, name, true);
             const py::gil_scoped_release release;
             return run.write(given.block);
           })
      .def("finish", &BlockwisePrune::finish)
      .def("report", [](const BlockwisePrune& run) {
        py::dict found;
        found["k"] = run.k();
        found["passes"] = run.counting_passes();
        found["threshold"] = exactly(run.k() > 0 ? std::optional(run.selection().value) : std::nullopt);
        found["count_below"] = run.selection().below;
        found["count_equal"] = run.selection().equal;
        return found;
      });

  py::class_<NonFiniteWatch>(module, "NonFiniteWatch")
      .def(py::init<>())
      .def("look",
           [](NonFiniteWatch& watch, const py::buffer& memory, int dtype, const Shape& shape, const py::object& norms,
              const std::string& name, std::int64_t first, const py::tuple& scorer, const std::string& scope) {
             const Block given(memory, dtype, shape, norms, name, false);
             const Scorer s = to_scorer(scorer);
             const Scope by = parse_scope(scope);
             const py::gil_scoped_release release;
             watch.look(given.block, first, s, by);
           })
      .def("raise_if_found", &NonFiniteWatch::raise);

  module.def("prune_block", &prune_block, py::arg("memory"), py::arg("dtype"), py::arg("shape"), py::arg("norms"),
             py::arg("name"), py::arg("scorer"), py::arg("sparsity"), py::arg("scope"), py::arg("rounding"),
             py::arg("remainder"));
}

}  // namespace bittersweet::python
