// What stands in for CUDA devices in the tests of the Python package: two of them, whose queues run at once.
#pragma once

#include "bittersweet/cuda.hpp"

namespace bittersweet::cuda {

void check(const Queue& queue);  // throws DeviceError for a device that is not there

}  // namespace bittersweet::cuda
