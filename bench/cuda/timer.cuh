// Times by CUDA events. Before each timed repetition the inputs are pushed out of the caches by reading other memory
// (writing would leave lines that the timed work pays for), which also gives the host time to enqueue all of the work,
// so that its own time does not show.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "device.hpp"

namespace bittersweet::bench {

static __global__ void scrub_kernel(const uint4* data, std::size_t count, unsigned* sink) {
  unsigned seen = 0;
  const std::size_t stride = std::size_t{gridDim.x} * blockDim.x;
  for (std::size_t i = std::size_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += stride) {
    const uint4 x = data[i];
    seen |= x.x | x.y | x.z | x.w;
  }
  if (seen) atomicOr(sink, seen);
}

struct Times {
  double median_ms = 0, least_ms = 0, most_ms = 0;
  int repeats = 0;
};

inline Times summary(std::vector<float> times) {
  std::sort(times.begin(), times.end());
  return {times[times.size() / 2], times.front(), times.back(), static_cast<int>(times.size())};
}

class Timer {
 public:
  explicit Timer(const Device& device)
      : blocks_(device.multiprocessors * 8), scrub_(std::max(device.l2 * 4, std::size_t{1} << 28)), sink_(4) {
    scrub_.fill(0);
    sink_.fill(0);
    check(cudaEventCreate(&begin_), "cudaEventCreate");
    check(cudaEventCreate(&end_), "cudaEventCreate");
  }
  ~Timer() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
  }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  // work() on the default stream, `repeats` times after two of warm-up; prepare() before each, outside the time.
  template <class Prepare, class Work>
  Times measure(int repeats, Prepare&& prepare, Work&& work) {
    std::vector<float> times;
    for (int repeat = -2; repeat < repeats; ++repeat) {
      prepare();
      for (int pass = 0; pass < 4; ++pass)  // some tenths of a millisecond
        scrub_kernel<<<blocks_, 256>>>(scrub_.as<uint4>(), scrub_.size() / 16, sink_.as<unsigned>());
      check(cudaEventRecord(begin_), "cudaEventRecord");
      work();
      check(cudaEventRecord(end_), "cudaEventRecord");
      check(cudaEventSynchronize(end_), "the timed work");
      check_launch("the timed work");
      float ms = 0;
      check(cudaEventElapsedTime(&ms, begin_, end_), "cudaEventElapsedTime");
      if (repeat >= 0) times.push_back(ms);
    }
    return summary(std::move(times));
  }
  template <class Work>
  Times measure(int repeats, Work&& work) {
    return measure(repeats, [] {}, std::forward<Work>(work));
  }

 private:
  int blocks_;
  Buffer scrub_, sink_;
  cudaEvent_t begin_{}, end_{};
};

}  // namespace bittersweet::bench
