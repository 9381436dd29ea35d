// The scores of a tile as they are looked at: 64 at a time, in registers.
#pragma once

#include "cpu/verbs/bits.hpp"
#include "cpu/verbs/score.hpp"

namespace bittersweet {
namespace {

using WordOfScores = Vec[vectors_per_word];

// f(part, word, live, its 64 scores) for every word of `Parts` tiles of `count` elements each, by turns: when several
// places are read at once, page walks and memory latency are covered. Zeros stand behind their ends.
template <class S, class T, std::int64_t Parts, class F>
BITTERSWEET_INLINE void for_each_word_of_parts(const Scorer& variant, const cpu::TileInput* in,
                                               const std::uint64_t* const* live, std::int64_t count, F&& f) {
  constexpr std::int64_t ahead = 512;  // elements; a new page is not left to the hardware prefetcher
  const S scorer = *std::get_if<S>(&variant);
  const auto scored = [&](std::int64_t part, std::int64_t word, const cpu::TileInput& from, std::int64_t index,
                          std::uint64_t alive) {
    WordOfScores scores;
    for (int v = 0; v < vectors_per_word; ++v) scores[v] = score_at<S, T>(scorer, from, index + v * lanes);
    f(part, word, alive, scores);
  };
  const std::int64_t whole = count / bits::per_word, rest = count % bits::per_word;
  for (std::int64_t word = 0; word < whole; ++word)
    for (std::int64_t part = 0; part < Parts; ++part) {
      const std::int64_t index = word * bits::per_word;
      for_each_array<S>([&](auto member) {
        const char* const next = reinterpret_cast<const char*>(static_cast<const T*>(in[part].*member) + index + ahead);
        for (std::size_t line = 0; line < bits::per_word * sizeof(T); line += 64) __builtin_prefetch(next + line);
      });
      scored(part, word, in[part], index, live[part] ? live[part][word] : ~std::uint64_t{0});
    }
  for (std::int64_t part = 0; part < Parts && rest > 0; ++part) {
    const std::int64_t index = whole * bits::per_word;
    const Padded<S, T, bits::per_word> tail(in[part], rest, bits::per_word,
                                            [&](const T* array, std::int64_t j) { return array[index + j]; });
    const std::uint64_t valid = bits::valid(count, whole);
    scored(part, whole, tail.in, 0, live[part] ? live[part][whole] & valid : valid);
  }
}

// f(row, word, live, its 64 scores), the same for tiles of rows.
template <class S, class T, std::int64_t Rows, class F>
BITTERSWEET_INLINE void for_each_word_of_rows(const Scorer& scorer, const cpu::RowTile* rows, std::int64_t count,
                                              F&& f) {
  cpu::TileInput in[Rows];
  const std::uint64_t* live[Rows];
  for (std::int64_t r = 0; r < Rows; ++r) in[r] = rows[r].in, live[r] = rows[r].live;
  for_each_word_of_parts<S, T, Rows>(
      scorer, in, live, count, [&](std::int64_t r, std::int64_t word, std::uint64_t on, const WordOfScores& scores) {
        f(rows[r], word, on, scores);
      });
}

// A tile is read in so many places, about four streams in all.
template <class S>
constexpr std::int64_t parts_of() {
  int arrays = 0;
  for_each_array<S>([&](auto) { ++arrays; });
  return std::max(1, 4 / arrays);
}

template <class S, class T>
BITTERSWEET_INLINE cpu::TileInput from_word(const cpu::TileInput& in, std::int64_t word) {
  cpu::TileInput part = in;
  for_each_array<S>([&](auto member) { part.*member = static_cast<const T*>(in.*member) + word * bits::per_word; });
  return part;
}

// f(word, live, its 64 scores) for every word of a tile.
template <class S, class T, class F>
BITTERSWEET_INLINE void for_each_scored_word(const Scorer& scorer, const cpu::TileInput& in, const std::uint64_t* live,
                                             std::int64_t count, F&& f) {
  constexpr std::int64_t parts = parts_of<S>();
  const std::int64_t stride = count / bits::per_word / parts, common = parts * stride;
  cpu::TileInput tile[parts + 1];
  const std::uint64_t* alive[parts + 1];
  for (std::int64_t part = 0; part <= parts; ++part) {
    tile[part] = from_word<S, T>(in, part * stride);
    alive[part] = live ? live + part * stride : nullptr;
  }
  for_each_word_of_parts<S, T, parts>(scorer, tile, alive, stride * bits::per_word,
                                      [&](std::int64_t part, std::int64_t word, std::uint64_t on,
                                          const WordOfScores& scores) { f(part * stride + word, on, scores); });
  for_each_word_of_parts<S, T, 1>(scorer, tile + parts, alive + parts, count - common * bits::per_word,
                                  [&](std::int64_t, std::int64_t word, std::uint64_t on, const WordOfScores& scores) {
                                    f(common + word, on, scores);
                                  });
}

}  // namespace
}  // namespace bittersweet
