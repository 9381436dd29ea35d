// The optimizer's own pass, from rows of addresses.
#include "bittersweet/optim.hpp"

#include <algorithm>
#include <cstring>

#include "optim_rows.hpp"
#include "selecting.hpp"
#include "workspace.hpp"

namespace py = pybind11;

namespace bittersweet::python {
namespace {

AdamCall to_call(bool contracted, int lanes_f32, int lanes_16bit, float scale, bool weights_only) {
  return {{contracted, static_cast<std::uint8_t>(lanes_f32), static_cast<std::uint8_t>(lanes_16bit)},
          scale,
          weights_only,
          {}};
}

// The counts of the step that is made, which its draws are numbered by.
std::vector<double> next_steps(OptimRows& rows) {
  std::vector<double> steps;
  steps.reserve(rows.counts.size());
  for (const float* const count : rows.counts) steps.push_back(static_cast<double>(*count + 1.0f));
  for (std::size_t t = 0; t < rows.draws.size(); ++t)
    if (rows.draws[t])
      rows.draws[t]->step = steps[t] < 0x1p62 ? static_cast<std::uint32_t>(static_cast<std::int64_t>(steps[t])) : 0;
  return steps;
}

std::vector<std::size_t> marked(const std::vector<std::uint8_t>& flags) {
  std::vector<std::size_t> found;
  for (std::size_t t = 0; t < flags.size(); ++t)
    if (flags[t]) found.push_back(t);
  return found;
}

// Rows whose dead weights were not all zero.
std::vector<std::size_t> step(const py::buffer& table, const py::buffer& groups, bool contracted, int lanes_f32,
                              int lanes_16bit, float scale, bool weights_only) {
  OptimRows rows(table, groups_of(groups));
  AdamCall call = to_call(contracted, lanes_f32, lanes_16bit, scale, weights_only);
  const std::vector<double> steps = next_steps(rows);
  call.draws = rows.draws;
  const py::gil_scoped_release release;
  const std::vector<std::uint8_t> dirty = step_adam(rows.tensors, rows.options, steps, call, rows.trusted);
  for (float* const count : rows.counts) *count += 1.0f;
  return marked(dirty);
}

// The elements of v at these places, in their order; none of an empty one.
template <class T>
std::vector<T> chosen(const std::vector<T>& v, const std::vector<std::size_t>& places) {
  std::vector<T> found;
  found.reserve(places.size());
  if (v.empty()) return found;
  for (const std::size_t place : places) found.push_back(v[place]);
  return found;
}

// The step; and in it new masks of the rows `order`, which are those of the table `competing`: as `make_masks` gives
// them, or None.
py::tuple step_and_make_masks(const py::buffer& table, const py::buffer& groups, bool contracted, int lanes_f32,
                              int lanes_16bit, float scale, bool weights_only, const std::vector<std::size_t>& order,
                              const py::buffer& competing, std::vector<std::string> names, const py::tuple& scorer,
                              const py::tuple& selector, const py::kwargs& given) {
  OptimRows rows(table, groups_of(groups));
  Table targets(competing, std::move(names));
  const AdamCall call = to_call(contracted, lanes_f32, lanes_16bit, scale, weights_only);
  AdamCall of_targets = call, of_rest = call;
  const Scorer s = to_scorer(scorer);
  MaskArguments arguments(selector, given);
  arguments.options.between_passes = nullptr;  // a step is not interrupted half-way
  std::vector<std::uint8_t> others(rows.tensors.size(), 1);
  if (order.size() != targets.tensors.size()) throw ArgumentError("order: one row of the step a target is needed");
  for (std::size_t t = 0; t < order.size(); ++t) {
    if (order[t] >= rows.tensors.size() || !others[order[t]]) throw ArgumentError("order: no row, or one twice");
    others[order[t]] = 0;
    const ScoreInputs& stepped = rows.tensors[order[t]];
    ScoreInputs& target = targets.tensors[t];
    if (stepped.numel != target.numel) throw ShapeError("order: a row of another size");
    target.weight = stepped.weight;
    target.grad = stepped.grad;
    target.exp_avg = stepped.exp_avg;
    target.exp_avg_sq = stepped.exp_avg_sq;
    target.max_exp_avg_sq = stepped.max_exp_avg_sq;
  }
  const std::vector<std::size_t> rest = marked(others);
  const std::vector<double> steps = next_steps(rows);
  const auto draws = chosen(rows.draws, order), other_draws = chosen(rows.draws, rest);
  of_targets.draws = draws;
  of_rest.draws = other_draws;
  SteppedMasks found;
  {
    const py::gil_scoped_release release;
    BorrowedWorkspace workspace;
    found = step_adam_and_make_masks(targets.tensors, chosen(rows.options, order), chosen(steps, order), of_targets, s,
                                     arguments.budget, arguments.options, targets.new_masks, *workspace);
    const std::vector<std::uint8_t> dirty = step_adam(chosen(rows.tensors, rest), chosen(rows.options, rest),
                                                      chosen(steps, rest), of_rest, chosen(rows.trusted, rest));
    std::vector<std::uint8_t> all(rows.tensors.size());
    for (std::size_t t = 0; t < order.size(); ++t) all[order[t]] = found.dirty[t];
    for (std::size_t t = 0; t < rest.size(); ++t) all[rest[t]] = dirty[t];
    found.dirty = all;
    for (float* const count : rows.counts) *count += 1.0f;
  }
  return py::make_tuple(marked(found.dirty), found.report ? py::object(masks_to_dict(*found.report)) : py::none());
}

// The word at a byte of an array or, where that is 0 as in what is pruned, the next one nearby that is not.
std::uint64_t word_near(const char* data, std::uint64_t bytes, std::uint64_t byte) {
  constexpr std::uint64_t nearby = 64;
  std::uint64_t word = 0;
  for (std::uint64_t i = 0; i < nearby && word == 0 && byte < bytes; ++i, byte += sizeof word)
    std::memcpy(&word, data + byte, std::min(sizeof word, bytes - byte));
  return word;
}

// A few words of every array of a table, mixed: another value, in all likelihood, after a write to a whole tensor.
std::uint64_t fingerprint(const py::buffer& table) {
  constexpr std::uint64_t places = 8, prime = 0x100000001b3u;
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const ScoreInputs& tensor : Table(table).tensors)
    for (const TensorView* array : {&tensor.weight, &tensor.exp_avg, &tensor.exp_avg_sq, &tensor.grad}) {
      if (array->data == nullptr) continue;
      const std::uint64_t bytes = static_cast<std::uint64_t>(tensor.numel) * size_of(array->dtype);
      for (std::uint64_t place = 0; place < places; ++place)
        hash = (hash ^ word_near(static_cast<const char*>(array->data), bytes, bytes / places * place)) * prime;
    }
  return hash;
}

template <std::size_t N>
py::tuple names_of(const std::array<const char*, N>& columns) {
  py::tuple names(N);
  for (std::size_t i = 0; i < N; ++i) names[i] = columns[i];
  return names;
}

}  // namespace

void bind_optim(py::module_& module) {
  module.attr("OPTIM_COLUMNS") = names_of(optim_columns);
  module.attr("OPTION_COLUMNS") = names_of(option_columns);
  module.def("step_adam", &step, py::arg("table"), py::arg("groups"), py::arg("contracted"), py::arg("lanes_f32"),
             py::arg("lanes_16bit"), py::arg("scale"), py::arg("weights_only"));
  module.def("fingerprint", &fingerprint, py::arg("table"));
  module.def("step_adam_and_make_masks", &step_and_make_masks, py::arg("table"), py::arg("groups"),
             py::arg("contracted"), py::arg("lanes_f32"), py::arg("lanes_16bit"), py::arg("scale"),
             py::arg("weights_only"), py::arg("order"), py::arg("competing"), py::arg("names"), py::arg("scorer"),
             py::arg("selector"));
}

}  // namespace bittersweet::python
