// The functions of cuda.hpp that need no engine.
#include "stand_in.hpp"

#include "bittersweet/error.hpp"

namespace bittersweet::cuda {

void check(const Queue& queue) {
  if (queue.device < 0 || queue.device > 1) throw DeviceError("device: " + std::to_string(queue.device));
}

void write_budget(const Queue& queue, StepBudget* budget, const StepBudget& value) {
  check(queue);
  *budget = value;
}

std::vector<DeviceVerdict> devices() {
  return {{0, "Host GPU", 9, 0, "native code", true},
          {1, "Old GPU", 3, 5, "unsupported: compute capability 3.5, and 7.5 or newer is needed", false}};
}

std::string describe() { return "the CPU engine in its place"; }

std::string self_test(int device) { return device == 0 ? "" : "not run"; }

}  // namespace bittersweet::cuda
