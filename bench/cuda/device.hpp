// Device memory and the device's properties, by the runtime alone. Every call is checked.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace bittersweet::bench {

inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}
inline void check_launch(const char* what) { check(cudaGetLastError(), what); }
inline void synchronize(const char* what) { check(cudaDeviceSynchronize(), what); }

class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::size_t bytes) : bytes_(bytes) {
    if (bytes) check(cudaMalloc(&data_, bytes), ("cudaMalloc of " + std::to_string(bytes) + " bytes").c_str());
  }
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer other) noexcept {
    swap(other);
    return *this;
  }
  ~Buffer() { cudaFree(data_); }

  std::byte* data() const { return static_cast<std::byte*>(data_); }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  std::size_t size() const { return bytes_; }

  void from_host(const void* source, std::size_t bytes, std::size_t offset = 0) const {
    check(cudaMemcpy(data() + offset, source, bytes, cudaMemcpyHostToDevice), "copy to the device");
  }
  void to_host(void* target, std::size_t bytes, std::size_t offset = 0) const {
    check(cudaMemcpy(target, data() + offset, bytes, cudaMemcpyDeviceToHost), "copy from the device");
  }
  void fill(int byte) const { check(cudaMemset(data_, byte, bytes_), "cudaMemset"); }
  template <class T>
  T read(std::size_t index = 0) const {
    T value;
    to_host(&value, sizeof value, index * sizeof value);
    return value;
  }

 private:
  void swap(Buffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

template <class T>
Buffer on_device(const std::vector<T>& values) {
  Buffer buffer(values.size() * sizeof(T));
  if (!values.empty()) buffer.from_host(values.data(), buffer.size());
  return buffer;
}

inline std::size_t free_memory() {
  std::size_t available = 0, all = 0;
  check(cudaMemGetInfo(&available, &all), "cudaMemGetInfo");
  return available;
}

struct Device {
  int index = 0, multiprocessors = 0;
  std::size_t l2 = 0;
  std::string name;

  Device() {
    check(cudaGetDevice(&index), "cudaGetDevice");
    cudaDeviceProp properties;
    check(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties");
    multiprocessors = properties.multiProcessorCount;
    l2 = static_cast<std::size_t>(properties.l2CacheSize);
    name = properties.name;
  }
};

}  // namespace bittersweet::bench
