// Keep bits of a tile for a known threshold: the first `ties` scores equal to it are pruned. Returns the live NaN.
#pragma once

#include "cpu/verbs/bits.hpp"

namespace bittersweet {
namespace {

inline std::int64_t write_mask_tile(const float* scores, const std::uint64_t* live, std::int64_t count, float threshold,
                                    std::int64_t& ties, std::uint64_t* mask) {
  std::int64_t nan = 0;
  for_each_word(live, count, [&](std::int64_t w, std::uint64_t live_bits, std::int64_t index) {
    const Compared word = compare(scores + index, threshold);
    nan += bits::count(word.nan & live_bits);
    std::uint64_t keep = live_bits & ~word.below;
    const std::uint64_t equal = word.equal & live_bits;
    const std::int64_t present = bits::count(equal);
    if (present <= ties) {
      keep &= ~equal;
      ties -= present;
    } else {
      std::uint64_t kept = equal;  // all but the first `ties`
      for (; ties > 0; --ties) kept = bits::without_lowest(kept);
      keep = (keep & ~equal) | kept;
    }
    mask[w] = keep;
  });
  return nan;
}

}  // namespace
}  // namespace bittersweet
