// What devices there are, and whether this build's code runs on them.
#include <algorithm>
#include <cstdlib>

#include "bittersweet/cuda.hpp"
#include "bittersweet/engine/reference.hpp"
#include "bittersweet/flow.hpp"
#include "cuda_error.hpp"

namespace bittersweet::cuda {
namespace {

// Compute capabilities with native code in this build, as 90 for 9.0; the newest is also there as PTX.
constexpr int architectures[] = {__CUDA_ARCH_LIST__};

std::string dotted(int number) { return std::to_string(number / 10) + "." + std::to_string(number % 10); }

std::string verdict_for(int major, int minor, int driver) {
  const int here = major * 10 + minor;
  int newest = 0, lowest = 1 << 30;
  for (const int listed : architectures) {
    const int built = listed / 10;  // the list says 900
    if (built / 10 == major && built % 10 <= minor) return "native code";
    newest = std::max(newest, built);
    lowest = std::min(lowest, built);
  }
  if (here < lowest)
    return "unsupported: compute capability " + dotted(here) + "; this build starts at " + dotted(lowest);
  if (here < newest) return "unsupported: no code for compute capability " + dotted(here) + " in this build";
  if (driver < CUDART_VERSION)
    return "driver too old: it knows CUDA " + dotted(driver / 100) + ", PTX of this build needs " +
           dotted(CUDART_VERSION / 100);
  return "PTX, compiled at first use";
}

// Device memory for the self-test.
class Memory {
 public:
  explicit Memory(std::size_t bytes) { check(cudaMalloc(&data_, bytes + 1), "allocating for the self-test"); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() { cudaFree(data_); }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  void fill(const void* from, std::size_t bytes) {
    check(cudaMemcpy(data_, from, bytes, cudaMemcpyHostToDevice), "copying to the device");
  }

 private:
  void* data_ = nullptr;
};

std::string run_self_test(int device) {
  constexpr std::int64_t n = 100003;
  std::vector<float> w(n), v(n);
  std::uint64_t state = 1;
  const auto draw = [&] {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<float>(state >> 40) * 0x1p-24f;
  };
  for (std::size_t i = 0; i < w.size(); ++i) {
    w[i] = (draw() - 0.5f) * 0.1f;
    v[i] = draw() * 1e-7f;
  }
  const ScoreInputs host{
      .weight = view(w.data()), .exp_avg_sq = view(v.data()), .numel = n, .geometry = flat(n), .name = "self-test"};
  const auto words = static_cast<std::size_t>(bits::words(n));
  std::vector<std::uint64_t> expected(words), found(words);
  std::uint64_t* const table[] = {expected.data()};
  ReferenceEngine reference;
  Workspace scratch;
  const PruneReport want =
      flow::make_masks(reference, std::span(&host, 1), Bitter7{}, {.sparsity = 0.5}, {}, table, scratch);

  int before = 0;
  check(cudaGetDevice(&before), "asking for the current device");
  check(cudaSetDevice(device), "choosing the device");
  struct Restore {
    int device;
    ~Restore() { cudaSetDevice(device); }
  } const restore{before};
  Memory weight(n * 4), moment(n * 4), mask(words * 8), budget(sizeof(StepBudget)), report(sizeof(StepReport));
  weight.fill(w.data(), n * 4);
  moment.fill(v.data(), n * 4);
  ScoreInputs there = host;
  there.weight.data = weight.as<void>();
  there.exp_avg_sq.data = moment.as<void>();
  const std::span<const ScoreInputs> tensors(&there, 1);
  const std::size_t bytes = step_workspace_bytes(tensors, Bitter7{}, {}, true);
  Memory workspace(bytes);
  std::uint64_t* const masks[] = {mask.as<std::uint64_t>()};
  const Queue queue{device, nullptr};
  write_budget(queue, budget.as<StepBudget>(), {.k = want.k});
  step(queue, tensors, Bitter7{}, budget.as<StepBudget>(), {}, masks, nullptr, workspace.as<void>(), bytes,
       report.as<StepReport>());
  StepReport got;
  check(cudaMemcpy(&got, report.as<void>(), sizeof got, cudaMemcpyDeviceToHost), "reading the self-test's report");
  check(cudaMemcpy(found.data(), mask.as<void>(), words * 8, cudaMemcpyDeviceToHost), "reading the self-test's mask");
  if (got.value != want.value || got.pruned != want.pruned)
    return "threshold " + std::to_string(got.value) + " with " + std::to_string(got.pruned) + " pruned; expected " +
           std::to_string(*want.value) + " with " + std::to_string(want.pruned);
  return found == expected ? "" : "mask bits differ from the reference engine's";
}

}  // namespace

std::vector<DeviceVerdict> devices() {
  int driver = 0, count = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();
    return {};
  }
  std::vector<DeviceVerdict> all;
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, i) != cudaSuccess) {
      cudaGetLastError();
      continue;
    }
    DeviceVerdict verdict{i, properties.name, properties.major, properties.minor, {}, false};
    verdict.verdict = verdict_for(properties.major, properties.minor, driver);
    verdict.usable = verdict.verdict == "native code" || verdict.verdict.starts_with("PTX");
    all.push_back(std::move(verdict));
  }
  return all;
}

std::string describe() {
  std::string text = "CUDA " + dotted(CUDART_VERSION / 100) + ", native code for compute capability";
  for (const int listed : architectures) text += (&listed == architectures ? " " : ", ") + dotted(listed / 10);
  int driver = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) return text + "; no driver here";
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  cudaGetLastError();
  if (error == cudaErrorInsufficientDriver) return text + "; driver too old: it knows CUDA " + dotted(driver / 100);
  return text + "; " + std::to_string(error == cudaSuccess ? count : 0) + " devices";
}

std::string self_test(int device) {
  try {
    return run_self_test(device);
  } catch (const std::exception& error) {
    return error.what();
  }
}

}  // namespace bittersweet::cuda
