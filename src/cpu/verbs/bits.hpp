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
  const Vec t = splat(threshold);
  Mask below[vectors_per_word], same[vectors_per_word], number[vectors_per_word];
  for (int k = 0; k < vectors_per_word; ++k) {
    const Vec s = load(scores, k * lanes);
    below[k] = less(s, t);
    same[k] = equal(s, t);
    number[k] = equal(s, s);
  }
  return {pack(below), pack(same), ~pack(number)};
}

inline std::int64_t popcount_words(const std::uint64_t* words, std::int64_t count) {
  std::int64_t total = 0;
  for (std::int64_t word = 0; word < count; ++word) total += bits::count(words[word]);
  return total;
}

}  // namespace
}  // namespace bittersweet
