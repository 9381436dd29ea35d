// How a verb walks a chunk: tile by tile, as inputs or as scores.
#pragma once

#include "cpu/tiles.hpp"

namespace bittersweet::cpu {

inline const std::uint64_t* words_at(const std::uint64_t* mask, std::int64_t index) {
  return mask ? mask + index / bits::per_word : nullptr;
}

// f(tiles, input, first, count) for every tile of a chunk; `first` counts from the chunk's first element. With
// `in_one`, inputs that lie in the caller's memory come as one tile of the whole chunk. before(chunk, first, count) is
// called before a tile is looked at, with its first element's index in the tensor.
struct Nothing {
  void operator()(const Chunk&, std::int64_t, std::int64_t) const {}
};

template <class F, class B = Nothing>
void for_each_tile(const Kernels& kernels, const ScoreView& view, const Chunk& chunk, bool in_one, F&& f,
                   B&& before = {}) {
  Tiles tiles(kernels, view, chunk.tensor);
  const std::int64_t size = in_one && tiles.in_place() ? Chunk::size : tile_size;
  for (std::int64_t first = 0; first < chunk.count; first += size) {
    const std::int64_t count = std::min<std::int64_t>(size, chunk.count - first);
    before(chunk, chunk.first + first, count);
    f(tiles, tiles.at(chunk.first + first, count), first, count);
  }
}

// f(scores, live, first, count) for every scored block of `Size` elements; scores are padded to a whole word.
template <std::int64_t Size, class F>
void for_each_scored(const Kernels& kernels, const ScoreView& view, const Chunk& chunk, F&& f) {
  static_assert(Size % tile_size == 0);
  alignas(64) float scores[Size];
  std::int64_t filled = 0;
  for_each_tile(kernels, view, chunk, false,
                [&](Tiles& tiles, const TileInput& in, std::int64_t first, std::int64_t count) {
                  tiles.score(in, count, scores + filled);
                  filled += count;
                  if (filled < Size && first + count < chunk.count) return;
                  std::fill(scores + filled, scores + bits::words(filled) * bits::per_word, 0.0f);
                  const std::int64_t begin = first + count - filled;
                  f(scores, words_at(view.tensors[chunk.tensor].mask, chunk.first + begin), begin, filled);
                  filled = 0;
                });
}

// The same in short blocks, with what is read a few blocks later: while a block's scores are worked on, the memory is
// asked for that.
template <class F>
void for_each_scored_ahead(const Kernels& kernels, const ScoreView& view, const Chunk& chunk, F&& f) {
  constexpr std::int64_t size = 256, lead = 3 * size;
  alignas(64) float scores[size];
  Tiles tiles(kernels, view, chunk.tensor);
  for (std::int64_t first = 0; first < chunk.count; first += size) {
    const std::int64_t count = std::min<std::int64_t>(size, chunk.count - first), begin = chunk.first + first;
    tiles.score(tiles.at(begin, count), count, scores);
    std::fill(scores + count, scores + bits::words(count) * bits::per_word, 0.0f);
    Ahead ahead = tiles.ahead(begin + lead, size);
    f(scores, words_at(view.tensors[chunk.tensor].mask, begin), count, ahead);
  }
}

}  // namespace bittersweet::cpu
