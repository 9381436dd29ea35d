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

// Scores in a buffer as a tile of the scorer identity.
inline const Scorer scores_alone{Identity{}};
inline TileInput scored(const float* scores) {
  TileInput in;
  in.score = scores;
  return in;
}

inline CountsAt count_at(const Kernels& kernels, const float* scores, const std::uint64_t* live, std::int64_t count,
                         float threshold) {
  if (threshold != threshold) return {};
  CutCounts cuts(std::span(&threshold, 1));
  kernels.count_cuts[scores_alone.index()][as_f32](scores_alone, scored(scores), live, count, cuts);
  kernels.sum_lanes(cuts);
  return cuts.at(threshold);
}

}  // namespace bittersweet::cpu
