// The scores of a tile as they are looked at: 64 at a time, in registers.
#pragma once

#include <span>

#include "cpu/verbs/bits.hpp"
#include "cpu/verbs/score.hpp"

namespace bittersweet {
namespace {

using WordOfScores = Vec[vectors_per_word];

// Fewer than 64 elements of a tile, and zeros.
template <class S, class T>
struct LastWord {
  T data[7][bits::per_word];
  cpu::TileInput in;

  __attribute__((noinline, cold)) void copy(const cpu::TileInput& from, std::int64_t first, std::int64_t count) {
    in = from;
    int slot = 0;
    for_each_array<S>([&](auto member) {
      T* const to = data[slot++];
      std::copy_n(static_cast<const T*>(from.*member) + first, count, to);
      std::fill(to + count, to + bits::per_word, T{});
      in.*member = to;
    });
  }
};

// Tiles of `count` elements each that are read side by side: when several places are read at once, page walks and
// memory latency are covered. `live` may hold null pointers. What is read after a tile begins `gap` elements behind it;
// `ahead`: how far to ask.
struct SideBySide {
  const cpu::TileInput* in;
  const std::uint64_t* const* live;
  std::int64_t tiles;
  std::int64_t count;
  std::int64_t ahead;
  std::int64_t gap = 0;
};

// f(number in `all`, tile, word, live, its 64 scores) for every word of them, the tiles by turns; zeros stand behind
// their ends. In one loop, so that there is one copy of f.
template <class S, class T, std::size_t N, class F>
BITTERSWEET_INLINE void for_each_scored_word(const Scorer& variant, const SideBySide (&all)[N], F&& f) {
  const S scorer = *std::get_if<S>(&variant);
  LastWord<S, T> tail;
  for (std::size_t n = 0; n < N; ++n) {
    const std::int64_t whole = all[n].count / bits::per_word, words = bits::words(all[n].count);
    for (std::int64_t word = 0; word < words; ++word) {
      const std::int64_t gap = word + all[n].ahead / bits::per_word < words ? 0 : all[n].gap;
      for (std::int64_t tile = 0; tile < all[n].tiles; ++tile) {
        const cpu::TileInput* in = all[n].in + tile;
        const std::uint64_t* const live = all[n].live[tile];
        std::uint64_t alive = live ? live[word] : ~std::uint64_t{0};
        std::int64_t index = word * bits::per_word;
        if (word == whole) [[unlikely]] {
          tail.copy(*in, index, all[n].count - index);
          in = &tail.in;
          index = 0;
          alive &= bits::valid(all[n].count, word);
        }
        prefetch_arrays<S, T>(*in, index + gap, all[n].ahead);
        WordOfScores scores;
        for (int v = 0; v < vectors_per_word; ++v) scores[v] = scorer(elements_at<S, T>(*in, index + v * lanes));
        if (in->modifier != 1.0f)
          for (Vec& s : scores) s = s * in->modifier;
        f(n, tile, word, alive, scores);
      }
    }
  }
}

template <class S, class T>
BITTERSWEET_INLINE cpu::TileInput from_word(const cpu::TileInput& in, std::int64_t word) {
  cpu::TileInput part = in;
  for_each_array<S>([&](auto member) { part.*member = static_cast<const T*>(in.*member) + word * bits::per_word; });
  return part;
}

// f(row, word, live, its 64 scores) for tiles of rows.
template <class S, class T, class F>
BITTERSWEET_INLINE void for_each_word_of_rows(const Scorer& scorer, std::span<const cpu::RowTile> rows,
                                              std::int64_t count, F&& f) {
  cpu::TileInput in[cpu::RowTile::room];
  const std::uint64_t* live[cpu::RowTile::room];
  for (std::size_t r = 0; r < rows.size(); ++r) in[r] = rows[r].in, live[r] = rows[r].live;
  const SideBySide all[] = {{in, live, static_cast<std::int64_t>(rows.size()), count, cpu::far_ahead, rows[0].gap}};
  for_each_scored_word<S, T>(
      scorer, all, [&](std::size_t, std::int64_t r, std::int64_t word, std::uint64_t on, const WordOfScores& scores) {
        f(rows[static_cast<std::size_t>(r)], word, on, scores);
      });
}

// A long tile is read in so many places, about four streams in all.
template <class S>
constexpr std::int64_t parts_of() {
  int arrays = 0;
  for_each_array<S>([&](auto) { ++arrays; });
  return std::max(1, 4 / arrays);
}

// f(live, its 64 scores) for every word of a tile, in any order.
template <class S, class T, class F>
BITTERSWEET_INLINE void for_each_scored_word(const Scorer& scorer, const cpu::TileInput& in, const std::uint64_t* live,
                                             std::int64_t count, F&& f) {
  constexpr std::int64_t parts = parts_of<S>(), least = 4096;  // elements of a part: short ones end where it asks
  const std::int64_t stride = count < parts * least ? 0 : count / bits::per_word / parts, common = parts * stride;
  cpu::TileInput tile[parts + 1];
  const std::uint64_t* alive[parts + 1];
  for (std::int64_t part = 0; part <= parts; ++part) {
    tile[part] = from_word<S, T>(in, part * stride);
    alive[part] = live ? live + part * stride : nullptr;
  }
  const std::int64_t ahead = cpu::asked_ahead();
  const SideBySide all[] = {{tile, alive, parts, stride * bits::per_word, ahead},
                            {tile + parts, alive + parts, 1, count - common * bits::per_word, ahead}};
  for_each_scored_word<S, T>(
      scorer, all,
      [&](std::size_t, std::int64_t, std::int64_t, std::uint64_t on, const WordOfScores& scores) { f(on, scores); });
}

}  // namespace
}  // namespace bittersweet
