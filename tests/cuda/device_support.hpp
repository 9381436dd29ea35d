// A device, if there is one, and memory on it.
#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <memory>
#include <stdexcept>
#include <vector>

#include "bittersweet/cuda.hpp"

namespace bittersweet::test {

inline void check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}

struct Free {
  void operator()(void* memory) const { cudaFree(memory); }
};

// Bytes on the device, `shift` bytes behind an aligned address, filled from the host or with rubbish.
class Memory {
 public:
  Memory(const void* host, std::size_t bytes, std::size_t shift = 0) : bytes_(bytes) {
    void* base = nullptr;
    check(cudaMalloc(&base, bytes + shift + 16));
    base_.reset(base);
    data_ = static_cast<char*>(base) + shift;
    if (host == nullptr)
      check(cudaMemset(data_, 0xa5, bytes));
    else
      check(cudaMemcpy(data_, host, bytes, cudaMemcpyHostToDevice));
    check(cudaDeviceSynchronize());  // the tests' streams do not wait for the default one
  }
  explicit Memory(std::size_t bytes) : Memory(nullptr, bytes) {}

  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }
  template <class T>
  std::vector<T> read() const {
    std::vector<T> copy(bytes_ / sizeof(T));
    check(cudaMemcpy(copy.data(), data_, bytes_, cudaMemcpyDeviceToHost));
    return copy;
  }

 private:
  std::unique_ptr<void, Free> base_;
  char* data_ = nullptr;
  std::size_t bytes_ = 0;
};

// Skipped, with the reason, where there is no usable device.
class DeviceTest : public testing::Test {
 protected:
  void SetUp() override {
    const std::vector<cuda::DeviceVerdict> devices = cuda::devices();
    if (devices.empty()) GTEST_SKIP() << "no CUDA device, or no driver";
    if (!devices.front().usable) GTEST_SKIP() << devices.front().name << ": " << devices.front().verdict;
    check(cudaSetDevice(0));
    cudaStream_t stream = nullptr;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    queue_ = {0, stream};
  }
  void TearDown() override {
    if (queue_.stream) cudaStreamDestroy(static_cast<cudaStream_t>(queue_.stream));
  }
  cudaStream_t stream() const { return static_cast<cudaStream_t>(queue_.stream); }

  cuda::Queue queue_{};
};

}  // namespace bittersweet::test
