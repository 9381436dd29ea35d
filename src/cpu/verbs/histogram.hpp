// One digit of the radix search over a tile of scores. Zeros, half of a pruned model, are counted in a register:
// increments of one bin would wait for each other.
#pragma once

#include "bittersweet/radix_key.hpp"
#include "cpu/kernels.hpp"
#include "cpu/verbs/bits.hpp"

namespace bittersweet {
namespace {

inline void histogram_tile(const float* scores, const std::uint64_t* live, std::int64_t count, const Digit& digit,
                           std::uint32_t* bins) {
  std::uint32_t zeros = 0;
  for_each_word(live, count, [&](std::int64_t, std::uint64_t live_bits, std::int64_t index) {
    const std::uint64_t zero = compare(scores + index, 0.0f).equal & live_bits;
    zeros += static_cast<std::uint32_t>(bits::count(zero));
    std::uint64_t left = live_bits & ~zero;
    const auto add = [&](std::int64_t i) {
      const std::uint32_t key = key_of(scores[i]);
      if (digit.matches(key)) ++bins[digit.bin(key)];
    };
    if (left == ~std::uint64_t{0})
      for (std::int64_t i = index; i < index + bits::per_word; ++i) add(i);
    else
      for (; left != 0; left = bits::without_lowest(left)) add(index + bits::lowest_or_width(left));
  });
  if (digit.matches(key_of_zero)) bins[digit.bin(key_of_zero)] += zeros;
}

}  // namespace
}  // namespace bittersweet
