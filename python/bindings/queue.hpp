// A device and torch's current stream on it, as Python sends them.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <utility>

#include "bittersweet/cuda.hpp"

namespace bittersweet::python {

using QueueSpec = std::pair<int, std::uintptr_t>;  // device, stream

inline cuda::Queue to_queue(const QueueSpec& spec) { return {spec.first, reinterpret_cast<void*>(spec.second)}; }

}  // namespace bittersweet::python
