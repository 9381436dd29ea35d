// The lowest of every M inputs of a row whose scores lie in the first caches, by their ranks.
#pragma once

#include <algorithm>
#include <limits>

#include "cpu/kernels.hpp"
#include "cpu/verbs/bits.hpp"
#include "cpu/verbs/group_ranks.hpp"
#include "cpu/verbs/group_spread.hpp"
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

// Which of element `i` of 64 groups, from the g-th on, have fewer than `share` lower ones in their group, or equal ones
// before them. Element j of the groups is the run of `stride` keys from j * stride on. Dead ones go first, NaN never.
BITTERSWEET_INLINE std::uint64_t lowest_of(const std::int32_t* keys, std::int64_t size, std::int64_t stride,
                                           std::int64_t i, std::int64_t g, std::int64_t share) {
  const auto of = [&](std::int64_t j, int v) { return load_ints(keys, j * stride + g + v * lanes); };
  IntVector own[vectors_per_word], rank[vectors_per_word]{};
  for (int v = 0; v < vectors_per_word; ++v) own[v] = of(i, v);
  for (std::int64_t j = 0; j < i; ++j)
    for (int v = 0; v < vectors_per_word; ++v) rank[v] = one_less(rank[v], less(own[v], of(j, v)));
  for (std::int64_t j = i + 1; j < size; ++j)
    for (int v = 0; v < vectors_per_word; ++v) rank[v] = one_more(rank[v], less(of(j, v), own[v]));
  const IntVector fewer = IntVector{} + static_cast<std::int32_t>(share - i), nan = IntVector{} + key_of_nans;
  Mask gone[vectors_per_word];
  for (int v = 0; v < vectors_per_word; ++v) gone[v] = both(less(rank[v], fewer), less(own[v], nan));
  return pack(gone);
}

// Runs of `inner` keys, element by element. As much as a vector more than they are is read and written.
inline void gather_elements(const float* row, const cpu::RowGroups groups, std::int32_t* keys) {
  const std::int64_t stride = groups.stride();
  for (std::int64_t j = 0; j < groups.size; ++j)
    for (std::int64_t block = 0; block < groups.blocks; ++block) {
      const float* const from = row + (block * groups.size + j) * groups.inner;
      std::int32_t* const to = keys + j * stride + block * groups.inner;
      for (std::int64_t c = 0; c < groups.inner; c += lanes) store_ints(to, c, as_bits(load(from, c)));
    }
}

// Work grows with the square of `size`.
inline std::int64_t drop_lowest_of_runs(float* row, const cpu::RowGroups groups, std::int64_t share,
                                        const cpu::GroupScratch scratch, std::uint64_t* keep, cpu::ReadNext& next) {
  const std::int64_t count = groups.count(), stride = groups.stride(), words = stride / bits::per_word;
  const bool four = groups.size == 4 && groups.inner <= most_places;
  const std::int64_t nans = for_each_keyed_word(row, count, keep, next, [&](std::int64_t word, const KeyedWord& found) {
    const std::int64_t at = word * bits::per_word;
    if (four) scratch.dropped[word] = found.nan;
    for (int v = 0; v < vectors_per_word; ++v)
      if (four)
        store_ints(scratch.keys, at + v * lanes, found.keys[v]);
      else
        store(row, at + v * lanes, as_floats(found.keys[v]));
  });
  if (four) {
    drop_lowest_of_spread_four(scratch.keys, groups, share, scratch, keep);
    return nans;
  }
  gather_elements(row, groups, scratch.keys);
  for (std::int64_t i = 0; i < groups.size; ++i)
    for (std::int64_t word = 0; word < words; ++word)
      scratch.gone[i * words + word] = lowest_of(scratch.keys, groups.size, stride, i, word * bits::per_word, share);
  std::fill_n(scratch.dropped, bits::words(count), 0);
  bits::Appender dropped(scratch.dropped, 0);
  for (std::int64_t block = 0; block < groups.blocks; ++block)
    for (std::int64_t i = 0; i < groups.size; ++i)
      for (std::int64_t c = 0; c < groups.inner; c += bits::per_word) {
        const std::int64_t some = std::min(bits::per_word, groups.inner - c);
        dropped.add(bits::read(scratch.gone, i * stride + block * groups.inner + c, some), some);
      }
  dropped.end();
  for (std::int64_t word = 0; word < bits::words(count); ++word) keep[word] &= ~scratch.dropped[word];
  return nans;
}

// Clears the bits of the `share` lowest of every group in a row of scores; `keep` comes with the live bits. Returns the
// live NaN, which stay. A vector more than the row is read, and it may be overwritten.
inline std::int64_t drop_lowest_of_groups(float* row, const cpu::RowGroups& groups, std::int64_t share,
                                          const cpu::GroupScratch& scratch, std::uint64_t* keep, cpu::ReadNext next) {
  const std::int64_t size = groups.inner == 1 ? groups.size : 0, count = groups.count();
  if (size == 2) return drop_lowest<2>(row, count, share, keep, next);
  if constexpr (lanes >= 8)
    if (size == 8) return drop_lowest<8>(row, count, share, keep, next);
  if constexpr (lanes >= 16)
    if (size == 16) return drop_lowest<16>(row, count, share, keep, next);
  return drop_lowest_of_runs(row, groups, share, scratch, keep, next);
}

}  // namespace
}  // namespace bittersweet
