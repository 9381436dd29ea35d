// The scores of a row that lie inside a bracket, as a list: a rank among them, and which of them go.
#pragma once

#include <limits>

#include "cpu/kernels.hpp"
#include "cpu/verbs/bits.hpp"
#include "cpu/verbs/choose.hpp"
#include "cpu/verbs/row_rank.hpp"
#include "cpu/verbs/row_read.hpp"

namespace bittersweet {
namespace {

constexpr std::int64_t few_listed = shuffles ? 512 : 0;
constexpr int neighbours = 16;

// The rank-th lowest of so many scores, 1-based.
BITTERSWEET_INLINE float ranked_neighbour(const float* scores, std::int64_t rank) {
  constexpr int vectors = neighbours / lanes;
  IntVector below[vectors]{};
  for (int i = 0; i < neighbours; ++i)
    for (int v = 0; v < vectors; ++v) below[v] = one_more(below[v], less(splat(scores[i]), load(scores, v * lanes)));
  std::uint64_t that = 0, no_higher = 0;
  const IntVector before = IntVector{} + static_cast<std::int32_t>(rank - 1);
  for (int v = 0; v < vectors; ++v) {
    that |= bits_of(equal(below[v], before)) << v * lanes;
    no_higher |= bits_of(less(below[v], before)) << v * lanes;
  }
  if (that != 0) return scores[bits::lowest_or_width(that)];
  float highest = -std::numeric_limits<float>::infinity();  // some are equal
  for (; no_higher != 0; no_higher = bits::without_lowest(no_higher))
    highest = std::max(highest, scores[bits::lowest_or_width(no_higher)]);
  return highest;
}

// The rank-th lowest of a few scores by a look at those around where it would be if they were spread evenly; NaN if one
// is NaN, or if it takes more than a few looks, because many are alike.
BITTERSWEET_INLINE float ranked_of_few(const float* scores, std::int64_t count, std::int64_t rank,
                                       const Bracket& bracket) {
  constexpr float reach = 6;  // ranks
  const float step = (bracket.high - bracket.low) / static_cast<float>(count);
  float at = bracket.low + step * (static_cast<float>(rank) - 0.5f);
  for (int turn = 0; turn < 3; ++turn) {
    const Vec low = splat(at - reach * step), high = splat(at + reach * step);
    float near[few_listed + neighbours];
    std::int64_t under = 0, listed = 0, numbers = 0;
    for (std::int64_t i = 0; i < count; i += lanes) {
      const Vec s = load(scores, i);
      const std::uint64_t below = bits_of(less(s, low));
      listed += store_chosen(near + listed, s, bits_of(less_equal(s, high)) & ~below);
      under += bits::count(below);
      numbers += bits::count(bits_of(equal(s, s)));
    }
    if (numbers != count) break;
    if (under < rank && rank <= under + listed) {
      if (listed > neighbours) break;
      for (int v = 0; v < neighbours; v += lanes)
        store(near, listed + v, splat(std::numeric_limits<float>::infinity()));
      return ranked_neighbour(near, rank - under) + 0.0f;
    }
    at += step * (static_cast<float>(rank - under) - 0.5f * static_cast<float>(listed + 1));
  }
  return std::numeric_limits<float>::quiet_NaN();
}

inline float ranked_score(const float* scores, std::int64_t count, std::int64_t rank, const Bracket& bracket,
                          std::int32_t* keys) {
  if (count <= few_listed)
    if (const float found = ranked_of_few(scores, count, rank, bracket); found == found) return found;
  IntVector numbers{};  // minus the counts
  for (std::int64_t i = 0; i < count; i += lanes) {
    const Vec s = load(scores, i);
    numbers += s.x == s.x;
    store_ints(keys, i, signed_key(s));
  }
  if (-sum(numbers) != count) return std::numeric_limits<float>::quiet_NaN();
  return score_of_signed(ranked_key(keys, count, rank, signed_key(bracket.low), signed_key(bracket.high)).key);
}

// Bit i: the i-th score lies below the threshold, or equals it. Those from `count` on are 0, up to a whole word.
inline cpu::ListedRank compare_listed(const float* scores, std::int64_t count, float threshold, std::uint64_t* below,
                                      std::uint64_t* equal) {
  cpu::ListedRank all{threshold};
  for (std::int64_t word = 0; word < bits::words(count); ++word) {
    const Compared found = compare(scores + word * bits::per_word, threshold);
    const std::uint64_t valid = bits::valid(count, word);
    all.below += bits::count(below[word] = found.below & valid);
    all.equal += bits::count(equal[word] = found.equal & valid);
  }
  return all;
}

// The rank-th lowest of `count` scores, none of which lies outside the bracket; NaN if one is NaN. `keys`: room for as
// many, and 64 more, like `scores`, which are padded.
inline cpu::ListedRank rank_listed(float* scores, std::int64_t count, std::int64_t rank, const Bracket& bracket,
                                   std::int32_t* keys, std::uint64_t* below, std::uint64_t* equal) {
  store(scores, count, splat(std::numeric_limits<float>::quiet_NaN()));
  const float threshold = ranked_score(scores, count, rank, bracket, keys);
  if (threshold != threshold) return {threshold};
  return compare_listed(scores, count, threshold, below, equal);
}

// The lowest bits of `from` at the places of the mask's bits.
BITTERSWEET_INLINE std::uint64_t deposit(std::uint64_t from, std::uint64_t mask) {
#if defined(__BMI2__)
  return _pdep_u64(from, mask);
#else
  std::uint64_t to = 0;
  for (; mask != 0; mask = bits::without_lowest(mask), from >>= 1) to |= (from & 1) << bits::lowest_or_width(mask);
  return to;
#endif
}

// Bit i of the list belongs to the i-th bit of `inside`. There is a word behind the list.
inline void prune_listed(const std::uint64_t* listed, const std::uint64_t* inside, std::int64_t words,
                         std::uint64_t* keep) {
  std::int64_t at = 0;
  for (std::int64_t word = 0; word < words; ++word) {
    const std::uint64_t* const from = listed + at / bits::per_word;
    const int shift = static_cast<int>(at % bits::per_word);
    keep[word] &= ~deposit((from[0] >> shift) | (from[1] << 1 << (63 - shift)), inside[word]);
    at += bits::count(inside[word]);
  }
}

}  // namespace
}  // namespace bittersweet
