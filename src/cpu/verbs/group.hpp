// The lowest of every M inputs of a row whose scores lie in the first caches, by their ranks.
#pragma once

#include <algorithm>
#include <limits>

#include "cpu/kernels.hpp"
#include "cpu/verbs/bits.hpp"
#include "cpu/verbs/group_ranks.hpp"
#include "cpu/verbs/row_rank.hpp"
#include "cpu/verbs/signed_key.hpp"

namespace bittersweet {
namespace {

// Replaces the bits of dead elements; `words` whole words of both.
inline void bury(float* scores, const std::uint64_t* live, std::int64_t words, std::uint32_t bits_of_dead) {
  const Vec dead = as_floats(IntVector{} + static_cast<std::int32_t>(bits_of_dead));
  for (std::int64_t word = 0; word < words; ++word) {
    if (live[word] == ~std::uint64_t{0}) continue;
    for (int v = 0; v < vectors_per_word; ++v) {
      const std::int64_t at = word * bits::per_word + v * lanes;
      const LaneMask on = lanes_on(live[word], v);
      store(scores, at, as_floats(as_bits(kept(load(scores, at), on)) | as_bits(dropped(dead, on))));
    }
  }
}

// The score of `rank` elements of a group is lower, or equal at a lower place: those with a rank under `share` go.
// `keys` holds element j of every group as one run of `stride` integers. Work grows with the square of `size`.
inline void mark_lowest(std::int32_t* keys, std::int32_t* marks, std::int64_t size, std::int64_t stride,
                        std::int64_t share) {
  const IntVector fewer = IntVector{} + static_cast<std::int32_t>(share);
  for (std::int64_t g = 0; g < stride; g += lanes)
    for (std::int64_t i = 0; i < size; ++i) {
      const IntVector own = load_ints(keys, i * stride + g);
      IntVector rank{};
      for (std::int64_t j = 0; j < i; ++j) rank -= load_ints(keys, j * stride + g) <= own;
      for (std::int64_t j = i + 1; j < size; ++j) rank -= load_ints(keys, j * stride + g) < own;
      const IntVector gone = (rank < fewer) & (own != key_of_nans);
      store_ints(marks, i * stride + g, gone & std::bit_cast<std::int32_t>(1.0f));
    }
}

inline std::int64_t drop_lowest_of_runs(float* row, std::int64_t blocks, std::int64_t size, std::int64_t inner,
                                        std::int64_t share, std::int32_t* scratch, std::uint64_t* keep) {
  const std::int64_t count = blocks * size * inner;
  const std::int64_t nans = for_each_keyed_word(row, count, keep, [&](std::int64_t word, const KeyedWord& found) {
    for (int v = 0; v < vectors_per_word; ++v) store(row, word * bits::per_word + v * lanes, as_floats(found.keys[v]));
  });
  const std::int64_t groups = blocks * inner, stride = (groups + lanes - 1) / lanes * lanes;
  std::int32_t* const keys = scratch;
  std::int32_t* const marks = scratch + size * stride;
  const auto each = [&](auto&& f) {  // f(element of the row, its place by place in the group)
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
  for (std::int64_t word = 0; word < bits::words(count); ++word) {
    Mask gone[vectors_per_word];
    for (int v = 0; v < vectors_per_word; ++v)
      gone[v] = less(splat(0.0f), load(row, word * bits::per_word + v * lanes));
    keep[word] &= ~(pack(gone) & bits::valid(count, word));
  }
  return nans;
}

// Clears the bits of the `share` lowest of every group in a row of scores. The group of an element is `size` inputs at
// one of `inner` places, there are `blocks` * `inner` of them, and `keep` comes with the live bits. Returns the live
// NaN, which stay. `scratch` has room for two integers a score and 2 * 64 * size more; the row may be overwritten.
inline std::int64_t drop_lowest_of_groups(float* row, std::int64_t blocks, std::int64_t size, std::int64_t inner,
                                          std::int64_t share, std::int32_t* scratch, std::uint64_t* keep) {
  if (inner == 1 && size == 2) return drop_lowest<2>(row, 2 * blocks, share, keep);
  if constexpr (lanes >= 8)
    if (inner == 1 && size == 8) return drop_lowest<8>(row, 8 * blocks, share, keep);
  if constexpr (lanes >= 16)
    if (inner == 1 && size == 16) return drop_lowest<16>(row, 16 * blocks, share, keep);
  return drop_lowest_of_runs(row, blocks, size, inner, share, scratch, keep);
}

}  // namespace
}  // namespace bittersweet
