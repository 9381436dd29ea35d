// Packed matrices: what is stored of each strip, where its values begin, and values moved in and out. A block takes a
// strip, a warp a tile of it, a lane a column: 16 loads are on their way at a time, and a ballot is a mask word.
#pragma once

#include <type_traits>

#include "bittersweet/engine/sparse.hpp"
#include "strips_plan.hpp"

namespace bittersweet::cuda {

inline constexpr u32 strip_rows = strips::height, strip_columns = strips::width;

template <class T>
struct ScanShared {
  T warp[32];
};

template <class T>
struct Prefix {
  T before;  // sum over the threads before this one
  T total;   // over all
};

// Called by a whole block, which meets in it once. Before the next call it has to meet again.
template <class T>
BITTERSWEET_DEVICE Prefix<T> block_prefix(T mine, ScanShared<T>& shared) {
  T upto = mine;
  for (u32 step = 1; step < 32; step *= 2) {
    const T other = __shfl_up_sync(everyone, upto, step);
    if (lane_id() >= step) upto += other;
  }
  if (lane_id() == 31) shared.warp[warp_id()] = upto;
  __syncthreads();
  Prefix<T> found{upto - mine, 0};
  for (u32 w = 0; w < blockDim.x >> 5; ++w) {
    if (w < warp_id()) found.before += shared.warp[w];
    found.total += shared.warp[w];
  }
  return found;
}

// A mask word, and where its first value stands among those of the words that are looked at together.
struct StripWord {
  u32 mask, start;
};

BITTERSWEET_DEVICE u32 live_below(u32 mask, u32 column) {
  return static_cast<u32>(__popc(mask & ((1u << column) - 1)));
}

// ---- masks, counts ----

template <class Element>
struct CountStrips {
  static constexpr u32 threads = 256, blocks = 4;
  struct Args {
    const Element* dense;
    const std::uint64_t* keep;  // or null
    u32* masks;
    std::uint64_t* offsets;  // offsets[s + 1] becomes the count of strip s
    std::int64_t* lost;
    std::int64_t rows, columns, tiles;
  };
  struct Shared {
    u64 warp[threads / 32];
  };

  static BITTERSWEET_DEVICE void body(const Args& args, Shared& shared) {
    const u32 lane = lane_id();
    const std::int64_t strip = blockIdx.x, left = args.rows - strip * strip_rows;
    u64 live = 0, lost = 0;
    for (std::int64_t tile = warp_id(); tile < args.tiles; tile += threads / 32) {
      const std::int64_t column = tile * strip_columns + lane, rows = column < args.columns ? left : 0;
      const std::int64_t top = strip * strip_rows * args.columns + column;
      const auto bits_where = [&](const auto& is_set) {  // of the lane's column, a bit a row
        u32 bits = 0;
        std::int64_t index = top;
#pragma unroll
        for (u32 i = 0; i < strip_rows; ++i, index += args.columns) bits |= i < rows && is_set(index) ? 1u << i : 0u;
        return bits;
      };
      u32 kept = bits_where([&](std::int64_t index) { return args.dense[index] != 0; });
      if (args.keep != nullptr) {
        __syncwarp();  // or the compiler has both reads on their way at once
        const u32 wanted =
            bits_where([&](std::int64_t index) { return (words32(args.keep)[index / 32] >> (index % 32) & 1u) != 0; });
        lost += static_cast<u32>(__popc(kept & ~wanted));
        kept = wanted;
      }
      live += static_cast<u32>(__popc(kept));
      u32 mine = 0;
#pragma unroll
      for (u32 i = 0; i < strip_rows; ++i) {
        const u32 word = __ballot_sync(everyone, (kept >> i & 1u) != 0);
        if (lane == i) mine = word;
      }
      if (lane < strip_rows) args.masks[(strip * args.tiles + tile) * strip_rows + lane] = mine;
    }
    live = warp_sum(live);
    if (lane == 0) shared.warp[warp_id()] = live;
    if (args.keep != nullptr) add_warp(args.lost, lost);
    __syncthreads();
    if (threadIdx.x != 0) return;
    live = 0;
    for (u32 w = 0; w < threads / 32; ++w) live += shared.warp[w];
    args.offsets[strip + 1] = live;
  }
};

// Counts to places, by one block: counts are as few as weights / (16 x columns).
struct SumStrips {
  static constexpr u32 threads = 512, blocks = 1;
  struct Args {
    std::uint64_t* offsets;
    std::int64_t count;
  };
  struct Shared {
    ScanShared<u64> scan;
  };
  static BITTERSWEET_DEVICE void body(const Args& args, Shared& shared) {
    u64 before = 0;
    if (threadIdx.x == 0) args.offsets[0] = 0;
    for (std::int64_t begin = 0; begin < args.count; begin += threads) {
      const std::int64_t strip = begin + threadIdx.x;
      const u64 mine = strip < args.count ? args.offsets[strip + 1] : 0;
      const Prefix<u64> prefix = block_prefix(mine, shared.scan);
      if (strip < args.count) args.offsets[strip + 1] = before + prefix.before + mine;
      before += prefix.total;
      __syncthreads();
    }
  }
};

// ---- values ----

enum class Move { pack, unpack };

template <class Element, Move M>
struct MoveStrips {
  static constexpr u32 threads = 256, blocks = M == Move::pack ? 3 : 4;
  struct Args {
    const u32* masks;
    const std::uint64_t* offsets;
    Element* values;
    Element* dense;  // its first row is that of strip `first`
    std::int64_t rows, columns, tiles, first;
  };
  struct Shared {
    StripWord words[threads];
    ScanShared<u32> scan;
  };

  static BITTERSWEET_DEVICE void body(const Args& args, Shared& shared) {
    const std::int64_t strip = args.first + blockIdx.x, words = args.tiles * strip_rows;
    std::uint64_t at = args.offsets[strip];
    for (std::int64_t begin = 0; begin < words; begin += threads) {
      const std::int64_t word = begin + threadIdx.x;
      const u32 mask = word < words ? __ldcs(args.masks + strip * words + word) : 0;
      const Prefix<u32> prefix = block_prefix(static_cast<u32>(__popc(mask)), shared.scan);
      shared.words[threadIdx.x] = {mask, prefix.before};
      __syncthreads();
      for (u32 t = warp_id(); t < threads / strip_rows; t += threads / 32) {
        const std::int64_t tile = begin / strip_rows + t;
        if (tile < args.tiles) move(args, shared.words + t * strip_rows, tile, args.values + at);
      }
      at += prefix.total;
      __syncthreads();
    }
  }

  static BITTERSWEET_DEVICE void move(const Args& args, const StripWord* words, std::int64_t tile, Element* values) {
    const u32 lane = lane_id();
    const std::int64_t column = tile * strip_columns + lane, row = std::int64_t{blockIdx.x} * strip_rows;
    const std::int64_t rows = args.rows - args.first * strip_rows;  // from the first strip on
    Element* const dense = args.dense + row * args.columns + column;
    Element bits[strip_rows];
#pragma unroll
    for (u32 i = 0; i < strip_rows; ++i) {
      const StripWord word = words[i];
      bits[i] = 0;
      if ((word.mask >> lane & 1u) != 0)
        bits[i] = M == Move::pack ? dense[i * args.columns] : values[word.start + live_below(word.mask, lane)];
    }
#pragma unroll
    for (u32 i = 0; i < strip_rows; ++i) {
      const StripWord word = words[i];
      if constexpr (M == Move::pack) {
        if ((word.mask >> lane & 1u) != 0) values[word.start + live_below(word.mask, lane)] = bits[i];
      } else {
        if (row + i < rows && column < args.columns) dense[i * args.columns] = bits[i];
      }
    }
  }
};

// ---- enqueued ----

template <class L>
void count_strips(L& launcher, const StripsPlan& plan) {
  if (plan.lost != nullptr) zero(launcher, plan.lost, sizeof *plan.lost);
  by_size(plan.dtype, [&](auto element) {
    using K = CountStrips<decltype(element)>;
    const typename K::Args args{static_cast<const decltype(element)*>(plan.dense),
                                plan.keep,
                                plan.masks,
                                plan.offsets,
                                plan.lost,
                                plan.rows,
                                plan.columns,
                                plan.tiles()};
    if (plan.count > 0) launcher.template launch<K>(static_cast<u32>(plan.count), args);
  });
  launcher.template launch<SumStrips>(1, {plan.offsets, plan.count});
}

template <Move M, class L>
void move_strips(L& launcher, const StripsPlan& plan) {
  if (plan.count == 0 || plan.columns == 0) return;
  by_size(plan.dtype, [&](auto element) {
    using K = MoveStrips<decltype(element), M>;
    using Element = decltype(element);
    const typename K::Args args{plan.masks,
                                plan.offsets,
                                static_cast<Element*>(plan.values),
                                static_cast<Element*>(plan.dense),
                                plan.rows,
                                plan.columns,
                                plan.tiles(),
                                plan.first};
    launcher.template launch<K>(static_cast<u32>(plan.count), args);
  });
}

}  // namespace bittersweet::cuda
