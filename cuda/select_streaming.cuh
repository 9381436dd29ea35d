// streaming: the moments in the order of additions that Moments states, then reads that count at several thresholds
// each. A read derives its thresholds from the counts of the one before it, and is idle once the answer is there.
#pragma once

#include "scores.cuh"
#include "search.cuh"

namespace bittersweet::cuda {

// Half a warp takes a block of 4,096 elements, a lane each: element i to lane i mod 16.
template <class S>
struct MomentBlocks {
  static constexpr u32 threads = 256, blocks = 3;
  struct Args {
    SearchContext search;
    Work work;  // in blocks of Moments
    S scorer;
  };
  struct Shared {};
  static_assert(Moments::lanes == 16 && Moments::block % (16 * scores_at_once<S>) == 0);

  static BITTERSWEET_DEVICE void body(const Args& args, Shared&) {
    const SearchContext& s = args.search;
    if (wanted_rank(s.step) <= 0) return;
    const u32 lane = lane_id() % 16;
    u64 finite = 0, nan = 0, total = 0;
    u32 piece = 0;
    for (u64 pair = first_warp(); pair * 2 < args.work.tiles; pair += warps()) {
      const u64 block = pair * 2 + lane_id() / 16;
      double sum = 0, squares = 0;
      if (block < args.work.tiles) {
        while (piece + 1 < args.work.count && block >= args.work.pieces[piece + 1].first) ++piece;
        const Piece& p = args.work.pieces[piece];
        const Row& row = args.work.rows[p.row];
        const std::int64_t begin = static_cast<std::int64_t>(block - p.first) * Moments::block + lane;
        for (std::int64_t first = begin; first < begin + Moments::block; first += 16 * scores_at_once<S>) {
          bool there[scores_at_once<S>];
          float score[scores_at_once<S>];
#pragma unroll
          for (u32 i = 0; i < scores_at_once<S>; ++i) {
            const std::int64_t index = first + i * 16;
            there[i] =
                index < row.numel && (row.live == nullptr || (words32(row.live)[index / 32] >> (index % 32) & 1u) != 0);
          }
          load_scores(args.scorer, row, first, 16, there, score);
#pragma unroll
          for (u32 i = 0; i < scores_at_once<S>; ++i) {
            if (!there[i]) continue;
            ++total;
            note_nan(*s.search, score[i] != score[i], row.offset + first + i * 16);
            nan += score[i] != score[i];
            if (!(score[i] > minus_infinity && score[i] < plus_infinity)) continue;
            ++finite;
            const double x = score[i];
            sum += x;
            squares += x * x;
          }
        }
      }
      for (int width = 8; width > 0; width /= 2) {
        sum += __shfl_xor_sync(everyone, sum, width);
        squares += __shfl_xor_sync(everyone, squares, width);
      }
      if (lane == 0 && block < args.work.tiles) s.block_sums[block] = {sum, squares};
    }
    add_warp(&s.search->moments.finite, finite);
    add_warp(&s.search->moments.nan, nan);
    add_warp(&s.search->moments.total, total);
  }
};

// Block j of the tensors that have elements to lane j mod 256, the lanes pairwise.
struct FoldMoments {
  static constexpr u32 threads = Moments::block_lanes, blocks = 1;
  struct Args {
    SearchContext search;
    Work work;  // in blocks of Moments
  };
  struct Shared {
    double sum[threads], squares[threads];
  };

  static BITTERSWEET_DEVICE void body(const Args& args, Shared& shared) {
    const SearchContext& s = args.search;
    const std::int64_t rank = wanted_rank(s.step);
    double sum = 0, squares = 0;
    u32 before = 0;  // blocks of tensors before
    for (u32 p = 0; rank > 0 && p < args.work.count; ++p) {
      const Piece& piece = args.work.pieces[p];
      if (args.work.rows[piece.row].numel == 0) continue;  // it has left the selection
      const u32 end = p + 1 < args.work.count ? args.work.pieces[p + 1].first : args.work.tiles;
      for (u32 block = piece.first + (threadIdx.x - before) % threads; block < end; block += threads) {
        sum += s.block_sums[block].sum;
        squares += s.block_sums[block].squares;
      }
      before += end - piece.first;
    }
    shared.sum[threadIdx.x] = sum;
    shared.squares[threadIdx.x] = squares;
    __syncthreads();
    for (u32 width = threads / 2; width > 0; width /= 2) {
      if (threadIdx.x < width) {
        shared.sum[threadIdx.x] += shared.sum[threadIdx.x + width];
        shared.squares[threadIdx.x] += shared.squares[threadIdx.x + width];
      }
      __syncthreads();
    }
    if (threadIdx.x != 0) return;
    Search& search = *s.search;
    search.moments.sum = shared.sum[0];
    search.moments.sum_of_squares = shared.squares[0];
    search.stream[0] = start_streaming(search.moments, rank);
  }
};

// The state before read `read`, from 1.
BITTERSWEET_DEVICE StreamingState stream_before(const SearchContext& s, int read) {
  const StreamingState& last = s.search->stream[read > 1 ? read - 2 : 0];
  if (read == 1 || last.done != 0) return last;
  const CountsAt* const counts = s.search->counts[read - 2];
  return next_streaming(last, [&](int i) { return counts[i]; }, s.tolerance);
}

template <class S>
struct CountCuts {
  static constexpr u32 threads = 256, blocks = 3;
  struct Args {
    SearchContext search;
    Work work;
    S scorer;
    int read;  // from 1
  };
  struct Shared {
    Cuts cuts;
    u32 done;
    u64 below[Cuts::most], equal[Cuts::most];
  };

  static BITTERSWEET_DEVICE void body(const Args& args, Shared& shared) {
    const SearchContext& s = args.search;
    if (threadIdx.x == 0) {
      const StreamingState state = stream_before(s, args.read);
      if (blockIdx.x == 0 && args.read > 1) s.search->stream[args.read - 1] = state;
      shared.cuts = state.cuts;
      shared.done = state.done;
    }
    if (threadIdx.x < Cuts::most) shared.below[threadIdx.x] = shared.equal[threadIdx.x] = 0;
    __syncthreads();
    if (shared.done != 0) return;
    float cut[Cuts::most];
    u32 below[Cuts::most], equal[Cuts::most];
#pragma unroll
    for (int i = 0; i < Cuts::most; ++i) {
      cut[i] = score_of(i < shared.cuts.count ? shared.cuts.key[i] : key_of_nan);  // nothing is below or at a NaN
      below[i] = equal[i] = 0;
    }
    for_each_tile(args.work, [&](const Row& row, u32, u32 tile) {
      for_each_score(args.scorer, row, tile, [&](std::int64_t, bool there, float score) {
        if (!there) return;
        bool any = false;
#pragma unroll
        for (int i = 0; i < Cuts::most; ++i) {
          below[i] += score < cut[i];
          any |= score == cut[i];
        }
        if (!any) return;
#pragma unroll
        for (int i = 0; i < Cuts::most; ++i) equal[i] += score == cut[i];
      });
    });
#pragma unroll
    for (int i = 0; i < Cuts::most; ++i) {
      const u64 all_below = warp_sum(below[i]), all_equal = warp_sum(equal[i]);
      if (lane_id() != 0) continue;
      atomicAdd(&shared.below[i], all_below);
      atomicAdd(&shared.equal[i], all_equal);
    }
    __syncthreads();
    if (threadIdx.x >= Cuts::most) return;
    CountsAt& to = s.search->counts[args.read - 1][threadIdx.x];
    add(&to.below, static_cast<std::int64_t>(shared.below[threadIdx.x]));
    add(&to.equal, static_cast<std::int64_t>(shared.equal[threadIdx.x]));
  }
};

template <class L>
void stream(L& launcher, const Scorer& scorer, const SearchContext& search, const Work& work, const Work& blocks) {
  std::visit(
      [&](const auto& s) {
        using M = MomentBlocks<std::decay_t<decltype(s)>>;
        using C = CountCuts<std::decay_t<decltype(s)>>;
        launcher.template launch<M>(grid_for<M>((blocks.tiles + 15) / 16, launcher.processors()), {search, blocks, s});
        launcher.template launch<FoldMoments>(1, {search, blocks});
        for (int read = 1; read < KeySearch::most_reads; ++read)
          launcher.template launch<C>(grid_for<C>((work.tiles + 7) / 8, launcher.processors()),
                                      {search, work, s, read});
      },
      scorer);
}

}  // namespace bittersweet::cuda
