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

// f(scores, live, first, count) for every scored tile; scores are padded to a whole word.
template <class F>
void for_each_scored(const Kernels& kernels, const ScoreView& view, const Chunk& chunk, F&& f) {
  alignas(64) float scores[tile_size];
  for_each_tile(kernels, view, chunk, false,
                [&](Tiles& tiles, const TileInput& in, std::int64_t first, std::int64_t count) {
                  tiles.score(in, count, scores);
                  std::fill(scores + count, scores + bits::words(count) * bits::per_word, 0.0f);
                  f(scores, words_at(view.tensors[chunk.tensor].mask, chunk.first + first), first, count);
                });
}

// f(scores, live, count, ahead) for every scored block of `Size` elements, short ones by default, with what is read a
// few blocks later: while a block's scores are worked on, the memory is asked for that.
template <std::int64_t Size = 256, class F>
void for_each_scored_ahead(const Kernels& kernels, const ScoreView& view, const Chunk& chunk, F&& f) {
  constexpr std::int64_t lead = std::max<std::int64_t>(768, Size);
  alignas(64) float scores[Size];
  Tiles tiles(kernels, view, chunk.tensor);
  for (std::int64_t first = 0; first < chunk.count; first += Size) {
    const std::int64_t count = std::min(Size, chunk.count - first), begin = chunk.first + first;
    for (std::int64_t done = 0; done < count; done += tile_size) {
      const std::int64_t n = std::min(tile_size, count - done);
      tiles.score(tiles.at(begin + done, n), n, scores + done);
    }
    std::fill(scores + count, scores + bits::words(count) * bits::per_word, 0.0f);
    Ahead ahead = tiles.ahead(begin + lead, Size);
    f(scores, words_at(view.tensors[chunk.tensor].mask, begin), count, ahead);
  }
}

}  // namespace bittersweet::cpu
