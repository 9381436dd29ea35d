// Which instruction sets this machine and build can use.
#pragma once

#include <string>
#include <vector>

#include "cpu/kernels.hpp"

namespace bittersweet::cpu {

std::vector<std::string> usable_isas();

// The kernels of one of them, for tests. Throws ArgumentError.
const Kernels& kernels_of(const std::string& name);

}  // namespace bittersweet::cpu
