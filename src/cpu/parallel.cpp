#include "cpu/parallel.hpp"

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <string>

#if defined(__linux__)
#include <sched.h>
#endif

namespace bittersweet::cpu {
namespace {

std::atomic<int> limit{0};

int affinity() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
#endif
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

// Whole CPUs that the cgroup's quota allows, or a large number.
int quota() {
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  std::string most;
  double period = 0;
  if (!(file >> most >> period) || most == "max" || period <= 0) return 1 << 20;
  return std::max(1, static_cast<int>(std::ceil(std::strtod(most.c_str(), nullptr) / period)));
}

int default_limit() {
  static const int value = [] {
    const char* const asked = std::getenv("BITTERSWEET_NUM_THREADS");
    const int n = asked ? std::atoi(asked) : 0;
    return n > 0 ? n : std::min(affinity(), quota());
  }();
  return value;
}

}  // namespace

void set_thread_limit(int n) { limit = std::max(0, n); }

int thread_limit() {
  const int n = limit;
  return n > 0 ? n : default_limit();
}

int threads_for(std::int64_t elements) {
  constexpr std::int64_t worth = 1 << 18;
  return static_cast<int>(std::clamp<std::int64_t>(elements / worth, 1, thread_limit()));
}

}  // namespace bittersweet::cpu
