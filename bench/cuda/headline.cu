// Whole prune steps through bittersweet::cuda::step on GPT-like models, beside the floors of the same run: the fastest
// of three bare reads of the same arrays, and the fastest pure in-place rewrite of what is zeroed. Every answer is
// judged by definition before it is timed (judge.cuh).
//   headline   402,653,184 f32 weights, bitter7, 50 %: threshold, masks, zeros, extra memory
//   data       the same with 90 % zeros, 90 % dead, and one score that many share
//   dtypes     bf16 magnitude, and bitter7 on bf16 weights
//   scorers    every other scorer of w, m and v
//   selectors  every other selector, of bitter7 and magnitude
//   sizes      1 million to 4 billion weights
//   host       300 small tensors: what a call costs the host
// `--profile` runs the threshold alone, once, between the marks that ncu waits for. `--dry` selects on the
// CPU at a small size and touches no device.
#include <cuda_profiler_api.h>
#include <cuda_runtime.h>

#include <chrono>
#include <cmath>
#include <map>
#include <memory>
#include <optional>

#include "bittersweet/bittersweet.hpp"
#include "bittersweet/cuda.hpp"
#include "cases.cuh"
#include "judge.cuh"
#include "model.cuh"
#include "records.hpp"
#include "spans.cuh"
#include "timer.cuh"

namespace {

using namespace bittersweet;
using namespace bittersweet::bench;

constexpr std::int64_t dry_weights = 150'000;

Record described(std::string_view section, const Subject& subject, const Work& work) {
  Record record(section, subject.name + ", " + work.name);
  record.text("scorer", info_of(work.scorer).name).count("weights", subject.weights);
  record.number("sparsity", work.sparsity);
  return record;
}

std::int64_t rank(double sparsity, std::int64_t n) { return resolve({.sparsity = sparsity}, n); }

// How far the share of scores at or below an approximate threshold may be from the wanted one; 0: exact.
double allowance(const Selector& selector, double standard_error) {
  if (const auto* streaming = std::get_if<Streaming>(&selector)) return streaming->tolerance;
  return std::holds_alternative<Sampling>(selector) ? 6 * standard_error : 0.0;
}

// "" where the answer is the k-th score by definition, or as near to it as allowed, and no mask bit contradicts it.
std::string contradiction(const Judged& judged, std::int64_t k, std::int64_t total, std::int64_t dead, bool masks,
                          const Selector& selector, double standard_error) {
  const auto below = static_cast<std::int64_t>(judged.below), equal = static_cast<std::int64_t>(judged.equal);
  const std::int64_t live = k - dead;
  const bool is_kth = below < live && below + equal >= live;
  const double off = std::abs(static_cast<double>(below + equal - live)) / static_cast<double>(total);
  if (!is_kth && !(off <= allowance(selector, standard_error)))
    return std::to_string(below) + " below and " + std::to_string(equal) + " at the threshold, for rank " +
           std::to_string(live);
  if (!masks) return "";
  if (judged.wrong) return std::to_string(judged.wrong) + " mask bits contradict the threshold";
  const std::int64_t pruned = is_approximate(selector) ? dead + below + equal : k;
  if (static_cast<std::int64_t>(judged.kept) != total - pruned) return std::to_string(judged.kept) + " elements kept";
  return "";
}

// ---- without a device ----

void run_dry(Records& records, std::string_view section, Subject subject, const std::vector<Work>& works) {
  const std::int64_t asked = subject.weights;
  std::int64_t planned = 0;
  const auto planned_shapes = gpt_shapes(asked);
  for (const auto& [rows, columns] : planned_shapes) planned += rows * columns;
  std::vector<std::vector<std::byte>> memory;
  std::vector<ScoreInputs> inputs;
  std::vector<std::vector<std::uint64_t>> alive, fresh;
  std::vector<std::uint64_t*> table;
  std::vector<const std::uint64_t*> kept;
  std::uint64_t place = 0;
  std::int64_t total = 0;
  for (const auto& [rows, columns] : gpt_shapes(dry_weights)) {
    ScoreInputs tensor{.numel = rows * columns, .geometry = matrix(rows, columns)};
    const auto array = [&](DType dtype, const Draw& draw, std::uint64_t seed) -> TensorView {
      if (dtype == DType::none) return {};
      memory.emplace_back(static_cast<std::size_t>(tensor.numel) * size_of(dtype));
      for (std::int64_t i = 0; i < tensor.numel; ++i)
        store(memory.back().data(), dtype, i, drawn(draw, seed, place + static_cast<std::uint64_t>(i)));
      return {memory.back().data(), dtype};
    };
    tensor.weight = array(subject.w, subject.draw_w, 1);
    tensor.exp_avg = array(subject.m, draw_moments, 2);
    tensor.exp_avg_sq = array(subject.v, subject.draw_v, 3);
    const auto words = static_cast<std::size_t>(bits::words(tensor.numel));
    fresh.emplace_back(words);
    alive.emplace_back(words);
    for (std::int64_t i = 0; i < tensor.numel; ++i)
      if (is_alive(subject.dead, 4, place + static_cast<std::uint64_t>(i))) bits::set(alive.back().data(), i);
    place += static_cast<std::uint64_t>(tensor.numel), total += tensor.numel;
    inputs.push_back(tensor);
  }
  for (std::size_t t = 0; t < inputs.size(); ++t) {
    if (subject.dead > 0) inputs[t].mask = alive[t].data();
    table.push_back(fresh[t].data());
    kept.push_back(fresh[t].data());
  }
  for (const Work& work : works) {
    attempt(records, section, subject.name + ", " + work.name, [&] {
      Workspace workspace;
      const std::int64_t k = rank(work.sparsity, total);
      const PruneReport report =
          make_masks(inputs, work.scorer, {.k = k}, {.selector = work.selector}, table, workspace);
      const Judged judged = judge_on_host(inputs, work.scorer, kept, *report.value);
      std::string found =
          contradiction(judged, k, total, report.dead, true, work.selector, report.standard_error.value_or(0.0));
      if (planned != asked || planned_shapes.size() < 100) found = "the shapes do not sum to the weights";
      records.verdict(described(section, subject, work), found.empty(), found);
    });
  }
}

// ---- on the device ----

class Bench {
 public:
  Bench(Records& records, bool profile) : records_(records), profile_(profile), timer_(device_) {}

  void run(std::string_view section, const Subject& subject, const std::vector<Work>& works) {
    std::optional<Model> model;
    double floor = 0, rewrite = 0, rewrite_all = 0;
    attempt(records_, section, subject.name + ", floor", [&] {
      model.emplace(gpt_shapes(subject.weights), subject.w, subject.m, subject.v, subject.dead > 0);
      model->fill(subject.draw_w, subject.draw_v, subject.dead);
    });
    if (!model) return;
    bool zeroes = false, zeroes_state = false;
    for (const Work& work : works) zeroes |= work.zero != 0, zeroes_state |= (work.zero & roles::exp_avg) != 0;
    if (profile_) {
      for (const Work& work : works)
        if (!work.masks) profile(section, subject, work, *model);
      return;
    }
    if (zeroes) model->save();
    for (const Work& work : works) {
      attempt(records_, section, subject.name + ", " + work.name, [&] {
        const std::uint32_t reads = info_of(work.scorer).reads;
        const std::uint32_t key = reads & (reads::weight | reads::exp_avg | reads::exp_avg_sq);
        if (!floors_.contains({model->weights(), key, subject.w, subject.v}))
          floors_[{model->weights(), key, subject.w, subject.v}] = read_floor(section, subject, *model, key);
        floor = floors_[{model->weights(), key, subject.w, subject.v}];
        if (zeroes && rewrite == 0) rewrite = rewrite_floor(section, subject, *model, false);
        if (zeroes_state && rewrite_all == 0) rewrite_all = rewrite_floor(section, subject, *model, true);
        measure(section, subject, work, *model, floor, work.zero & roles::exp_avg ? rewrite_all : rewrite);
      });
    }
  }

  // The time of one call with 300 tensors, on the host's clock, with nothing to wait for; and the device's.
  void host_time(const Subject& subject, const Work& work) {
    attempt(records_, "host", "300 tensors of 1,000", [&] {
      Model model(std::vector<std::pair<std::int64_t, std::int64_t>>(300, {10, 100}), subject.w, subject.m, subject.v);
      model.fill();
      Step step(model, work, rank(work.sparsity, model.weights()));
      std::vector<float> host;
      for (int call = 0; call < 220; ++call) {
        if (call % 10 == 0) synchronize("host_time");  // the queue never fills up
        const auto begin = std::chrono::steady_clock::now();
        step.enqueue();
        const std::chrono::duration<float, std::milli> taken = std::chrono::steady_clock::now() - begin;
        if (call >= 20) host.push_back(taken.count());
      }
      const Times called = summary(std::move(host)), run = timer_.measure(subject.repeats, [&] { step.enqueue(); });
      records_.add(Record("host", "300 tensors of 1,000")
                       .number("host_ms", called.median_ms)
                       .number("host_least_ms", called.least_ms)
                       .count("repeats", called.repeats)
                       .number("ms", run.median_ms));
    });
  }

 private:
  struct Step {
    Step(Model& model_, const Work& work_, std::int64_t k)
        : model(model_), work(work_), budget(sizeof(cuda::StepBudget)) {
      options.zero = work.zero;
      options.selector = work.selector;
      bytes = cuda::step_workspace_bytes(model.inputs(), work.scorer, options, work.masks);
      workspace = Buffer(bytes);
      report = Buffer(sizeof(cuda::StepReport));
      pruned = Buffer(model.inputs().size() * 8);
      cuda::write_budget({}, budget.as<cuda::StepBudget>(), {.k = k});
    }
    void enqueue() {
      cuda::step({}, model.inputs(), work.scorer, budget.as<cuda::StepBudget>(), options,
                 work.masks ? model.masks() : MaskTable{}, work.masks ? pruned.as<std::int64_t>() : nullptr,
                 workspace.data(), bytes, report.as<cuda::StepReport>());
    }
    Model& model;
    const Work& work;
    cuda::StepOptions options;
    std::size_t bytes = 0;
    Buffer budget, workspace, report, pruned;
  };

  void measure(std::string_view section, const Subject& subject, const Work& work, Model& model, double floor,
               double rewrite) {
    const std::int64_t k = rank(work.sparsity, model.weights());
    if (work.zero) model.restore();
    Step step(model, work, k);
    step.enqueue();
    synchronize("the step");
    const auto report = step.report.read<cuda::StepReport>();
    std::string found;
    if (report.status & cuda::status::failed) found = "status " + std::to_string(report.status);
    // bitter8's roots are approximate on the device; equal_bits measures how far they are.
    if (found.empty() && !std::holds_alternative<Bitter8>(work.scorer)) {
      const MaskTable masks = work.masks ? model.masks() : MaskTable{};
      std::uint64_t remains = 0;
      if (work.zero) {
        remains = judge_on_device(model.inputs(), work.scorer, masks, report.value).remains;
        model.restore();
      }
      const Judged judged = judge_on_device(model.inputs(), work.scorer, masks, report.value);
      found = contradiction(judged, k, model.weights(), report.dead, work.masks, work.selector, report.standard_error);
      if (remains) found = std::to_string(remains) + " weights are not zero although their bit is";
    }
    if (!found.empty()) return records_.verdict(described(section, subject, work), false, found);

    const auto enqueue = [&] { step.enqueue(); };
    const Times times = work.zero ? timer_.measure(
                                        subject.repeats, [&] { model.restore(); }, enqueue)
                                  : timer_.measure(subject.repeats, enqueue);
    if (work.zero) model.restore();
    Record record = described(section, subject, work);
    record.number("ms", times.median_ms).number("least_ms", times.least_ms).number("most_ms", times.most_ms);
    record.count("repeats", times.repeats).number("floor_ms", floor).number("ratio", times.median_ms / floor);
    record.number("passes", report.passes).text("path", name_of(static_cast<Place>(report.place)));
    record.flag("overflow", report.status & cuda::status::overflow);
    record.flag("missed", report.status & cuda::status::missed);
    if (work.zero) record.number("rewrite_ms", rewrite).number("floors_ratio", times.median_ms / (floor + rewrite));
    double random = 0;
    if (work.goal.random > 0) {
      if (!random_.contains(work.name)) throw std::runtime_error("no time of this work on dense data to compare with");
      random = random_[work.name];
    } else {
      random_[work.name] = times.median_ms;
    }
    if (work.goal.any()) {
      const double bound = work.goal.fixed + work.goal.floor * floor + work.goal.rewrite * rewrite +
                           work.goal.random * random +
                           (work.goal.per_read ? static_cast<double>(report.passes) * floor : 0.0);
      record.number("bound_ms", bound).flag("kept", times.median_ms <= bound);
    }
    records_.verdict(std::move(record), true);
    const auto* const sampling = std::get_if<Sampling>(&work.selector);
    const double share = std::holds_alternative<KthValue>(work.selector) ? 1.01
                         : sampling                                      ? sampling->fraction + 0.005
                                                                         : 0.02;  // of a score buffer
    const double allowed = std::max(share * 4 * static_cast<double>(model.weights()), double{16 << 20});
    records_.add(Record(section, subject.name + ", " + work.name + ", extra memory")
                     .judged("extra_bytes", static_cast<double>(step.bytes), allowed));
  }

  double read_floor(std::string_view section, const Subject& subject, const Model& model, std::uint32_t key) {
    const std::vector<Array> arrays = model.arrays(key & reads::weight, key & reads::exp_avg, key & reads::exp_avg_sq);
    const Spans small(arrays, ldg_unit), large(arrays, 16384);
    const Buffer seen(4);
    const int cores = device_.multiprocessors;
    constexpr int ring = 6 * 16384;
    check(cudaFuncSetAttribute(read_bulk<16384, 6>, cudaFuncAttributeMaxDynamicSharedMemorySize, ring), "shared");
    const auto time = [&](auto&& launch) { return timer_.measure(subject.repeats, launch).median_ms; };
    const std::map<std::string, double> times{
        {"8 loads, 24 warps", time([&] {
           read_ldg<8, 3><<<cores * 3, 256>>>(small.table(), small.count(), small.units(), seen.as<unsigned>());
         })},
        {"16 loads, 16 warps", time([&] {
           read_ldg<16, 2><<<cores * 2, 256>>>(small.table(), small.count(), small.units(), seen.as<unsigned>());
         })},
        {"bulk copies, 2 rings of 6 x 16 KiB", time([&] {
           read_bulk<16384, 6>
               <<<cores * 2, 256, ring>>>(large.table(), large.count(), large.units(), seen.as<unsigned>());
         })}};
    return fastest(section, subject, "floor", times, small.bytes());
  }

  double rewrite_floor(std::string_view section, const Subject& subject, const Model& model, bool state) {
    const Spans spans(model.arrays(true, state, state), ldg_unit);
    const int cores = device_.multiprocessors;
    const auto time = [&](auto&& launch) { return timer_.measure(subject.repeats, launch).median_ms; };
    const std::map<std::string, double> times{
        {"8 loads, 24 warps", time([&] {
           write_ldg<Write::rewrite, 8, 3><<<cores * 3, 256>>>(spans.table(), spans.count(), spans.units());
         })},
        {"4 loads, 32 warps", time([&] {
           write_ldg<Write::rewrite, 4, 4><<<cores * 4, 256>>>(spans.table(), spans.count(), spans.units());
         })}};
    return fastest(section, subject, state ? "rewrite of w, m, v" : "rewrite of w", times, 2 * spans.bytes());
  }

  double fastest(std::string_view section, const Subject& subject, const std::string& what,
                 const std::map<std::string, double>& times, std::int64_t bytes) {
    const auto best =
        std::min_element(times.begin(), times.end(), [](auto& a, auto& b) { return a.second < b.second; });
    std::string all;
    for (const auto& [name, ms] : times) all += (all.empty() ? "" : "; ") + name + ": " + std::to_string(ms) + " ms";
    records_.add(Record(section, subject.name + ", " + what + " of " + std::to_string(bytes) + " bytes")
                     .text("fastest", best->first)
                     .text("all", all)
                     .number("ms", best->second)
                     .count("weights", subject.weights)
                     .count("bytes", bytes)
                     .number("gbs", static_cast<double>(bytes) / best->second * 1e-6));
    return best->second;
  }

  void profile(std::string_view section, const Subject& subject, const Work& work, Model& model) {
    attempt(records_, section, subject.name + ", " + work.name, [&] {
      Step step(model, work, rank(work.sparsity, model.weights()));
      step.enqueue();
      synchronize("warm-up");
      std::int64_t bytes = 0;
      const std::uint32_t reads = info_of(work.scorer).reads;
      for (const Array& array : model.arrays(reads & reads::weight, reads & reads::exp_avg, reads & reads::exp_avg_sq))
        bytes += array.bytes;
      check(cudaProfilerStart(), "cudaProfilerStart");
      step.enqueue();
      synchronize("the profiled step");
      check(cudaProfilerStop(), "cudaProfilerStop");
      records_.add(described(section, subject, work).count("input_bytes", bytes).flag("profiled", true));
    });
  }

  Records& records_;
  bool profile_;
  Device device_;
  Timer timer_;
  std::map<std::tuple<std::int64_t, std::uint32_t, DType, DType>, double> floors_;
  std::map<std::string, double> random_;
};

}  // namespace

int main(int count, char** words) {
  std::vector<std::string> names;
  for (const auto& [name, make] : sections) names.push_back(name);
  return run_program(count, words, names, [&](const Arguments& arguments, Records& records) {
    std::unique_ptr<Bench> bench;
    if (!arguments.dry) bench = std::make_unique<Bench>(records, arguments.profile);
    for (const auto& [name, make] : sections) {
      if (!arguments.wants(name)) continue;
      for (auto& [subject, works] : make()) {
        if (!bench) {
          run_dry(records, name, subject, works);
          continue;
        }
        Subject scaled = subject;
        scaled.weights =
            std::max<std::int64_t>(100'000, std::llround(static_cast<double>(subject.weights) * arguments.scale));
        if (name == "host")
          bench->host_time(scaled, works.back());
        else
          bench->run(name, scaled, works);
      }
    }
  });
}
