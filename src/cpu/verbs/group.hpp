// Selection within one group whose scores lie in the first caches: the k lowest of a row, by bisection on the integer
// image of the scores with SIMD counts; and the lowest of every M inputs, by their ranks.
#pragma once

#include <algorithm>
#include <limits>

#include "bittersweet/radix_key.hpp"
#include "cpu/kernels.hpp"
#include "cpu/verbs/bits.hpp"

namespace bittersweet {
namespace {

BITTERSWEET_INLINE IntVector load_ints(const std::int32_t* data, std::int64_t index) {
  IntVector a;
  std::memcpy(&a, data + index, sizeof a);
  return a;
}

BITTERSWEET_INLINE void store_ints(std::int32_t* data, std::int64_t index, IntVector a) {
  std::memcpy(data + index, &a, sizeof a);
}

BITTERSWEET_INLINE std::int64_t sum(IntVector a) {
  std::int64_t total = 0;
  for (int i = 0; i < lanes; ++i) total += a[i];
  return total;
}

// f(vector of scores, accumulator 0..3) for all of them; `count` is a multiple of 64.
template <class F>
BITTERSWEET_INLINE void for_each_vector(const float* scores, std::int64_t count, F&& f) {
  for (std::int64_t i = 0; i < count; i += 4 * lanes)
    for (int j = 0; j < 4; ++j) f(load(scores, i + j * lanes), j);
}

inline std::int64_t count_at_or_below(const float* scores, std::int64_t count, float threshold) {
  const FloatVector t = splat(threshold).x;
  IntVector found[4]{};  // minus the count: a true comparison is -1
  for_each_vector(scores, count, [&](Vec s, int j) { found[j] += s.x <= t; });
  return -sum(found[0] + found[1] + found[2] + found[3]);
}

// Where to cut so that the k lowest of `count` scores go, fewer if fewer are numbers. The buffer is padded with NaN to
// a multiple of 64, and `count` is that multiple. About 16 counts, 32 at most.
inline cpu::Cut cut_below(const float* scores, std::int64_t count, std::int64_t k) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  FloatVector least[4], most[4];
  IntVector found[4]{};
  for (int j = 0; j < 4; ++j) least[j] = splat(infinity).x, most[j] = splat(-infinity).x;
  for_each_vector(scores, count, [&](Vec s, int j) {
    least[j] = s.x < least[j] ? s.x : least[j];
    most[j] = s.x > most[j] ? s.x : most[j];
    found[j] += s.x == s.x;
  });
  k = std::min(k, -sum(found[0] + found[1] + found[2] + found[3]));
  if (k <= 0) return {-infinity, 0};
  float low = infinity, high = -infinity;
  for (int j = 0; j < 4; ++j)
    for (int i = 0; i < lanes; ++i) low = std::min(low, least[j][i]), high = std::max(high, most[j][i]);

  std::uint32_t under = key_of(low) - 1, over = key_of(high);  // fewer than k at or below the first, k at the second
  std::int64_t count_under = 0;
  while (over - under > 1) {
    const std::uint32_t middle = under + (over - under) / 2;
    const std::int64_t at_or_below = count_at_or_below(scores, count, score_of(middle));
    if (at_or_below == k) return {score_of(middle), k};
    if (at_or_below > k) {
      over = middle;
    } else {
      under = middle;
      count_under = at_or_below;
    }
  }
  return {score_of(over), k - count_under};
}

// Replaces the bits of dead elements; `words` whole words of both.
inline void bury(float* scores, const std::uint64_t* live, std::int64_t words, std::uint32_t bits_of_dead) {
  for (std::int64_t word = 0; word < words; ++word) {
    if (live[word] == ~std::uint64_t{0}) continue;
    std::uint32_t dead[bits::per_word], value[bits::per_word];
    bits::spread(~live[word], dead);
    std::memcpy(value, scores + word * bits::per_word, sizeof value);
    for (int i = 0; i < bits::per_word; ++i) value[i] = (value[i] & ~dead[i]) | (bits_of_dead & dead[i]);
    std::memcpy(scores + word * bits::per_word, value, sizeof value);
  }
}

// The score of `rank` elements of a group is lower, or equal at a lower place: those with a rank under `share` go.
// `keys` holds element j of every group as one run of `stride` integers: dead ones lowest, NaN highest. Work grows with
// the square of `size`.
inline void mark_lowest(std::int32_t* keys, std::int32_t* marks, std::int64_t size, std::int64_t stride,
                        std::int64_t share) {
  const IntVector fewer = IntVector{} + static_cast<std::int32_t>(share);
  for (std::int64_t g = 0; g < stride; g += lanes)
    for (std::int64_t i = 0; i < size; ++i) {
      const IntVector own = load_ints(keys, i * stride + g);
      IntVector rank{};
      for (std::int64_t j = 0; j < i; ++j) rank -= load_ints(keys, j * stride + g) <= own;
      for (std::int64_t j = i + 1; j < size; ++j) rank -= load_ints(keys, j * stride + g) < own;
      const IntVector gone = (rank < fewer) & (own != std::numeric_limits<std::int32_t>::max());
      store_ints(marks, i * stride + g, gone & std::bit_cast<std::int32_t>(-1.0f));
    }
}

// The row of scores becomes -1 where a group of `size` consecutive inputs prunes, 0 elsewhere. Returns the live NaN.
// `live` is null where everything lives; `scratch` has room for two integers a score and 2 * 64 * size more.
inline std::int64_t lowest_of_groups(float* row, const std::uint64_t* live, std::int64_t blocks, std::int64_t size,
                                     std::int64_t inner, std::int64_t share, std::int32_t* scratch) {
  constexpr std::int32_t dead = std::numeric_limits<std::int32_t>::min(),
                         nan = std::numeric_limits<std::int32_t>::max();
  const std::int64_t count = blocks * size * inner, padded = bits::words(count) * bits::per_word;
  IntVector found{};
  for (std::int64_t i = 0; i < padded; i += lanes) {
    const Vec s = load(row, i);
    const IntVector raw = as_bits(s), positive = raw & nan;
    IntVector key = raw < 0 ? raw ^ nan : raw;  // radix_key.hpp, with the sign that integer vectors compare by
    key = positive == 0 ? IntVector{} : key;
    key = s.x == s.x ? key : IntVector{} + nan;
    store(row, i, as_floats(key));
  }
  if (live) bury(row, live, padded / bits::per_word, static_cast<std::uint32_t>(dead));
  for (std::int64_t i = 0; i + lanes <= count; i += lanes) found += as_bits(load(row, i)) == nan;
  std::int64_t nans = -sum(found);
  for (std::int64_t i = count - count % lanes; i < count; ++i) nans += std::bit_cast<std::int32_t>(row[i]) == nan;

  const std::int64_t groups = blocks * inner, stride = (groups + lanes - 1) / lanes * lanes;
  std::int32_t* const keys = scratch;
  std::int32_t* const marks = scratch + size * stride;
  const auto each = [&](auto&& f) {  // f(element of the row, its place by place in the group)
    if (inner == 1 && size == 4) {   // mostly: a loop that becomes loads of vectors and their parts
      for (std::int64_t block = 0; block < blocks; ++block)
        for (std::int64_t j = 0; j < 4; ++j) f(row[4 * block + j], j * stride + block);
      return;
    }
    for (std::int64_t j = 0; j < size; ++j)
      for (std::int64_t block = 0; block < blocks; ++block) {
        float* const run = row + (block * size + j) * inner;
        if (inner == 1)  // no loop for one element
          f(*run, j * stride + block);
        else
          for (std::int64_t lane = 0; lane < inner; ++lane) f(run[lane], j * stride + block * inner + lane);
      }
  };
  each([&](float key, std::int64_t at) { keys[at] = std::bit_cast<std::int32_t>(key); });
  for (std::int64_t j = 0; j < size; ++j) std::fill(keys + j * stride + groups, keys + (j + 1) * stride, 0);
  mark_lowest(keys, marks, size, stride, share);
  each([&](float& mark, std::int64_t at) { mark = std::bit_cast<float>(marks[at]); });
  return nans;
}

}  // namespace
}  // namespace bittersweet
