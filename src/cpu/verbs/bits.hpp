// One word per 64 scores of a tile: which of them compare so. Shared by the verbs that read score tiles.
#pragma once

#include <algorithm>

#include "bittersweet/mask/bit_layout.hpp"
#include "cpu/simd.hpp"

namespace bittersweet {
namespace {

// f(word, live, index, count) for every 64 scores of a tile.
template <class F>
BITTERSWEET_INLINE void for_each_word(const std::uint64_t* live, std::int64_t count, F&& f) {
  for (std::int64_t word = 0; word < bits::words(count); ++word) {
    const std::uint64_t valid = bits::valid(count, word);
    f(word, live ? live[word] & valid : valid, word * bits::per_word);
  }
}

struct Compared {
  std::uint64_t below = 0;
  std::uint64_t equal = 0;
  std::uint64_t nan = 0;
};

// The 64 scores from `scores`; the caller's tile buffers are padded, so whole words can always be read.
BITTERSWEET_INLINE Compared compare(const float* scores, float threshold) {
  Compared word;
  const Vec t = splat(threshold);
  for (int k = 0; k < bits::per_word; k += lanes) {
    const Vec s = load(scores, k);
    constexpr std::uint32_t all = static_cast<std::uint32_t>((std::uint64_t{1} << lanes) - 1);
    word.below |= static_cast<std::uint64_t>(less(s, t)) << k;
    word.equal |= static_cast<std::uint64_t>(equal(s, t)) << k;
    word.nan |= static_cast<std::uint64_t>(all & ~equal(s, s)) << k;
  }
  return word;
}

inline std::int64_t popcount_words(const std::uint64_t* words, std::int64_t count) {
  std::int64_t total = 0;
  for (std::int64_t word = 0; word < count; ++word) total += bits::count(words[word]);
  return total;
}

}  // namespace
}  // namespace bittersweet
