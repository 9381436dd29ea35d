// In which order the elements of a dense tensor lie in memory where that is not row-major.
#pragma once

#include <cstdint>

namespace bittersweet {

// A batch of transposed matrices: logical element (b, p, q) of (B, P, Q) lies in memory at (b, q, p) of (B, Q, P). P =
// 1 or Q = 1 is row-major.
//   (O, I, kH, kW) in channels_last     {I, kH*kW}
//   (O, I, kD, kH, kW) in channels_last_3d    {I, kD*kH*kW}
//   (rows, columns), the transposed view of a row-major matrix    {rows, columns}
struct MemoryOrder {
  std::int64_t p = 1;
  std::int64_t q = 1;

  constexpr bool row_major() const noexcept { return p == 1 || q == 1; }
  constexpr std::int64_t size() const noexcept { return p * q; }  // elements of one of the matrices

  constexpr std::int64_t memory_of(std::int64_t logical) const noexcept {
    if (row_major()) return logical;
    const std::int64_t at = logical % size();
    return logical - at + at % q * p + at / q;
  }
  constexpr std::int64_t logical_of(std::int64_t memory) const noexcept {
    if (row_major()) return memory;
    const std::int64_t at = memory % size();
    return memory - at + at % p * q + at / p;
  }

  constexpr bool operator==(const MemoryOrder&) const = default;
};

// The logical indices of neighbours in memory, one after the other, without a division for each.
class LogicalWalk {
 public:
  constexpr LogicalWalk(const MemoryOrder& order, std::int64_t memory) noexcept
      : order_(order),
        logical_(order.logical_of(memory)),
        p_(memory % order.size() % order.p),
        q_(memory % order.size() / order.p) {}

  constexpr std::int64_t next() noexcept {
    const std::int64_t at = logical_;
    logical_ += order_.q;
    if (++p_ < order_.p) return at;
    p_ = 0;
    logical_ += 1 - order_.size();
    if (++q_ < order_.q) return at;
    q_ = 0;
    logical_ += order_.size() - order_.q;
    return at;
  }

 private:
  MemoryOrder order_;
  std::int64_t logical_, p_, q_;
};

}  // namespace bittersweet
