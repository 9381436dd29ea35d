// Errors of the CUDA runtime as exceptions.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include "bittersweet/error.hpp"

namespace bittersweet::cuda {

inline void check(cudaError_t error, const char* doing) {
  if (error != cudaSuccess)
    throw DeviceError(std::string("CUDA: ") + doing + ": " + cudaGetErrorName(error) + ": " +
                      cudaGetErrorString(error));
}

}  // namespace bittersweet::cuda
