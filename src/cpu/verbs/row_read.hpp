// A row in one read: its scores are compared with a bracket as they come, and the few inside are listed. What is above
// and below stays decided; which of those inside go is known when all of them were seen.
#pragma once

#include "cpu/verbs/scored.hpp"

namespace bittersweet {
namespace {

// Stores the chosen ones of 64 scores side by side, and whatever in up to `lanes` places behind.
BITTERSWEET_INLINE void store_chosen(float* to, const WordOfScores& scores, std::uint64_t chosen) {
#if BITTERSWEET_LANES == 16
  for (int v = 0; v < vectors_per_word; ++v) {
    const LaneMask on = lanes_on(chosen, v);
    store(to, 0, {_mm512_maskz_compress_ps(on, scores[v].x)});
    to += bits::count(on);
  }
#else
  float all[bits::per_word];
  store_word(all, scores);
  for (; chosen != 0; chosen = bits::without_lowest(chosen)) *to++ = all[bits::lowest_or_width(chosen)];
#endif
}

// `count` elements of each of up to RowTile::most rows.
template <class S, std::size_t St>
void read_rows(const Scorer& scorer, std::span<const cpu::RowTile> rows, std::int64_t count, const Bracket& bracket) {
  const Vec low = splat(bracket.low), high = splat(bracket.high);
  for_each_word_of_rows<S, StoredType<St>>(
      scorer, rows, count,
      [&](const cpu::RowTile& row, std::int64_t word, std::uint64_t live, const WordOfScores& scores) {
        Mask below[vectors_per_word], above[vectors_per_word];
        for (int v = 0; v < vectors_per_word; ++v) {
          below[v] = less(scores[v], low);
          above[v] = less(high, scores[v]);
        }
        const std::uint64_t kept_ones = live & ~pack(below), inside = kept_ones & ~pack(above);
        cpu::RowRead& read = *row.read;
        row.keep[word] = kept_ones;
        read.inside[row.word + word] = inside;
        if (read.count <= read.room) store_chosen(read.listed + read.count, scores, inside);
        read.count += bits::count(inside);
      });
}

// Bit i: the i-th score lies below the threshold, or equals it. Those from `count` on are 0, up to a whole word.
inline void compare_listed(const float* scores, std::int64_t count, float threshold, std::uint64_t* below,
                           std::uint64_t* equal) {
  for (std::int64_t word = 0; word < bits::words(count); ++word) {
    const Compared found = compare(scores + word * bits::per_word, threshold);
    const std::uint64_t valid = bits::valid(count, word);
    below[word] = found.below & valid;
    equal[word] = found.equal & valid;
  }
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
