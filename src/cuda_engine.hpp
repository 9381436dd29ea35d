// What the composition root knows of CUDA. cuda_absent.cpp answers in a build without it.
#pragma once

#include <string>

namespace bittersweet::cuda {

std::string describe();  // one line for build_info()

}  // namespace bittersweet::cuda
