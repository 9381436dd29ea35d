// As much of the CUDA runtime as equal_bits.cpp names, over host memory, for its rehearsal on the emulated engine.
// There are no streams and no graphs here: what asks for one fails.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>

using cudaError_t = int;
using cudaStream_t = void*;
using cudaGraph_t = void*;
using cudaGraphExec_t = void*;
inline constexpr cudaError_t cudaSuccess = 0, cudaErrorNotSupported = 801;
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost };
enum { cudaStreamNonBlocking, cudaStreamCaptureModeGlobal };
struct cudaDeviceProp {
  int multiProcessorCount = 2, l2CacheSize = 1 << 20;
  char name[256] = "emulated";
};

inline const char* cudaGetErrorString(cudaError_t) { return "not supported by the emulated runtime"; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) { return *properties = {}, cudaSuccess; }
inline cudaError_t cudaMemGetInfo(std::size_t* available, std::size_t* all) {
  return *available = *all = std::size_t{1} << 30, cudaSuccess;
}
template <class T>
cudaError_t cudaMalloc(T** data, std::size_t bytes) {  // as aligned as a device's
  *data = static_cast<T*>(std::aligned_alloc(256, (bytes + 255) / 256 * 256));
  return *data ? cudaSuccess : cudaErrorNotSupported;
}
inline cudaError_t cudaFree(void* data) { return std::free(data), cudaSuccess; }
inline cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind) {
  return std::memcpy(to, from, bytes), cudaSuccess;
}
inline cudaError_t cudaMemset(void* data, int byte, std::size_t bytes) {
  if (bytes) std::memset(data, byte, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t*, unsigned) { return cudaErrorNotSupported; }
inline cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaErrorNotSupported; }
inline cudaError_t cudaStreamBeginCapture(cudaStream_t, int) { return cudaErrorNotSupported; }
inline cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t*) { return cudaErrorNotSupported; }
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t*, cudaGraph_t, int) { return cudaErrorNotSupported; }
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t) { return cudaErrorNotSupported; }
inline cudaError_t cudaGraphDestroy(cudaGraph_t) { return cudaErrorNotSupported; }
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t) { return cudaErrorNotSupported; }
