// How many live scores of a tile lie below a threshold, and at it.
#pragma once

#include "bittersweet/engine/summaries.hpp"
#include "cpu/verbs/bits.hpp"

namespace bittersweet {
namespace {

inline CountsAt count_tile(const float* scores, const std::uint64_t* live, std::int64_t count, float threshold) {
  CountsAt counts;
  for_each_word(live, count, [&](std::int64_t, std::uint64_t live_bits, std::int64_t index) {
    const Compared word = compare(scores + index, threshold);
    counts.below += bits::count(word.below & live_bits);
    counts.equal += bits::count(word.equal & live_bits);
  });
  return counts;
}

}  // namespace
}  // namespace bittersweet
