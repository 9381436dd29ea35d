// The selectors beside exact on a device: what lies in device memory between their kernels. The steps from one piece of
// it to the next are those of select/, which the CPU's flow calls, too.
#pragma once

#include "bittersweet/engine/device_steps.hpp"
#include "bittersweet/select/selectors.hpp"

namespace bittersweet::device {

inline constexpr int radix_levels = 3;    // digits of 11, 11 and 10 bits
inline constexpr int nan_bin = bins - 1;  // of the first digit: no number is there

// Begins as zeros.
struct Search {
  std::uint64_t nan;
  std::uint64_t nan_place;  // `none` less the lowest position of one: the largest wins
  std::uint64_t drawn;      // sampling: numbers in the sample
  std::uint64_t spread;
  RadixState radix[radix_levels + 1];
  std::int64_t digit_bins[radix_levels][bins];
  Moments moments;
  StreamingState stream[KeySearch::most_reads];        // before read r + 1; read 0 is that of the moments
  CountsAt counts[KeySearch::most_reads][Cuts::most];  // of read r + 1
};

}  // namespace bittersweet::device
