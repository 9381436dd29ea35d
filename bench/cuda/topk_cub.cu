// The same exact threshold by cub::DeviceTopK (CCCL 3.5, benchmark only), scoring included, beside bittersweet::cuda in
// one process: once over scores written first, once scoring in its input iterator. What it gives is the k smallest
// scores, in no order; their largest is the threshold.
#include <cuda_runtime.h>

#include <algorithm>
#include <cub/device/device_reduce.cuh>
#include <cub/device/device_topk.cuh>
#include <cuda/iterator>
#include <optional>

#include "bittersweet/bittersweet.hpp"
#include "bittersweet/cuda.hpp"
#include "cases.cuh"
#include "records.hpp"
#include "timer.cuh"

// No using-directive at file scope: what nvcc generates there names ::cuda of CCCL as plain `cuda`.
namespace bittersweet::bench {
namespace {

struct ScoreAt {
  const float* w;
  const float* v;
  __host__ __device__ float operator()(std::int64_t i) const {
    Elements<float> x{};
    x.w = w[i], x.v = v[i];
    return Bitter7{}(x);
  }
};

__global__ void write_all(ScoreAt score, std::int64_t n, float* scores) {
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += stride)
    scores[i] = score(i);
}

auto unordered() {
  return ::cuda::std::execution::env{::cuda::execution::require(::cuda::execution::determinism::not_guaranteed,
                                                                ::cuda::execution::output_ordering::unsorted)};
}

// Temporary storage for both calls, and the calls.
template <class Keys>
class TopK {
 public:
  TopK(Keys keys, std::int64_t n, std::int64_t k) : keys_(keys), n_(n), k_(k), smallest_(bytes(k)), largest_(4) {
    std::size_t select = 0, reduce = 0;
    check(cub::DeviceTopK::MinKeys(nullptr, select, keys_, smallest_.as<float>(), n_, k_, unordered()), "MinKeys");
    check(cub::DeviceReduce::Max(nullptr, reduce, smallest_.as<float>(), largest_.as<float>(), k_), "Max");
    storage_ = Buffer(std::max(select, reduce));
    select_ = select, reduce_ = reduce;
  }
  void enqueue() {
    check(cub::DeviceTopK::MinKeys(storage_.data(), select_, keys_, smallest_.as<float>(), n_, k_, unordered()),
          "MinKeys");
    check(cub::DeviceReduce::Max(storage_.data(), reduce_, smallest_.as<float>(), largest_.as<float>(), k_), "Max");
  }
  float threshold() const { return largest_.read<float>(); }
  std::int64_t extra_bytes() const { return static_cast<std::int64_t>(storage_.size() + smallest_.size()); }

 private:
  static std::size_t bytes(std::int64_t count) { return static_cast<std::size_t>(count) * 4; }
  Keys keys_;
  std::int64_t n_, k_;
  Buffer smallest_, largest_, storage_;
  std::size_t select_ = 0, reduce_ = 0;
};

// Does the threshold hold the k-th place by definition?
bool holds(const Judged& judged, std::int64_t k) {
  return static_cast<std::int64_t>(judged.below) < k && static_cast<std::int64_t>(judged.below + judged.equal) >= k;
}

void run_dry(Records& records) {
  constexpr std::int64_t n = 100'003, k = n / 2;
  std::vector<float> w(n), v(n), scores(n);
  for (std::int64_t i = 0; i < n; ++i) {
    const auto at = static_cast<std::size_t>(i);
    w[at] = drawn(draw_weights, 1, at), v[at] = drawn(draw_squares, 3, at);
    scores[at] = ScoreAt{w.data(), v.data()}(i);
  }
  std::nth_element(scores.begin(), scores.begin() + k - 1, scores.end());
  const ScoreInputs tensor{.weight = view(w.data()), .exp_avg_sq = view(v.data()), .numel = n, .geometry = flat(n)};
  const Judged judged = judge_on_host({&tensor, 1}, Bitter7{}, {}, scores[k - 1]);
  for (const char* name : {"bittersweet", "cub::DeviceTopK, scores written first", "cub::DeviceTopK, scoring iterator"})
    records.verdict(Record("peers", name).count("weights", headline_weights), holds(judged, k),
                    "nth_element and the definition differ");
}

void run(Records& records) {
  const Device device;
  Timer timer(device);
  const std::int64_t n = headline_weights, k = n / 2;
  const Buffer w(static_cast<std::size_t>(n) * 4), v(static_cast<std::size_t>(n) * 4);
  fill_kernel<<<4096, 256>>>(w.data(), DType::f32, n, draw_weights, 1, 0);
  fill_kernel<<<4096, 256>>>(v.data(), DType::f32, n, draw_squares, 3, 0);
  check_launch("fill");
  const ScoreInputs tensor{
      .weight = {w.data(), DType::f32}, .exp_avg_sq = {v.data(), DType::f32}, .numel = n, .geometry = flat(n)};
  const std::span<const ScoreInputs> tensors{&tensor, 1};
  double ours = 0;
  const auto measure = [&](const std::string& name, auto&& enqueue, auto&& threshold, auto&& extra_bytes) {
    attempt(records, "peers", name, [&] {
      enqueue();
      synchronize(name.c_str());
      const bool right = holds(judge_on_device(tensors, Bitter7{}, {}, threshold()), k);
      const Times times = timer.measure(9, enqueue);
      if (name == "bittersweet") ours = times.median_ms;
      Record record("peers", name);
      record.number("ms", times.median_ms).number("least_ms", times.least_ms).number("most_ms", times.most_ms);
      record.count("repeats", times.repeats).count("weights", n);
      record.number("extra_bytes", static_cast<double>(extra_bytes()));
      if (ours > 0) record.number("ours_ms", ours).number("slower", times.median_ms / ours);
      records.verdict(std::move(record), right, "its threshold is not the k-th score");
    });
  };

  {
    const cuda::StepOptions options;
    const Buffer budget(sizeof(cuda::StepBudget)), report(sizeof(cuda::StepReport));
    std::optional<Buffer> workspace;
    const auto enqueue = [&] {
      if (!workspace) {
        workspace.emplace(cuda::step_workspace_bytes(tensors, Bitter7{}, options, false));
        cuda::write_budget({}, budget.as<cuda::StepBudget>(), {.k = k});
      }
      cuda::step({}, tensors, Bitter7{}, budget.as<cuda::StepBudget>(), options, {}, nullptr, workspace->data(),
                 workspace->size(), report.as<cuda::StepReport>());
    };
    measure(
        "bittersweet", enqueue, [&] { return report.read<cuda::StepReport>().value; },
        [&] { return workspace->size(); });
  }
  const ScoreAt score{w.as<float>(), v.as<float>()};
  attempt(records, "peers", "cub::DeviceTopK, scores written first", [&] {
    const Buffer scores(static_cast<std::size_t>(n) * 4);
    TopK<const float*> peer(scores.as<float>(), n, k);
    const auto enqueue = [&] {
      write_all<<<device.multiprocessors * 8, 256>>>(score, n, scores.as<float>());
      peer.enqueue();
    };
    measure(
        "cub::DeviceTopK, scores written first", enqueue, [&] { return peer.threshold(); },
        [&] { return static_cast<std::size_t>(peer.extra_bytes()) + scores.size(); });
  });
  attempt(records, "peers", "cub::DeviceTopK, scoring iterator", [&] {
    const auto keys = ::cuda::make_transform_iterator(::cuda::counting_iterator<std::int64_t>(0), score);
    TopK<std::decay_t<decltype(keys)>> peer(keys, n, k);
    measure(
        "cub::DeviceTopK, scoring iterator", [&] { peer.enqueue(); }, [&] { return peer.threshold(); },
        [&] { return static_cast<std::size_t>(peer.extra_bytes()); });
  });
}

}  // namespace
}  // namespace bittersweet::bench

int main(int count, char** words) {
  using namespace bittersweet::bench;
  return run_program(count, words, {"peers"}, [&](const Arguments& arguments, Records& records) {
    if (arguments.dry)
      run_dry(records);
    else
      attempt(records, "peers", "all", [&] { run(records); });
  });
}
