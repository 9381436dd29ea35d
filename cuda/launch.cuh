// The launcher of a device: kernel structs as __global__ functions on the caller's stream.
#pragma once

#include <algorithm>

#include "cuda_error.hpp"
#include "device.cuh"

namespace bittersweet::cuda {

// What the compiler must leave room for on a processor: the kernel's own number of blocks, and so many that a thread
// gets 80 of the 65,536 registers at most, since a compiler that may take more does.
template <class K>
inline constexpr unsigned resident_blocks = std::max(K::blocks, std::min((768 + K::threads - 1) / K::threads, 16u));

template <class K>
__global__ void __launch_bounds__(K::threads, resident_blocks<K>) run(const __grid_constant__ typename K::Args args) {
  __shared__ typename K::Shared shared;
  K::body(args, shared);
}

class Stream {
 public:
  Stream(int device, void* stream) : stream_(static_cast<cudaStream_t>(stream)) {
    check(cudaGetDevice(&before_), "asking for the current device");
    device_ = device;
    if (device_ != before_) check(cudaSetDevice(device_), "choosing the device");
    check(cudaDeviceGetAttribute(&processors_, cudaDevAttrMultiProcessorCount, device), "asking for its processors");
  }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() {
    if (device_ != before_) cudaSetDevice(before_);
  }

  unsigned processors() const { return static_cast<unsigned>(processors_); }

  template <class K>
  void launch(unsigned grid, const typename K::Args& args) {
    run<K><<<grid, K::threads, 0, stream_>>>(args);
    check(cudaGetLastError(), "launching a kernel");
  }

  // Between memory of the host, which may change as soon as these return, and the device's. Both wait for all that
  // was enqueued before.
  void to(void* device, const void* host, std::size_t bytes) {
    if (bytes == 0) return;
    check(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream_), "copying to the device");
    check(cudaStreamSynchronize(stream_), "waiting for the device");  // some read the host's pages themselves
  }
  void from(void* host, const void* device, std::size_t bytes) {
    if (bytes == 0) return;
    check(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream_), "copying from the device");
    check(cudaStreamSynchronize(stream_), "waiting for the device");
  }

 private:
  cudaStream_t stream_;
  int device_ = 0, before_ = 0, processors_ = 1;
};

}  // namespace bittersweet::cuda
