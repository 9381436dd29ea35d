// Products with many columns of the batch: a strip is decoded a panel at a time, which stays in the first cache while
// all columns meet it. Lanes are columns of the batch, each element of the weight is broadcast. A sum is one chain of
// multiply-adds a panel, and the panels' sums are added: another order than that of the contract.
//
// A panel is `depth` words of each of 16 rows, row after row. A chunk of x is word after word, each of all its columns.
// A word is one element as a float, or two neighbours of bf16.
#pragma once

#include "cpu/strip_kernels.hpp"
#include "cpu/verbs/strip_lanes.hpp"

#if BITTERSWEET_LANES > 4

namespace bittersweet {
namespace {

constexpr std::int64_t depth = 256;        // 16 rows of it are 16 KB
constexpr std::int64_t next_panel = 8192;  // bytes: asked for now, and there when this one has been multiplied
constexpr int most_vectors = 3;            // of a chunk

// Rows whose sums are in registers: 16 to 24 of 32, or 8 to 12 of 16.
constexpr int rows_at_once(int vectors) { return lanes == 16 ? (vectors == 1 ? 16 : 8) : (vectors == 1 ? 8 : 4); }

struct FloatWords {
  using Word = float;
  static constexpr std::int64_t per_tile = strips::width;
  static constexpr std::int64_t least_batch = 13;  // two passes over a strip take as long

  static BITTERSWEET_INLINE IntVector broadcast(Word w) { return IntVector{} + std::bit_cast<std::int32_t>(w); }
  static BITTERSWEET_INLINE Vec multiply_add(IntVector w, Vec x, Vec sum) { return fma(as_floats(w), x, sum); }

  // 32 elements of a tile's row, in the order in which `decode` leaves them.
  template <class T>
  static BITTERSWEET_INLINE void spread(std::uint32_t mask, const T*& from, Word* to, int row) {
    Lanes first, second;
    decode(mask, from, first, second, row);
    store_lanes(to, first);
    store_lanes(to + strips::lanes, second);
  }
  static int column_of(DType type, int word) { return type == DType::bf16 ? word % 16 * 2 + word / 16 : word; }

  // 32 elements of x.
  template <class T>
  static BITTERSWEET_INLINE void widen(const T* from, Word* to) {
    for (int c = 0; c < strips::width; c += lanes) store(to, c, load(from, c));
  }
};

#if defined(__AVX512BF16__)
struct PairWords {
  using Word = std::uint32_t;
  static constexpr std::int64_t per_tile = strips::width / 2;
  static constexpr std::int64_t least_batch = 9;

  static BITTERSWEET_INLINE IntVector broadcast(Word w) { return IntVector{} + static_cast<std::int32_t>(w); }
  static BITTERSWEET_INLINE Vec multiply_add(IntVector w, Vec x, Vec sum) {
    return {_mm512_dpbf16_ps(sum.x, reinterpret_cast<__m512bh>(w), reinterpret_cast<__m512bh>(x.x))};
  }
  static BITTERSWEET_INLINE void spread(std::uint32_t mask, const Bf16*& from, Word* to, int row) {
    _mm512_storeu_si512(to, words_of(mask, from, row));
  }
  static int column_of(DType, int word) { return word; }
  static BITTERSWEET_INLINE void widen(const Bf16* from, Word* to) { std::memcpy(to, from, 64); }
};
#endif

// sums[row][column] += w[row][k] * x[k][column]
template <class W, int Vectors>
BITTERSWEET_INLINE void multiply_panel_by(const typename W::Word* w, const typename W::Word* x, std::int64_t words,
                                          float* sums) {
  constexpr int rows = rows_at_once(Vectors);
  const auto vector_at = [](const void* from, std::int64_t v) {
    return load(static_cast<const float*>(from), v * lanes);
  };
  for (int first = 0; first < strips::height; first += rows, w += rows * depth) {
    Vec total[rows][Vectors] = {};
    for (std::int64_t k = 0; k < words; ++k) {
      Vec columns[Vectors];
#pragma GCC unroll 3
      for (int v = 0; v < Vectors; ++v) columns[v] = vector_at(x, k * Vectors + v);
#pragma GCC unroll 16
      for (int i = 0; i < rows; ++i) {
        IntVector one = W::broadcast(w[i * depth + k]);
        asm("" : "+v"(one));  // stays a load of integers: as floats, Zen 4 takes 1.4 times as long for all of it
#pragma GCC unroll 3
        for (int v = 0; v < Vectors; ++v) total[i][v] = W::multiply_add(one, columns[v], total[i][v]);
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i)
#pragma GCC unroll 3
      for (int v = 0; v < Vectors; ++v, sums += lanes) store(sums, 0, load(sums, 0) + total[i][v]);
  }
}

template <class W>
void multiply_panel(const void* w, const void* x, std::int64_t tiles, std::int64_t width, float* sums) {
  const auto *panel = static_cast<const typename W::Word*>(w), *chunk = static_cast<const typename W::Word*>(x);
  const std::int64_t words = tiles * W::per_tile;
  switch (width / lanes) {
    case 1: return multiply_panel_by<W, 1>(panel, chunk, words, sums);
    case 2: return multiply_panel_by<W, 2>(panel, chunk, words, sums);
    default: return multiply_panel_by<W, 3>(panel, chunk, words, sums);
  }
}

// f of the element's type.
template <class W, class F>
BITTERSWEET_INLINE void by_type(DType type, F&& f) {
  if constexpr (std::is_same_v<W, FloatWords>) {
    if (type == DType::f32) return f.template operator()<float>();
    if (type == DType::f16) return f.template operator()<F16>();
  }
  f.template operator()<Bf16>();
}

// `tiles` tiles of a strip from their masks and the first of their values, which moves behind them.
template <class W>
void decode_panel(const std::uint32_t* masks, DType type, std::int64_t tiles, const void** values, void* out) {
  auto* panel = static_cast<typename W::Word*>(out);
  by_type<W>(type, [&]<class T>() {
    const auto* from = static_cast<const T*>(*values);
    for (std::int64_t tile = 0; tile < tiles; ++tile, masks += strips::height, panel += W::per_tile)
#pragma GCC unroll 16
      for (int i = 0; i < strips::height; ++i) {
        __builtin_prefetch(reinterpret_cast<const char*>(from) + next_panel, 0, 2);
        W::spread(masks[i], from, panel + i * depth, i);
      }
    *values = from;
  });
}

// Rows first, first + 1, ... of x, `count` of them, as a chunk of `width` columns, padded with 0.
template <class W>
void arrange_chunk(const TensorView& x, std::int64_t first, std::int64_t count, std::int64_t columns, DType type,
                   std::int64_t width, void* out) {
  auto* to = static_cast<typename W::Word*>(out);
  typename W::Word words[most_vectors * lanes][W::per_tile]{};
  by_type<W>(x.dtype, [&]<class T>() {
    T edge[strips::width]{};
    for (std::int64_t column = 0; column < columns; column += strips::width) {
      const auto here = static_cast<std::size_t>(std::min(strips::width, columns - column));
      for (std::int64_t n = 0; n < count; ++n) {
        const T* from = static_cast<const T*>(x.data) + (first + n) * columns + column;
        if (here < strips::width) from = static_cast<const T*>(std::memcpy(edge, from, here * sizeof(T)));
        W::widen(from, words[n]);
      }
      for (int word = 0; word < W::per_tile; ++word)
        for (std::int64_t n = 0, at = W::column_of(type, word); n < width; ++n) *to++ = words[n][at];
    }
  });
}

// Sums [16 rows][width] as [column][16 rows].
inline void turn_sums(const float* sums, std::int64_t width, float* out) {
  for (std::int64_t n = 0; n < width; ++n)
    for (std::int64_t i = 0; i < strips::height; ++i) *out++ = sums[i * width + n];
}

template <class W>
constexpr cpu::PanelKernels panel_kernels{W::least_batch,      lanes,
                                          most_vectors* lanes, W::per_tile,
                                          depth / W::per_tile, &arrange_chunk<W>,
                                          &decode_panel<W>,    &multiply_panel<W>,
                                          &turn_sums};

}  // namespace
}  // namespace bittersweet

#endif
