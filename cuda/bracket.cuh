// bracket, the hot pass: one read of the inputs against [low, high]. A warp takes a tile; two comparisons an element
// make two words of bits a lane, "surely below" and "undecided". The first is counted and, transposed, becomes the
// tile's mask words; the positions of the second wait in the warp's own queue until 32 are there, and are then loaded
// again (they are still cached), scored exactly and classified. No barrier of a block in the loop.
#pragma once

#include <algorithm>
#include <bit>
#include <limits>

#include "bracket_any.cuh"
#include "halves.cuh"

namespace bittersweet::cuda {

// by_score: the exact score. by_rough: S::rough(), away from the ends. by_pairs: magnitudes of 16 bits, two at a time.
enum class Decide { by_score, by_rough, by_pairs };

// What is surely below and above. `inclined` is 1 where low is the smallest positive number: |w| is then added to what
// is compared with it, so that a rough score that only underflowed to zero is not taken for one.
struct Bounds {
  float below, above, inclined;
  u32 pair_below, pair_above;
};

inline constexpr float rough_margin = 0x1p-20f;
inline constexpr float rough_least = 0x1p-100f, rough_most = 0x1p100f;

template <Decide D, DType W>
BITTERSWEET_DEVICE Bounds bounds_of(float low, float high, bool zero_end) {
  Bounds bounds{low, high, 0.0f, 0, 0};
  if constexpr (D == Decide::by_rough) {
    bounds.inclined = zero_end ? 1.0f : 0.0f;
    if (!zero_end) bounds.below = low >= rough_least && low <= rough_most ? low * (1 - rough_margin) : minus_infinity;
    bounds.above = high >= rough_least && high <= rough_most ? high * (1 + rough_margin) : plus_infinity;
  } else if constexpr (D == Decide::by_pairs) {
    bounds.pair_below = both_halves(half_at_or_above<W>(low));
    bounds.pair_above = both_halves(half_at_or_below<W>(high));
  }
  return bounds;
}

template <class S>
BITTERSWEET_DEVICE float rough_score(const S& scorer, const Elements<float>& x) {
#if defined(__CUDACC__)
  return scorer.rough(x);
#else
  return scorer.rough(Elements<simt::Rough>{{x.w}, {x.m}, {x.v}, {x.g}, {x.norm}, {x.score}, {x.uniform}, 0}).value;
#endif
}

template <class S, DType W, DType X, Decide D>
struct BracketTiles {
  using In = Slots<S>;
  static constexpr u32 threads = 256, blocks = 3;
  // The first array is stored as W, the others as X. `width` neighbours a lane and load.
  static constexpr int width = W != DType::f32 && (In::count == 1 || X != DType::f32) ? 8 : 4;
  static constexpr int segments = 32 / width;
  static constexpr std::size_t segment_bytes = width * (size_of(W) + (In::count - 1) * size_of(X));
  // Bytes that a lane has in flight before it looks at the first; half of them where memory is narrow, or where
  // divisions, which are calls, take the registers: by the bias, and from 10.0 on in formulas of three arrays.
  static constexpr bool spare = narrow_memory || In::has(reads::step) || (blackwell && In::count == 3);
  static constexpr std::size_t in_flight = spare ? 64 : 128;
  static constexpr int at_once =
      static_cast<int>(std::bit_floor(std::min<std::size_t>(segments, in_flight / segment_bytes)));
  static constexpr u32 queue_size = 64, most_ahead = 1u << 22;

  struct Args {
    Context context;
    Work work;
    S scorer;
    u32 attempt;
  };
  struct Shared {
    u32 queue[threads / 32][queue_size];
  };

  struct Loaded {
    Vector<W, width> first;
    Vector<X, width> rest[In::count > 1 ? In::count - 1 : 1];

    BITTERSWEET_DEVICE void load(const void* const* in, std::int64_t index) {
      first.load(in[0], index);
#pragma unroll
      for (int slot = 1; slot < In::count; ++slot) rest[slot - 1].load(in[slot], index);
    }
    BITTERSWEET_DEVICE Elements<float> elements(int i, float bias_correction1) const {
      return gather<S>([&](int slot) { return slot == 0 ? first[i] : rest[slot > 0 ? slot - 1 : 0][i]; },
                       bias_correction1);
    }
  };

  static BITTERSWEET_DEVICE float exact(const S& scorer, const Row& row, std::int64_t index) {
    const auto value = [&](int slot) { return load_as_float(row.in[slot], slot == 0 ? W : X, index); };
    return scorer(gather<S>(value, row.bias_correction1)) * row.modifier;
  }

  // Bits of the lane's elements that are surely below and surely above.
  static BITTERSWEET_DEVICE void decide(const S& scorer, const Row& row, std::int64_t index, const Bounds& bounds,
                                        u32& below, u32& above) {
    below = above = 0;
    u32 pairs_below[2] = {}, pairs_above[2] = {};
#pragma unroll
    for (int begin = 0; begin < segments; begin += at_once) {
      if (begin > 0) __syncwarp();  // or the compiler loads more at once
      Loaded loaded[at_once];
#pragma unroll
      for (int s = 0; s < at_once; ++s) loaded[s].load(row.in, index + (begin + s) * 32 * width);
#pragma unroll
      for (int s = 0; s < at_once; ++s) {
        if constexpr (D == Decide::by_pairs) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {  // an even element's bit in the lower half, its odd neighbour's in the upper
            const u32 pair = loaded[s].first.pair(i) & 0x7fff7fffu;
            const int number = (begin + s) * 4 + i;
            const u32 bit = 0x00010001u << (number % 8 * 2);
            pairs_below[number / 8] |= less_halves<W>(pair, bounds.pair_below) & bit;
            pairs_above[number / 8] |= less_halves<W>(bounds.pair_above, pair) & bit;
          }
        } else {
#pragma unroll
          for (int i = 0; i < width; ++i) {
            const Elements<float> x = loaded[s].elements(i, row.bias_correction1);
            const u32 bit = 1u << ((begin + s) * width + i);
            if constexpr (D == Decide::by_rough) {
              const float score = rough_score(scorer, x) * row.modifier;
              if (__fmaf_rn(abs(x.w), bounds.inclined, score) < bounds.below) below |= bit;
              if (score > bounds.above) above |= bit;
            } else {
              const float score = scorer(x) * row.modifier;
              if (score < bounds.below) below |= bit;
              if (score > bounds.above) above |= bit;
            }
          }
        }
      }
    }
    if constexpr (D == Decide::by_pairs) {
      const auto join = [](u32 a, u32 b) { return ((a | a >> 15) & 0xffffu) | (b | b >> 15) << 16; };
      below = join(pairs_below[0], pairs_below[1]);
      above = join(pairs_above[0], pairs_above[1]);
    }
  }

  static BITTERSWEET_DEVICE void body(const Args& args, Shared& shared) {
    const Context& c = args.context;
    if (no_bracket(c, args.attempt)) return;
    Reading at;
    Bounds bounds{};
    const u32 lane = lane_id();
    u32* const queue = shared.queue[warp_id()];
    u32 queued = 0, base = 0, piece = ~0u, row_tile = 0;
    Row row{};
    Tally tally;
    u64 piece_end = 0;
    for (u64 t = first_warp(); t < args.work.tiles; t += warps()) {
      if (t >= piece_end || piece == ~0u) {
        do ++piece;
        while (piece + 1 < args.work.count && t >= args.work.pieces[piece + 1].first);
        piece_end = piece + 1 < args.work.count ? args.work.pieces[piece + 1].first : args.work.tiles;
        row = args.work.rows[args.work.pieces[piece].row];
        row_tile = args.work.pieces[piece].from - args.work.pieces[piece].first;
        if (at.turn(c, row, args.attempt, tally)) bounds = bounds_of<D, W>(at.low, at.high, at.zero_end);
      }
      if (!at.runs()) continue;
      const u32 tile = row_tile + static_cast<u32>(t);
      const std::int64_t begin = std::int64_t{tile} * tile_size;
      if (queued == 0) base = tile;
      u32 live = ~0u;
      if (row.live != nullptr) live = words32(row.live)[begin / 32 + word_of_lane<width>(lane)];
      u32 below, above;
      decide(args.scorer, row, begin + lane * width, bounds, below, above);
      if (row.live != nullptr) live = transpose<width>(live);
      below &= live;
      u32 undecided = live & ~(below | above);
      tally.below += __popc(below);
      if (c.masks) {
        const u32 zeros = at.zero_end ? warp_sum32(__popc(below)) : 0;
        if (lane == 0) c.tile_ties[row.tile + tile] = zeros;
        words32(row.next)[begin / 32 + word_of_lane<width>(lane)] = transpose<width>(live & ~below);
      }
      const bool stay = t + warps() < piece_end && tile - base + warps() < most_ahead;
      u32 any = __ballot_sync(everyone, undecided != 0);
      while (any != 0 || (!stay && queued > 0)) {
        if (undecided != 0) {
          const u32 bit = __ffs(undecided) - 1;
          undecided &= undecided - 1;
          queue[queued + __popc(any & lanes_below())] = (tile - base) * tile_size + element_of_bit<width>(lane, bit);
        }
        queued += __popc(any);
        any = __ballot_sync(everyone, undecided != 0);
        __syncwarp();
        if (queued < 32 && (stay || any != 0)) continue;
        const u32 take = queued < 32 ? queued : 32;
        queued -= take;
        const bool there = lane < take;
        const u32 entry = there ? queue[queued + lane] : 0;
        const bool one_tile = queue[queued] / tile_size == queue[queued + take - 1] / tile_size;
        const std::int64_t index = std::int64_t{base} * tile_size + entry;
        const float score = there ? exact(args.scorer, row, index) : 0.0f;
        const Verdict verdict = judge(score, at.low, at.high, there);
        tally.count(verdict, row.offset + index);
        if (c.masks) {
          if (verdict.below || verdict.low) atomicAnd(words32(row.next) + index / 32, ~(1u << (index % 32)));
          const bool tie = at.zero_end ? verdict.below : verdict.low;
          const u32 ties = __ballot_sync(everyone, tie), more = __ballot_sync(everyone, verdict.high);
          u32* const to = c.tile_ties + row.tile + index / tile_size;
          if (one_tile) {
            if (lane == 0 && (ties | more) != 0) atomicAdd(to, __popc(ties) | __popc(more) << 16);
          } else if (tie || verdict.high) {
            atomicAdd(to, tie ? 1u : 0x10000u);
          }
        }
        store_candidates(c, at, args.attempt, verdict.inside, score, u64{row.tile} * tile_size + index);
        __syncwarp();
      }
    }
    at.finish(c, args.attempt, tally);
  }
};

// ---- which kernel reads what ----

template <class S, DType W, DType X, Decide D, class L>
void launch_tiles(L& launcher, const S& scorer, const Context& context, const Work& work, u32 attempt) {
  using K = BracketTiles<S, W, X, D>;
  launcher.template launch<K>(grid_for<K>((work.tiles + 7) / 8, launcher.processors()),
                              {context, work, scorer, attempt});
}

template <class S, DType W, DType X, class L>
void launch_storage(L& launcher, const S& scorer, const Context& context, const Work& work, u32 attempt) {
  if constexpr (IsMagnitude<S> && W != DType::f32)
    return launch_tiles<S, W, X, Decide::by_pairs>(launcher, scorer, context, work, attempt);
  if constexpr (HasRough<S>)  // its roots are of normal numbers if eps is one
    if (scorer.eps >= std::numeric_limits<float>::min())
      return launch_tiles<S, W, X, Decide::by_rough>(launcher, scorer, context, work, attempt);
  if constexpr (!IsMagnitude<S> || W == DType::f32)
    launch_tiles<S, W, X, Decide::by_score>(launcher, scorer, context, work, attempt);
}

template <class L>
void bracket(L& launcher, const Scorer& scorer, const Context& context, const Plan& plan, u32 attempt) {
  std::visit(
      [&](const auto& s) {
        using S = std::decay_t<decltype(s)>;
        if constexpr (has_vectors<S>) {
          const auto storage = [&]<DType W, DType X>(Storage which) {
            const Work& work = plan.work[static_cast<int>(which)];
            if (work.tiles > 0) launch_storage<S, W, X>(launcher, s, context, work, attempt);
          };
          storage.template operator()<DType::f32, DType::f32>(Storage::f32);
          storage.template operator()<DType::bf16, DType::bf16>(Storage::bf16);
          storage.template operator()<DType::f16, DType::f16>(Storage::f16);
          if constexpr (Slots<S>::count > 1) {
            storage.template operator()<DType::bf16, DType::f32>(Storage::bf16_f32);
            storage.template operator()<DType::f16, DType::f32>(Storage::f16_f32);
          }
        }
        const Work& rest = plan.work[static_cast<int>(Storage::any)];
        if (rest.tiles == 0) return;
        using K = BracketAny<S>;
        launcher.template launch<K>(grid_for<K>((rest.tiles + 7) / 8, launcher.processors()),
                                    {context, rest, s, attempt});
      },
      scorer);
}

}  // namespace bittersweet::cuda
