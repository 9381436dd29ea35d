// write_scores: the f32 score of every element, dead or alive. The table travels in the arguments.
#pragma once

#include "scores.cuh"

namespace bittersweet::cuda {

template <class S>
struct WriteScores {
  static constexpr u32 threads = 256, blocks = 4;
  static constexpr u32 most_rows = 128;
  struct Args {
    S scorer;
    u32 count, tiles;
    Piece pieces[most_rows];
    Row rows[most_rows];
  };
  struct Shared {};

  static BITTERSWEET_DEVICE void body(const Args& args, Shared&) {
    for_each_tile({args.rows, args.pieces, args.count, args.tiles}, [&](const Row& row, u32, u32 tile) {
      const std::int64_t begin = std::int64_t{tile} * tile_size + lane_id();
      constexpr int at_once = blackwell && needs_place<S> ? 4 : 8;  // or they spill
      for (u32 j = 0; j < tile_words; j += at_once) {
        float score[at_once];
#pragma unroll
        for (int i = 0; i < at_once; ++i) {
          const std::int64_t index = begin + (j + i) * 32;
          score[i] = index < row.numel ? score_any(args.scorer, row, index) : 0.0f;
        }
#pragma unroll
        for (int i = 0; i < at_once; ++i) {
          const std::int64_t index = begin + (j + i) * 32;
          if (index < row.numel) row.scores[index] = score[i];
        }
      }
    });
  }
};

template <class L>
void write_scores(L& launcher, const Scorer& scorer, std::span<const Row> rows) {
  std::visit(
      [&](const auto& s) {
        using K = WriteScores<std::decay_t<decltype(s)>>;
        for (std::size_t first = 0; first < rows.size(); first += K::most_rows) {
          typename K::Args args{s, 0, 0, {}, {}};
          for (const Row& row : rows.subspan(first, std::min<std::size_t>(K::most_rows, rows.size() - first))) {
            args.pieces[args.count] = {args.tiles, args.count, 0};
            args.rows[args.count++] = row;
            args.tiles += static_cast<u32>((row.numel + tile_size - 1) / tile_size);
          }
          if (args.tiles > 0)
            launcher.template launch<K>(grid_for<K>((args.tiles + 7) / 8, launcher.processors()), args);
        }
      },
      scorer);
}

}  // namespace bittersweet::cuda
