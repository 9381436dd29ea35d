// A row in one read: its scores are compared with a bracket as they come, and the few inside are listed. What is above
// and below stays decided; which of those inside go is known when all of them were seen.
#pragma once

#include "cpu/verbs/choose.hpp"
#include "cpu/verbs/scored.hpp"

namespace bittersweet {
namespace {

// `count` elements of each of up to RowTile::most rows.
template <class S, std::size_t St>
void read_rows(const Scorer& scorer, std::span<const cpu::RowTile> rows, std::int64_t count) {
  for_each_word_of_rows<S, StoredType<St>>(
      scorer, rows, count,
      [&](const cpu::RowTile& row, std::int64_t word, std::uint64_t live, const WordOfScores& scores) {
        cpu::RowRead& read = *row.read;
        const Vec low = splat(read.bracket.low), high = splat(read.bracket.high);
        Mask below[vectors_per_word], above[vectors_per_word];
        for (int v = 0; v < vectors_per_word; ++v) {
          below[v] = less(scores[v], low);
          above[v] = less(high, scores[v]);
        }
        const std::uint64_t kept_ones = live & ~pack(below), inside = kept_ones & ~pack(above);
        row.keep[word] = kept_ones;
        read.inside[row.word + word] = inside;
        if (read.count <= read.room) store_chosen(read.listed + read.count, scores, inside);
        read.count += bits::count(inside);
        read.kept += bits::count(kept_ones);
      });
}

}  // namespace
}  // namespace bittersweet
