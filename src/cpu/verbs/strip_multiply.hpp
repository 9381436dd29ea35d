// The product of one strip with a few columns: its values are read once, in one stream, and decoded once for all.
#pragma once

#include "cpu/strip_kernels.hpp"
#include "cpu/verbs/strip_lanes.hpp"

namespace bittersweet {
namespace {

constexpr std::int64_t bytes_ahead = 2048;  // nearer is late, farther gains nothing

// Elements of a tile's row as what is multiplied: two vectors of floats, whose products are those of the contract, or
// one of pairs, whose are not.
struct ByFloats {
  static constexpr int vectors = 2;

  template <class T>
  static BITTERSWEET_INLINE void spread(std::uint32_t mask, const T*& from, Lanes (&w)[vectors], int row) {
    decode(mask, from, w[0], w[1], row);
  }
  static BITTERSWEET_INLINE Lanes add(Lanes w, Lanes x, Lanes sum) { return add_product(w, x, sum); }
};

#if defined(__AVX512BF16__)
struct ByPairs {
  static constexpr int vectors = 1;

  static BITTERSWEET_INLINE void spread(std::uint32_t mask, const Bf16*& from, Lanes (&w)[vectors], int row) {
    w[0] = _mm512_castsi512_ps(words_of(mask, from, row));
  }
  static BITTERSWEET_INLINE Lanes add(Lanes w, Lanes x, Lanes sum) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(w), reinterpret_cast<__m512bh>(x));
  }
};
#endif

template <class T, class By, int B>
void multiply_strip(const cpu::Strip& strip, const void* arranged, float* out) {
  constexpr int vectors = By::vectors;
  Lanes sums[strips::height * B];
  for (Lanes& sum : sums) sum = no_lanes();
  const auto* from = static_cast<const T*>(strip.values);
  const auto* x = static_cast<const float*>(arranged);
  const std::uint32_t* masks = strip.masks;
  for (std::int64_t tile = 0; tile < strip.tiles; ++tile, masks += strips::height) {
    Lanes columns[B][vectors];
#pragma GCC unroll 8
    for (int b = 0; b < B; ++b)
      for (int v = 0; v < vectors; ++v, x += strips::lanes) columns[b][v] = load_lanes(x);
    const auto add_row = [&](int parity, int i) {  // `parity` is known when compiling
      Lanes w[vectors];
      By::spread(masks[i], from, w, parity);
#pragma GCC unroll 8
      for (int b = 0; b < B; ++b)
        for (int v = 0; v < vectors; ++v) sums[i * B + b] = By::add(w[v], columns[b][v], sums[i * B + b]);
    };
    __builtin_prefetch(reinterpret_cast<const char*>(masks) + bytes_ahead);
    const auto ask = [&] { __builtin_prefetch(reinterpret_cast<const char*>(from) + bytes_ahead); };
    if constexpr (B == 1) {  // the sums stay in registers, where there are enough
#pragma GCC unroll 16
      for (int i = 0; i < strips::height; ++i) {
        if (sizeof(T) == 4 || i % 2 == 0) ask();
        add_row(i, i);
      }
    } else {  // here x does
#pragma GCC unroll 1
      for (int i = 0; i < strips::height; i += 2)
#pragma GCC unroll 2
        for (int j = i; j < i + 2; ++j) {
          ask();
          add_row(j - i, j);
        }
    }
  }
  for (int b = 0; b < B; ++b)
    for (int i = 0; i < strips::height; ++i) out[b * strips::height + i] = fold(sums[i * B + b]);
}

template <class T, class By>
void multiply_strip_by(const cpu::Strip& strip, const void* x, int batch, float* out) {
  static_assert(cpu::most_columns == 8);
  switch (batch) {
    case 1: return multiply_strip<T, By, 1>(strip, x, out);
    case 2: return multiply_strip<T, By, 2>(strip, x, out);
    case 3: return multiply_strip<T, By, 3>(strip, x, out);
    case 4: return multiply_strip<T, By, 4>(strip, x, out);
    case 5: return multiply_strip<T, By, 5>(strip, x, out);
    case 6: return multiply_strip<T, By, 6>(strip, x, out);
    case 7: return multiply_strip<T, By, 7>(strip, x, out);
    default: return multiply_strip<T, By, 8>(strip, x, out);
  }
}

inline void multiply_strip_any(const cpu::Strip& strip, DType type, const void* x, int batch, float* out) {
  switch (type) {
    case DType::f32: return multiply_strip_by<float, ByFloats>(strip, x, batch, out);
    case DType::bf16: return multiply_strip_by<Bf16, ByFloats>(strip, x, batch, out);
    default: return multiply_strip_by<F16, ByFloats>(strip, x, batch, out);
  }
}

#if defined(__AVX512BF16__)
inline void multiply_strip_by_pairs(const cpu::Strip& strip, DType, const void* x, int batch, float* out) {
  multiply_strip_by<Bf16, ByPairs>(strip, x, batch, out);
}

inline void arrange_pairs(const TensorView& x, std::int64_t first, std::int64_t columns, DType, std::int64_t stride,
                          void* out) {
  const auto* from = static_cast<const Bf16*>(x.data) + first;
  auto* to = static_cast<std::uint32_t*>(out);
  for (; columns >= strips::width; columns -= strips::width, from += strips::width, to += stride)
    std::memcpy(to, from, strips::width * sizeof(Bf16));
  if (columns == 0) return;
  std::memset(to, 0, strips::width * sizeof(Bf16));
  std::memcpy(to, from, static_cast<std::size_t>(columns) * sizeof(Bf16));
}
#endif

template <DType Y>
void store_strip(const StripProduct& product, std::int64_t rows, std::int64_t strip, std::int64_t first,
                 std::int64_t batch, const float* sums) {
  const std::int64_t begin = strip * strips::height, here = std::min(strips::height, rows - begin);
  float bias[strips::height]{};
  const bool has_bias = product.bias.data != nullptr;
  if (has_bias)
    for (std::int64_t i = 0; i < here; ++i) bias[i] = load_as_float(product.bias.data, product.bias.dtype, begin + i);
  for (std::int64_t b = 0; b < batch; ++b, sums += strips::height) {
    const std::int64_t at = (first + b) * rows + begin;
    const auto store = [&](std::int64_t i) {
      float sum = has_bias ? sums[i] + bias[i] : sums[i];
      sum = sum == sum ? sum : std::numeric_limits<float>::quiet_NaN();
      store_from_float(product.y.data, Y, at + i, sum);
    };
    if (here == strips::height)
      for (std::int64_t i = 0; i < strips::height; ++i) store(i);
    else
      for (std::int64_t i = 0; i < here; ++i) store(i);
  }
}

inline void store_any(const StripProduct& product, std::int64_t rows, std::int64_t strip, std::int64_t first,
                      std::int64_t batch, const float* sums) {
  switch (product.y.dtype) {
    case DType::f32: return store_strip<DType::f32>(product, rows, strip, first, batch, sums);
    case DType::bf16: return store_strip<DType::bf16>(product, rows, strip, first, batch, sums);
    default: return store_strip<DType::f16>(product, rows, strip, first, batch, sums);
  }
}

template <DType X, bool Paired>
void arrange_row(const void* x, std::int64_t first, std::int64_t columns, std::int64_t stride, float* out) {
  const auto place = [](int c) { return Paired ? c / 2 + (c % 2) * strips::lanes : c; };
  for (; columns >= strips::width; columns -= strips::width, first += strips::width, out += stride)
    for (int c = 0; c < strips::width; ++c) out[place(c)] = load_as_float(x, X, first + c);
  if (columns == 0) return;
  for (int c = 0; c < strips::width; ++c) out[place(c)] = c < columns ? load_as_float(x, X, first + c) : 0.0f;
}

inline void arrange_any(const TensorView& x, std::int64_t first, std::int64_t columns, DType type, std::int64_t stride,
                        void* to) {
  auto* const out = static_cast<float*>(to);
  const auto arrange = [&]<DType X>() {
    if (type == DType::bf16)
      arrange_row<X, true>(x.data, first, columns, stride, out);
    else
      arrange_row<X, false>(x.data, first, columns, stride, out);
  };
  switch (x.dtype) {
    case DType::f32: return arrange.template operator()<DType::f32>();
    case DType::bf16: return arrange.template operator()<DType::bf16>();
    default: return arrange.template operator()<DType::f16>();
  }
}

}  // namespace
}  // namespace bittersweet
