// Arrays that notice a stray access: known bytes around them, or a page behind them that cannot be touched. Values are
// rounded to narrow storage by arithmetic that shares nothing with the library's.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <span>
#include <utility>
#include <vector>

#include "bittersweet/dtype.hpp"
#include "bittersweet/mask/bit_layout.hpp"
#include "bittersweet/tensor_view.hpp"

namespace bittersweet::test {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool sanitized = true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
inline constexpr bool sanitized = true;
#else
inline constexpr bool sanitized = false;
#endif
#else
inline constexpr bool sanitized = false;
#endif

inline constexpr float infinity = std::numeric_limits<float>::infinity();

// ---- narrow storage, rounded to nearest even by arithmetic in double ----

// x rounded to `digits` significant bits, with exponents not below `least`.
inline double round_to_digits(double x, int digits, int least) {
  if (x == 0.0 || !std::isfinite(x)) return x;
  const double quantum = std::ldexp(1.0, std::max(std::ilogb(x), least) - digits + 1);
  return std::nearbyint(x / quantum) * quantum;
}

inline float nearest_half(float x) {
  const double rounded = round_to_digits(static_cast<double>(x), 11, -14);
  return std::fabs(rounded) > 65504.0 ? std::copysign(infinity, x) : static_cast<float>(rounded);
}

inline float nearest_bf16(float x) { return static_cast<float>(round_to_digits(static_cast<double>(x), 8, -126)); }

inline std::uint16_t bits_of_half(float x) {  // of a float that is a half
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x), sign = (bits >> 16) & 0x8000u;
  const float magnitude = std::fabs(x);
  if (std::isnan(x)) return 0x7e00u;
  if (magnitude == infinity) return static_cast<std::uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x1p-14f) return static_cast<std::uint16_t>(sign | static_cast<std::uint32_t>(magnitude * 0x1p24f));
  return static_cast<std::uint16_t>(sign | (((bits & 0x7fffffffu) - 0x38000000u) >> 13));
}

inline std::uint16_t bits_of_bf16(float x) {  // of a float that is a bf16
  return static_cast<std::uint16_t>(std::isnan(x) ? 0x7fc0u : std::bit_cast<std::uint32_t>(x) >> 16);
}

// ---- memory that notices ----

// offset: one element away from any vector's alignment, known bytes around. flush: the array ends at a page that
// cannot be accessed, so that reading past it is a crash, too.
enum class Placement { offset, flush };

class Region {
 public:
  Region() = default;
  Region(std::size_t bytes, std::size_t element, Placement placement)
      : bytes_(bytes), element_(element), placement_(placement) {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    room_ = (bytes + 4 * margin + page - 1) / page * page;
    mapped_ = room_ + page;
    void* const base = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) throw std::bad_alloc();
    base_ = static_cast<unsigned char*>(base);
    mprotect(base_ + room_, page, PROT_NONE);
    data_ = placement == Placement::flush ? base_ + room_ - bytes : base_ + margin + element;
    std::memset(base_, filling, room_);
  }
  Region(const Region& other) {
    if (other.base_ == nullptr) return;
    Region copy(other.bytes_, other.element_, other.placement_);
    std::memcpy(copy.base_, other.base_, other.room_);
    swap(copy);
  }
  Region(Region&& other) noexcept { swap(other); }
  Region& operator=(Region other) noexcept {
    swap(other);
    return *this;
  }
  ~Region() {
    if (base_) munmap(base_, mapped_);
  }

  unsigned char* data() const { return data_; }
  std::size_t size() const { return bytes_; }

  bool intact() const {  // are the bytes around the array as they were?
    const auto untouched = [](const unsigned char* first, const unsigned char* last) {
      return std::all_of(first, last, [](unsigned char byte) { return byte == filling; });
    };
    return base_ == nullptr || (untouched(base_, data_) && untouched(data_ + bytes_, base_ + room_));
  }

 private:
  static constexpr std::size_t margin = 64;
  static constexpr unsigned char filling = 0xa5;

  void swap(Region& other) noexcept {
    std::swap(base_, other.base_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(room_, other.room_);
    std::swap(mapped_, other.mapped_);
    std::swap(element_, other.element_);
    std::swap(placement_, other.placement_);
  }

  unsigned char* base_ = nullptr;
  unsigned char* data_ = nullptr;
  std::size_t bytes_ = 0, room_ = 0, mapped_ = 0, element_ = 0;
  Placement placement_ = Placement::offset;
};

// An array of values as a tensor may store them.
class Array {
 public:
  Array() = default;
  Array(std::span<const float> values, DType dtype, Placement placement = Placement::offset)
      : region_(values.size() * size_of(dtype), size_of(dtype), placement), dtype_(dtype) {
    for (std::size_t i = 0; i < values.size(); ++i) set(i, values[i]);
  }

  TensorView view() const { return {region_.data(), dtype_}; }
  DType dtype() const { return dtype_; }
  bool intact() const { return region_.intact(); }
  std::size_t size() const { return dtype_ == DType::none ? 0 : region_.size() / size_of(dtype_); }
  std::vector<unsigned char> bytes() const { return {region_.data(), region_.data() + region_.size()}; }

  float operator[](std::size_t i) const { return load_as_float(region_.data(), dtype_, static_cast<std::int64_t>(i)); }
  void set(std::size_t i, float value) {
    if (dtype_ == DType::f32) {
      std::memcpy(region_.data() + 4 * i, &value, 4);
      return;
    }
    const std::uint16_t bits =
        dtype_ == DType::f16 ? bits_of_half(nearest_half(value)) : bits_of_bf16(nearest_bf16(value));
    std::memcpy(region_.data() + 2 * i, &bits, 2);
  }

 private:
  Region region_;
  DType dtype_ = DType::none;
};

// Mask words of a tensor.
class Words {
 public:
  Words() = default;
  explicit Words(std::int64_t numel, Placement placement = Placement::offset)
      : region_(static_cast<std::size_t>(bits::words(numel)) * 8, 8, placement), numel_(numel) {}

  std::uint64_t* data() const { return reinterpret_cast<std::uint64_t*>(region_.data()); }
  std::span<const std::uint64_t> words() const { return {data(), static_cast<std::size_t>(bits::words(numel_))}; }
  bool intact() const { return region_.intact(); }
  void fill(std::uint64_t word) { std::fill_n(data(), bits::words(numel_), word); }

 private:
  Region region_;
  std::int64_t numel_ = 0;
};

}  // namespace bittersweet::test
