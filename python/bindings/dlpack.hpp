// What is used of DLPack: how a tensor is described, and the table of functions that a framework offers to C code
// (`__dlpack_c_exchange_api__`, a capsule). Our own words for the ABI of version 1; nothing of a framework is included.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bittersweet::python::dlpack {

inline constexpr std::uint32_t major_version = 1;
inline constexpr const char* capsule_name = "dlpack_exchange_api";

struct Version {
  std::uint32_t major, minor;
};

struct Device {
  std::int32_t type, id;
  bool operator==(const Device&) const = default;
};

inline constexpr std::int32_t host = 1;                 // a device's type
inline constexpr std::uint8_t floats = 2, bfloats = 4;  // an element type's code

struct DataType {
  std::uint8_t code, bits;
  std::uint16_t lanes;
  bool operator==(const DataType&) const = default;
};

// Borrowed: shape and strides belong to the framework's object. Strides count elements; before 1.2 null is row-major.
struct Tensor {
  void* data;
  Device device;
  std::int32_t ndim;
  DataType dtype;
  const std::int64_t* shape;
  const std::int64_t* strides;
  std::uint64_t byte_offset;
};

// The first part, which no version changes; `previous` is a table of an older major version, or null.
struct ExchangeHeader {
  Version version;
  const ExchangeHeader* previous;
};

using AnyFunction = void (*)();

// 0, or -1 with a Python exception set. Synchronises with no stream.
using Describe = int (*)(void* object, Tensor* out);

struct ExchangeApi {
  ExchangeHeader header;
  AnyFunction allocate, to_managed, from_managed;
  Describe describe;  // null where the framework has none
  AnyFunction current_stream;
};

static_assert(sizeof(void*) != 8 || (offsetof(Tensor, ndim) == 16 && offsetof(Tensor, shape) == 24 &&
                                     offsetof(Tensor, byte_offset) == 40 && sizeof(Tensor) == 48));
static_assert(sizeof(void*) != 8 || offsetof(ExchangeApi, describe) == 40);

}  // namespace bittersweet::python::dlpack
