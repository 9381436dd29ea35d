// multiply_strips: y = x * transposed matrix + bias with the packed weights. A block takes a strip, a thread one of the
// 256 sums that its rows have, by the contract of engine/sparse.hpp: so the bits are those of the CPU, and a row is
// never shared out. The strip's masks and values are two streams. While a block multiplies some tiles, the next ones'
// values are on their way into its registers, 16 bytes a load, and the masks of those after them.
#pragma once

#include "strips.cuh"

namespace bittersweet::cuda {

struct ProductArgs {
  const u32* masks;
  const std::uint64_t* offsets;
  const uint4* values;
  TensorView x, y, bias;  // x and y: the first of their columns of the batch
  std::int64_t rows, columns, tiles;
  u32 batch;
};

template <DType W, int Batch>
struct MultiplyStrips {
  static constexpr u32 threads = 256, blocks = 3;
  static_assert(threads == strip_rows * strips::lanes);
  using Args = ProductArgs;
  using Element = std::conditional_t<W == DType::f32, u32, u16>;

  static constexpr u32 shares = Batch <= 2 ? 1 : Batch <= 4 ? 2 : blackwell ? Batch : 4;
  static constexpr u32 tiles = (W == DType::f32 ? 16 : 32) / shares;  // at once
  static constexpr u32 words = tiles * strip_rows, columns = tiles * strip_columns;
  static constexpr u32 size = sizeof(Element), piece = 16 / size;   // of a load
  static constexpr u32 pieces = words * strip_columns / piece + 1;  // of the fullest tiles
  static constexpr u32 words_each = (words + threads - 1) / threads, x_each = columns * Batch / threads;
  static constexpr u32 pieces_each = (pieces + threads - 1) / threads;

  struct Shared {
    alignas(16) Element values[pieces * piece];
    alignas(16) float x[Batch][columns];
    StripWord words[words_each * threads];  // whose starts are bytes of `values`
    ScanShared<u32> scan;
  };
  // What a thread holds of the tiles that come next.
  struct Next {
    uint4 values[pieces_each];
    float x[x_each];
    u32 masks[words_each];
    u32 starts[words_each];
  };

  // Pairs of columns whose products one sum adds, one after the other, lie side by side.
  static BITTERSWEET_DEVICE u32 place_of(u32 column) {
    if constexpr (W == DType::bf16) return column;
    return (column & ~31u) | (column & 15u) << 1 | (column >> 4 & 1u);
  }
  static BITTERSWEET_DEVICE float value_of(Element bits) {
    if constexpr (W == DType::f32)
      return std::bit_cast<float>(bits);
    else
      return decode16<W>(bits);
  }

  static BITTERSWEET_DEVICE void load_masks(const Args& args, std::int64_t tile, u32 (&masks)[words_each]) {
#pragma unroll
    for (u32 k = 0; k < words_each; ++k) {
      const u32 word = threadIdx.x * words_each + k;
      const bool there = word < words && tile + word / strip_rows < args.tiles;
      masks[k] = there ? __ldcs(args.masks + (blockIdx.x * args.tiles + tile) * strip_rows + word) : 0;
    }
  }
  static BITTERSWEET_DEVICE u32 live(const u32 (&masks)[words_each]) {
    u32 sum = 0;
#pragma unroll
    for (u32 k = 0; k < words_each; ++k) sum += static_cast<u32>(__popc(masks[k]));
    return sum;
  }

  // The tiles from `tile` on, whose `count` values begin at `first`; `before` of them are of threads before this one.
  static BITTERSWEET_DEVICE void load(const Args& args, std::int64_t tile, std::uint64_t first, Prefix<u32> found,
                                      Next& next) {
    const u32 skew = static_cast<u32>(first % piece), count = found.total;
    const uint4* const from = args.values + first / piece;
    const u32 needed = count == 0 ? 0 : (skew + count + piece - 1) / piece;
#pragma unroll
    for (u32 k = 0; k < pieces_each; ++k) {
      const u32 i = k * threads + threadIdx.x;
      if (i < needed) next.values[k] = __ldcs(from + i);
    }
#pragma unroll
    for (u32 k = 0; k < x_each; ++k) {
      const u32 i = k * threads + threadIdx.x, b = i / columns;
      const std::int64_t column = tile * strip_columns + i % columns;
      const bool there = column < args.columns && b < args.batch;
      next.x[k] = there ? load_as_float(args.x.data, args.x.dtype, b * args.columns + column) : 0.0f;
    }
    u32 start = skew + found.before;
#pragma unroll
    for (u32 k = 0; k < words_each; ++k) {
      next.starts[k] = start * size;
      start += static_cast<u32>(__popc(next.masks[k]));
    }
  }

  static BITTERSWEET_DEVICE void put(const Next& next, Shared& shared) {
#pragma unroll
    for (u32 k = 0; k < pieces_each; ++k) {
      const u32 i = k * threads + threadIdx.x;
      if (i < pieces) reinterpret_cast<uint4*>(shared.values)[i] = next.values[k];
    }
#pragma unroll
    for (u32 k = 0; k < x_each; ++k) {
      const u32 i = k * threads + threadIdx.x;
      shared.x[i / columns][place_of(i % columns)] = next.x[k];
    }
#pragma unroll
    for (u32 k = 0; k < words_each; ++k) shared.words[threadIdx.x * words_each + k] = {next.masks[k], next.starts[k]};
  }

  // `Together` tiles from t on: what they load does not wait for what is multiplied.
  template <int Together>
  static BITTERSWEET_DEVICE void multiply(const Shared& shared, u32 t, float (&sum)[Batch]) {
    const u32 row = threadIdx.x / strips::lanes, lane = threadIdx.x % strips::lanes;
    const u32 first = W == DType::bf16 ? 2 * lane : lane, second = W == DType::bf16 ? first + 1 : first + 16;
    const char* const values = reinterpret_cast<const char*>(shared.values);
    u32 masks[Together];
    Element found[Together][2];
#pragma unroll
    for (int i = 0; i < Together; ++i) {
      const StripWord word = shared.words[(t + i) * strip_rows + row];
      masks[i] = word.mask;
      const u32 at = word.start + live_below(word.mask, first) * size;  // another one's, where the bit is 0
      const u32 after =
          W == DType::bf16 ? at + (word.mask >> first & 1u) * size : word.start + live_below(word.mask, second) * size;
      found[i][0] = *reinterpret_cast<const Element*>(values + at);
      found[i][1] = *reinterpret_cast<const Element*>(values + after);
    }
#pragma unroll
    for (int i = 0; i < Together; ++i) {
      const float w0 = (masks[i] >> first & 1u) != 0 ? value_of(found[i][0]) : 0.0f;
      const float w1 = (masks[i] >> second & 1u) != 0 ? value_of(found[i][1]) : 0.0f;
#pragma unroll
      for (int b = 0; b < Batch; ++b) {
        if (blackwell && b == 8) __syncwarp();  // or the compiler loads all of x first
        const uint2 x = reinterpret_cast<const uint2*>(shared.x[b])[(t + i) * strips::lanes + lane];
        sum[b] = __fmaf_rn(w0, std::bit_cast<float>(x.x), sum[b]);
        sum[b] = __fmaf_rn(w1, std::bit_cast<float>(x.y), sum[b]);
      }
    }
  }

  static BITTERSWEET_DEVICE void body(const Args& args, Shared& shared) {
    Next next{};
    float sum[Batch]{};
    std::uint64_t first = args.offsets[blockIdx.x];
    load_masks(args, 0, next.masks);
    Prefix<u32> found = block_prefix(live(next.masks), shared.scan);
    load(args, 0, first, found, next);
    for (std::int64_t tile = 0; tile < args.tiles; tile += tiles) {
      u32 masks[words_each];
      load_masks(args, tile + tiles, masks);
      __syncthreads();  // the tiles before these are multiplied
      put(next, shared);
      first += found.total;
      found = block_prefix(live(masks), shared.scan);
#pragma unroll
      for (u32 k = 0; k < words_each; ++k) next.masks[k] = masks[k];
      if (tile + tiles < args.tiles) load(args, tile + tiles, first, found, next);
      const u32 count = args.tiles - tile < tiles ? static_cast<u32>(args.tiles - tile) : tiles;
      constexpr int together = Batch < 8 ? 4 : blackwell ? 1 : 2;
      u32 t = 0;
      for (; t + together <= count; t += together) multiply<together>(shared, t, sum);
      for (; t < count; ++t) multiply<1>(shared, t, sum);
    }
    store(args, sum);
  }

  static BITTERSWEET_DEVICE void store(const Args& args, float (&sum)[Batch]) {
    const std::int64_t row = std::int64_t{blockIdx.x} * strip_rows + threadIdx.x / strips::lanes;
#pragma unroll
    for (int b = 0; b < Batch; ++b) {
      float y = sum[b];
#pragma unroll
      for (int step = strips::lanes / 2; step > 0; step /= 2) y += __shfl_xor_sync(everyone, y, step);
      if (threadIdx.x % strips::lanes != 0 || row >= args.rows || b >= static_cast<int>(args.batch)) continue;
      if (args.bias.data != nullptr) y += load_as_float(args.bias.data, args.bias.dtype, row);
      if (y != y) y = std::bit_cast<float>(0x7fc00000u);
      store_from_float(args.y.data, args.y.dtype, b * args.rows + row, y);
    }
  }
};

template <DType W, class L>
void multiply_strips(L& launcher, u32 strips, const ProductArgs& args) {
  by_batch(args.batch,
           [&](auto batch) { launcher.template launch<MultiplyStrips<W, decltype(batch)::value>>(strips, args); });
}

template <class L>
void multiply_strips(L& launcher, const PackedMatrix& packed, const StripProduct& product) {
  if (packed.rows == 0) return;
  by_columns(product, packed.rows, packed.columns, [&](const StripProduct& part) {
    const ProductArgs args{packed.masks,
                           packed.offsets,
                           static_cast<const uint4*>(packed.values.data),
                           part.x,
                           part.y,
                           part.bias,
                           packed.rows,
                           packed.columns,
                           packed.tiles(),
                           static_cast<u32>(part.batch)};
    const auto strips = static_cast<u32>(packed.strips());
    switch (packed.values.dtype) {
      case DType::f32: multiply_strips<DType::f32>(launcher, strips, args); break;
      case DType::bf16: multiply_strips<DType::bf16>(launcher, strips, args); break;
      case DType::f16: multiply_strips<DType::f16>(launcher, strips, args); break;
      case DType::none: break;
    }
  });
}

}  // namespace bittersweet::cuda
