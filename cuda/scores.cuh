// A tile's scores for kernels that read them all: a lane has up to eight elements in flight, 32 apart, so that a
// warp's loads are whole lines. Rows stored as f32 are loaded before the first score is computed; others element by
// element.
#pragma once

#include "verbs.cuh"

namespace bittersweet::cuda {

// Does a score take more than its own elements: a norm, or a random number?
template <class S>
inline constexpr bool needs_place = (Slots<S>::reads_of & (reads::input_norm | reads::position)) != 0;

// More would not fit in registers.
template <class S>
inline constexpr u32 scores_at_once = blackwell && needs_place<S>             ? 2
                                      : Slots<S>::count > (blackwell ? 1 : 2) ? 4
                                                                              : 8;

// score[i] of elements first, first + stride, ...; there[i]: does it count? Others are 0.
template <class S>
BITTERSWEET_DEVICE void load_scores(const S& scorer, const Row& row, std::int64_t first, std::int64_t stride,
                                    const bool (&there)[scores_at_once<S>], float (&score)[scores_at_once<S>]) {
  using In = Slots<S>;
  if constexpr (In::count > 0 && !needs_place<S>) {
    bool plain = true;
#pragma unroll
    for (int slot = 0; slot < In::count; ++slot) plain &= row.dtype[slot] == DType::f32;
    if (plain) {
      float x[In::count][scores_at_once<S>];
#pragma unroll
      for (u32 i = 0; i < scores_at_once<S>; ++i)
#pragma unroll
        for (int slot = 0; slot < In::count; ++slot)
          x[slot][i] = there[i] ? __ldcs(static_cast<const float*>(row.in[slot]) + first + i * stride) : 0.0f;
#pragma unroll
      for (u32 i = 0; i < scores_at_once<S>; ++i) {
        const float s = scorer(gather<S>([&](int slot) { return x[slot][i]; }, row.bias_correction1)) * row.modifier;
        score[i] = there[i] ? s : 0.0f;
      }
      return;
    }
  }
#pragma unroll
  for (u32 i = 0; i < scores_at_once<S>; ++i) score[i] = there[i] ? score_any(scorer, row, first + i * stride) : 0.0f;
}

// f(index in the tensor, there, score) for every element of a tile, called by a whole warp, a lane each.
template <class S, class F>
BITTERSWEET_DEVICE void for_each_score(const S& scorer, const Row& row, u32 tile, F&& f) {
  const u32 lane = lane_id(), live = mask_word(row.live, row.numel, std::int64_t{tile} * tile_words + lane);
  for (u32 j = 0; j < tile_words; j += scores_at_once<S>) {
    const std::int64_t first = std::int64_t{tile} * tile_size + j * 32 + lane;
    bool there[scores_at_once<S>];
    float score[scores_at_once<S>];
#pragma unroll
    for (u32 i = 0; i < scores_at_once<S>; ++i) there[i] = (__shfl_sync(everyone, live, j + i) >> lane & 1u) != 0;
    load_scores(scorer, row, first, 32, there, score);
#pragma unroll
    for (u32 i = 0; i < scores_at_once<S>; ++i) f(first + i * 32, there[i], score[i]);
  }
}

}  // namespace bittersweet::cuda
