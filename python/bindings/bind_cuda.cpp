// The CUDA engine: the same table with addresses on a device, and a stream. Nothing here waits for the device; what a
// step found is decoded from a copy that Python made.
#include "bittersweet/cuda.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "optim_rows.hpp"
#include "queue.hpp"
#include "selecting.hpp"

namespace py = pybind11;

namespace bittersweet::python {
namespace {

static_assert(sizeof(cuda::StepReport) % 8 == 0 && alignof(cuda::StepReport) == 8);
constexpr std::size_t report_words = sizeof(cuda::StepReport) / 8;

template <class T>
T* at(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// A step's options, and the ranges that they point to.
struct StepChoices {
  PruneOptions selection;
  cuda::StepOptions options;

  // (selector, keyword arguments of make_masks without a budget, zero, address of thresholds or 0)
  explicit StepChoices(const py::tuple& spec) {
    if (spec.size() != 4) throw ArgumentError("options: (selector, arguments, zero, tensor_threshold) is needed");
    selection = to_mask_options(spec[0].cast<py::tuple>(), spec[1].cast<py::kwargs>());
    options = {.ties = selection.ties,
               .nonfinite = selection.nonfinite,
               .seed = selection.seed,
               .regrow = selection.regrow,
               .zero = spec[2].cast<std::uint32_t>(),
               .selector = selection.selector,
               .scope = selection.scope,
               .distribution = selection.distribution,
               .rounding = selection.rounding,
               .remainder = selection.remainder,
               .max_tensor_sparsity = selection.max_tensor_sparsity,
               .tensor_sparsity = selection.tensor_sparsity,
               .tensor_threshold = at<float>(spec[3].cast<std::uintptr_t>())};
  }
  StepChoices(const StepChoices&) = delete;
  StepChoices& operator=(const StepChoices&) = delete;
};

// What lies in device memory during a step, by its address.
struct StepMemory {
  std::uintptr_t budget, report, tensor_pruned, workspace;
  std::size_t workspace_bytes;
};

StepMemory to_memory(const py::tuple& spec) {
  if (spec.size() != 5) throw ArgumentError("memory: (budget, report, tensor_pruned, workspace, bytes) is needed");
  return {spec[0].cast<std::uintptr_t>(), spec[1].cast<std::uintptr_t>(), spec[2].cast<std::uintptr_t>(),
          spec[3].cast<std::uintptr_t>(), spec[4].cast<std::size_t>()};
}

void step(const QueueSpec& queue, const py::buffer& table, std::vector<std::string> names, const py::tuple& scorer,
          const py::tuple& options, const py::tuple& memory, bool masks) {
  const Table rows(table, std::move(names));
  const Scorer s = to_scorer(scorer);
  const StepChoices choices(options);
  const StepMemory m = to_memory(memory);
  const py::gil_scoped_release release;
  cuda::step(to_queue(queue), rows.tensors, s, at<const cuda::StepBudget>(m.budget), choices.options,
             masks ? MaskTable(rows.new_masks) : MaskTable(), at<std::int64_t>(m.tensor_pruned), at<void>(m.workspace),
             m.workspace_bytes, at<cuda::StepReport>(m.report));
}

// The sequence is as long as a model: the tensor that holds one position, and the index in it.
std::pair<std::size_t, std::int64_t> locate(std::int64_t position, const std::vector<std::int64_t>& numels) {
  for (std::size_t t = 0; t < numels.size(); ++t) {
    if (position < numels[t]) return {t, position};
    position -= numels[t];
  }
  throw Error("report: position " + std::to_string(position) + " lies after the last tensor");
}

// The report, copied to the host, followed by one count of pruned elements a tensor; raises what the step found wrong.
// `scope`: what it decided by; thresholds of scope 'tensor', and where tensors are `bounded`, follow the counts, two a
// word.
py::dict read_report(const py::buffer& words, const std::vector<std::string>& names,
                     const std::vector<std::int64_t>& numels, const std::string& nonfinite, bool masks,
                     const std::string& scope, bool bounded) {
  const std::span<const std::uint64_t> found = words_of(words, "words");
  const std::size_t count = names.size();
  if (found.size() < report_words + count + (count + 1) / 2 || numels.size() != count)
    throw ArgumentError("words: " + std::to_string(found.size()) + " for a report of " + std::to_string(report_words) +
                        ", counts and thresholds of " + std::to_string(count) + " tensors");
  const bool global = scope == "global";
  std::array<std::uint64_t, report_words> raw;
  std::copy_n(found.begin(), report_words, raw.begin());
  const auto report = std::bit_cast<cuda::StepReport>(raw);
  if ((report.status & cuda::status::bad_k) && report.k >= 0 && report.k <= report.total)
    raise_outside(report.below, report.equal, std::max(report.k, report.dead), report.dead, report.total);
  if (report.status & cuda::status::bad_k)
    throw ArgumentError("k: " + std::to_string(report.k) + "; accepted are 0 to " + std::to_string(report.total) +
                        ", the number of eligible elements");
  if ((report.status & cuda::status::failed) || (report.nan > 0 && to_nonfinite(nonfinite) == NonFinite::error)) {
    const auto [tensor, index] = locate(report.first_nan, numels);
    throw NonFiniteScoreError(names[tensor], report.nan, index);
  }
  py::dict d;
  d["value"] = global ? exactly(report.value) : py::object(py::none());
  d["k"] = report.k;
  d["total"] = report.total;
  d["pruned"] = counted(report.pruned);
  d["dead"] = report.dead;
  d["count_below"] = counted(report.below);
  d["count_equal"] = counted(report.equal);
  d["passes"] = double{report.passes};
  d["extra_bytes"] = 0;
  d["nonfinite"] = report.nan;
  d["standard_error"] = std::isnan(report.standard_error) ? py::object(py::none()) : py::float_(report.standard_error);
  d["converged"] = report.converged != 0;
  d["path"] = parse_scope(scope).in_groups()
                  ? std::string("groups")
                  : std::string(name_of(static_cast<Place>(report.place))) +
                        (report.status & cuda::status::overflow ? ", candidates overflowed" : "");
  const auto share = [&](std::int64_t part) {
    return report.v_sampled > 0
               ? py::object(py::float_(static_cast<double>(part) / static_cast<double>(report.v_sampled)))
               : py::none();
  };
  d["v_below_eps"] = share(report.v_below_eps);
  d["v_zero"] = share(report.v_zero);
  if (!masks) return d;
  std::vector<std::int64_t> pruned(count);
  std::transform(found.begin() + report_words, found.begin() + report_words + static_cast<std::ptrdiff_t>(count),
                 pruned.begin(), [](std::uint64_t word) { return static_cast<std::int64_t>(word); });
  d["tensor_pruned"] = pruned;
  std::vector<py::object> thresholds(count, global && !bounded ? exactly(report.value) : py::object(py::none()));
  for (std::size_t t = 0; (scope == "tensor" || bounded) && t < count; ++t) {
    const std::uint64_t pair = found[report_words + count + t / 2];
    const auto value = std::bit_cast<float>(static_cast<std::uint32_t>(t % 2 == 0 ? pair : pair >> 32));
    if (!std::isnan(value)) thresholds[t] = exactly(value);
  }
  d["tensor_threshold"] = thresholds;
  d["churn"] = report.churn;
  d["empty_rows"] = report.empty_rows;
  return d;
}

// memory: (grad_scale, found_inf, dirty, workspace, bytes). rates: an address for each group, 0 where its lr is a
// number, or nothing at all.
void step_adam(const QueueSpec& queue, const py::buffer& table, const py::buffer& groups, bool contracted,
               int lanes_f32, int lanes_16bit, bool weights_only, const py::buffer& rates, const py::tuple& memory) {
  const std::vector<GroupOptions> options = groups_of(groups);
  const OptimRows rows(table, options);
  if (memory.size() != 5) throw ArgumentError("memory: (grad_scale, found_inf, dirty, workspace, bytes) is needed");
  const auto word = [&](std::size_t i) { return memory[i].cast<std::uintptr_t>(); };
  const auto number = [&](std::size_t i, const char* what) { return address<const float>(word(i), 0, what); };
  const std::span<const std::uint64_t> addresses = words_of(rates, "rates");
  if (!addresses.empty() && addresses.size() != options.size())
    throw ArgumentError("rates: " + std::to_string(addresses.size()) + " for " + std::to_string(options.size()) +
                        " groups; one is needed for each, or none at all");
  std::vector<const float*> lr;
  for (std::size_t t = 0; !addresses.empty() && t < rows.tensors.size(); ++t)
    lr.push_back(address<const float>(addresses[rows.group[t]], 0, "rates"));
  const auto tensors = static_cast<std::int64_t>(rows.tensors.size());
  const cuda::AdamArguments call{
      .rounding = {contracted, static_cast<std::uint8_t>(lanes_f32), static_cast<std::uint8_t>(lanes_16bit)},
      .weights_only = weights_only,
      .steps = rows.counts,
      .lr = lr,
      .trusted = rows.trusted,
      .draws = rows.draws,
      .grad_scale = number(0, "grad_scale"),
      .found_inf = number(1, "found_inf"),
      .dirty = address<std::uint32_t>(word(2), tensors, "dirty")};
  void* const workspace = at<void>(word(3));
  const auto bytes = memory[4].cast<std::size_t>();
  const py::gil_scoped_release release;
  cuda::step_adam(to_queue(queue), rows.tensors, rows.options, call, workspace, bytes);
}

py::list devices() {
  py::list rows;
  for (const cuda::DeviceVerdict& device : cuda::devices()) {
    py::dict row;
    row["index"] = device.index;
    row["name"] = device.name;
    row["capability"] = std::to_string(device.major) + "." + std::to_string(device.minor);
    row["verdict"] = device.verdict;
    row["usable"] = device.usable;
    rows.append(row);
  }
  return rows;
}

}  // namespace

void bind_cuda(py::module_& module) {
  module.attr("CUDA_BUILT") = bool{BITTERSWEET_CUDA_BUILT};
  module.attr("CUDA_REPORT_WORDS") = report_words;
  module.attr("CUDA_FAILED") = cuda::status::failed;
  module.def("cuda_devices", &devices);
  module.def("cuda_self_test", &cuda::self_test, py::arg("device"), py::call_guard<py::gil_scoped_release>());
  module.def(
      "resolve_budget",
      [](std::optional<double> sparsity, std::optional<std::int64_t> k, std::int64_t total) {
        return resolve({sparsity, k}, total);
      },
      py::arg("sparsity"), py::arg("k"), py::arg("total"));
  module.def(
      "cuda_step_bytes",
      [](const py::buffer& table, std::vector<std::string> names, const py::tuple& scorer, const py::tuple& options,
         bool masks) {
        const Table rows(table, std::move(names));
        return cuda::step_workspace_bytes(rows.tensors, to_scorer(scorer), StepChoices(options).options, masks);
      },
      py::arg("table"), py::arg("names"), py::arg("scorer"), py::arg("options"), py::arg("masks"));
  module.def("cuda_step", &step, py::arg("queue"), py::arg("table"), py::arg("names"), py::arg("scorer"),
             py::arg("options"), py::arg("memory"), py::arg("masks"));
  module.def("cuda_read_report", &read_report, py::arg("words"), py::arg("names"), py::arg("numels"),
             py::arg("nonfinite"), py::arg("masks"), py::arg("scope"), py::arg("bounded"));
  module.def(
      "cuda_write_budget",
      [](const QueueSpec& queue, std::uintptr_t budget, std::optional<double> sparsity, std::optional<std::int64_t> k,
         const std::string& scope, std::int64_t total) {
        cuda::write_budget(to_queue(queue), at<cuda::StepBudget>(budget),
                           cuda::step_budget({sparsity, k}, parse_scope(scope), total));
      },
      py::arg("queue"), py::arg("budget_ptr"), py::arg("sparsity"), py::arg("k"), py::arg("scope"), py::arg("total"));
  module.def(
      "cuda_write_scores",
      [](const QueueSpec& queue, const py::buffer& table, std::vector<std::string> names, const py::tuple& scorer,
         const py::buffer& out) {
        const Table rows(table, std::move(names));
        const Scorer s = to_scorer(scorer);
        const std::vector<float*> outputs = outputs_of(out, rows.tensors);
        const py::gil_scoped_release release;
        cuda::write_scores(to_queue(queue), rows.tensors, s, outputs);
      },
      py::arg("queue"), py::arg("table"), py::arg("names"), py::arg("scorer"), py::arg("out"));
  module.def(
      "cuda_apply_masks",
      [](const QueueSpec& queue, const py::buffer& table, std::size_t which, std::uint32_t roles) {
        const Table rows(table);
        const py::gil_scoped_release release;
        cuda::apply_masks(to_queue(queue), rows.tensors, rows.masks_of(which), roles);
      },
      py::arg("queue"), py::arg("table"), py::arg("which"), py::arg("roles"));
  module.def(
      "cuda_count_live",
      [](const QueueSpec& queue, const py::buffer& table, std::size_t which, std::uintptr_t live) {
        const Table rows(table);
        const py::gil_scoped_release release;
        cuda::count_live(to_queue(queue), rows.tensors, rows.masks_of(which), at<std::int64_t>(live));
      },
      py::arg("queue"), py::arg("table"), py::arg("which"), py::arg("live_ptr"));
  module.def(
      "cuda_count_violations",
      [](const QueueSpec& queue, const py::buffer& table, std::size_t which, std::uint32_t roles,
         std::uintptr_t found) {
        const Table rows(table);
        const py::gil_scoped_release release;
        cuda::count_violations(to_queue(queue), rows.tensors, rows.masks_of(which), roles, at<std::int64_t>(found));
      },
      py::arg("queue"), py::arg("table"), py::arg("which"), py::arg("roles"), py::arg("found_ptr"));
  module.def(
      "cuda_adam_bytes",
      [](const py::buffer& table, const py::buffer& groups) {
        return cuda::adam_workspace_bytes(OptimRows(table, groups_of(groups)).tensors);
      },
      py::arg("table"), py::arg("groups"));
  module.def("cuda_step_adam", &step_adam, py::arg("queue"), py::arg("table"), py::arg("groups"), py::arg("contracted"),
             py::arg("lanes_f32"), py::arg("lanes_16bit"), py::arg("weights_only"), py::arg("rates"),
             py::arg("memory"));
}

}  // namespace bittersweet::python
