// Elements into strips and back, as bits: 32 of a row at a time. What lies across the matrix's edges goes through a
// copy.
#pragma once

#include "cpu/strip_kernels.hpp"
#include "cpu/verbs/strip_lanes.hpp"

namespace bittersweet {
namespace {

// Which of 32 elements have bits.
template <class U>
BITTERSWEET_INLINE std::uint32_t with_bits(const U* from) {
#if BITTERSWEET_LANES == 16
  if constexpr (sizeof(U) == 2) {
    const __m512i all = _mm512_loadu_si512(from);
    return _mm512_test_epi16_mask(all, all);
  } else {
    const __m512i low = _mm512_loadu_si512(from), high = _mm512_loadu_si512(from + 16);
    return static_cast<std::uint32_t>(_mm512_test_epi32_mask(high, high)) << 16 | _mm512_test_epi32_mask(low, low);
  }
#else
  std::uint32_t mask = 0;
  for (int c = 0; c < strips::width; ++c) mask |= std::uint32_t{from[c] != 0} << c;
  return mask;
#endif
}

// The elements whose bit is set, one after another. With `room`, anything may be written behind them, up to 32.
template <class U>
BITTERSWEET_INLINE void squeeze(const U* from, std::uint32_t mask, U* to, bool room) {
#if defined(__AVX512VBMI2__)
  if constexpr (sizeof(U) == 2) {
    const __m512i all = _mm512_maskz_compress_epi16(mask, _mm512_loadu_si512(from));
    if (room)
      _mm512_storeu_si512(to, all);
    else
      _mm512_mask_storeu_epi16(to, static_cast<__mmask32>((std::uint64_t{1} << strips::live(mask)) - 1), all);
    return;
  }
#endif
#if BITTERSWEET_LANES == 16
  if constexpr (sizeof(U) == 4) {
    if (room) {
      const auto low = static_cast<__mmask16>(mask), high = static_cast<__mmask16>(mask >> 16);
      _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(low, _mm512_loadu_si512(from)));
      _mm512_storeu_si512(to + strips::live(low), _mm512_maskz_compress_epi32(high, _mm512_loadu_si512(from + 16)));
      return;
    }
  }
#endif
  if (!room) {
    for (int c = 0; c < strips::width; ++c)
      if (strips::has(mask, c)) *to++ = from[c];
    return;
  }
  for (int c = 0; c < strips::width; ++c) {  // without a branch: every second one would be taken wrongly
    *to = from[c];
    to += strips::has(mask, c);
  }
}

// 32 elements from the packed ones.
template <class U>
BITTERSWEET_INLINE void expand(std::uint32_t mask, const U*& from, U* to) {
#if BITTERSWEET_LANES == 16
  if constexpr (sizeof(U) == 2) {
    _mm512_storeu_si512(to, words_of(mask, from, 0));
  } else {
    const auto low = static_cast<__mmask16>(mask), high = static_cast<__mmask16>(mask >> 16);
    _mm512_storeu_si512(to, _mm512_maskz_expand_epi32(low, load_apart(from)));
    _mm512_storeu_si512(to + 16, _mm512_maskz_expand_epi32(high, load_apart(from + strips::live(low))));
    from += strips::live(mask);
  }
#elif BITTERSWEET_LANES == 8
  for (int half = 0; half < 2; ++half, mask >>= 16)
    if constexpr (sizeof(U) == 2) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 16 * half), spread_16(mask, from));
    } else {
      const auto*& floats = reinterpret_cast<const float*&>(from);
      for (int byte = 0; byte < 2; ++byte) {
        const __m256 eight = spread_floats(static_cast<std::uint8_t>(mask >> 8 * byte), floats);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 16 * half + 8 * byte), _mm256_castps_si256(eight));
      }
    }
#else
  for (int c = 0; c < strips::width; ++c) to[c] = strips::has(mask, c) ? *from++ : U{0};
#endif
}

// f(row, tile, elements, whole?) for the 32 elements behind each mask of a strip, where the matrix has any; else null.
template <class U, class F>
BITTERSWEET_INLINE void for_each_piece(const U* strip, std::int64_t rows, std::int64_t columns, F&& f) {
  const std::int64_t whole = columns / strips::width, tiles = strips::tiles(columns);
  U edge[strips::width];
  for (std::int64_t tile = 0; tile < tiles; ++tile)
    for (std::int64_t i = 0; i < strips::height; ++i) {
      const U* from = i < rows ? strip + i * columns + tile * strips::width : nullptr;
      if (from != nullptr && tile == whole) {
        std::memset(edge, 0, sizeof edge);
        std::memcpy(edge, from, static_cast<std::size_t>(columns - whole * strips::width) * sizeof(U));
        from = edge;
      }
      f(i, tile, from);
    }
}

template <class U>
const U* strip_of(const DenseMatrix& dense, std::int64_t strip) {
  return static_cast<const U*>(dense.elements.data) + strip * strips::height * dense.columns;
}

inline std::int64_t rows_of(std::int64_t rows, std::int64_t strip) {
  return std::min(strips::height, rows - strip * strips::height);
}

template <class U>
cpu::CountedStrip count_strip(const DenseMatrix& dense, const std::uint64_t* keep, std::int64_t strip,
                              std::uint32_t* masks) {
  cpu::CountedStrip found;
  for_each_piece(strip_of<U>(dense, strip), rows_of(dense.rows, strip), dense.columns,
                 [&](std::int64_t i, std::int64_t tile, const U* from) {
                   std::uint32_t mask = from == nullptr ? 0 : with_bits(from);
                   if (from != nullptr && keep != nullptr) {
                     const std::int64_t column = tile * strips::width;
                     const std::int64_t index = (strip * strips::height + i) * dense.columns + column;
                     const std::int64_t count = std::min(strips::width, dense.columns - column);
                     const auto kept = static_cast<std::uint32_t>(bits::read(keep, index, count));
                     found.lost += strips::live(mask & ~kept);
                     mask = kept;
                   }
                   *masks++ = mask;
                   found.live += static_cast<std::uint64_t>(strips::live(mask));
                 });
  return found;
}

template <class U>
void pack_strip(const DenseMatrix& dense, std::int64_t strip, const std::uint32_t* masks, void* values,
                std::int64_t live) {
  auto* to = static_cast<U*>(values);
  const U* const end = to + live;
  for_each_piece(strip_of<U>(dense, strip), rows_of(dense.rows, strip), dense.columns,
                 [&](std::int64_t, std::int64_t, const U* from) {
                   const std::uint32_t mask = *masks++;
                   if (mask == 0) return;
                   squeeze(from, mask, to, end - to > strips::width);
                   to += strips::live(mask);
                 });
}

template <class U>
void unpack_strip(const cpu::Strip& strip, std::int64_t rows, std::int64_t columns, void* out) {
  const auto* from = static_cast<const U*>(strip.values);
  const std::uint32_t* masks = strip.masks;
  const std::int64_t whole = columns / strips::width;
  U edge[strips::width];
  for (std::int64_t tile = 0; tile < strip.tiles; ++tile)
    for (std::int64_t i = 0; i < strips::height; ++i) {
      const std::uint32_t mask = *masks++;
      if (i >= rows) continue;
      U* const to = static_cast<U*>(out) + i * columns + tile * strips::width;
      if (i % 4 == 0) __builtin_prefetch(reinterpret_cast<const char*>(from) + 1024);
      expand(mask, from, tile < whole ? to : edge);
      if (tile == whole) std::memcpy(to, edge, static_cast<std::size_t>(columns - whole * strips::width) * sizeof(U));
    }
}

inline cpu::CountedStrip count_any(const DenseMatrix& dense, const std::uint64_t* keep, std::int64_t strip,
                                   std::uint32_t* masks) {
  return size_of(dense.elements.dtype) == 2 ? count_strip<std::uint16_t>(dense, keep, strip, masks)
                                            : count_strip<std::uint32_t>(dense, keep, strip, masks);
}

inline void pack_any(const DenseMatrix& dense, std::int64_t strip, const std::uint32_t* masks, void* values,
                     std::int64_t live) {
  size_of(dense.elements.dtype) == 2 ? pack_strip<std::uint16_t>(dense, strip, masks, values, live)
                                     : pack_strip<std::uint32_t>(dense, strip, masks, values, live);
}

inline void unpack_any(const cpu::Strip& strip, DType type, std::int64_t rows, std::int64_t columns, void* out) {
  size_of(type) == 2 ? unpack_strip<std::uint16_t>(strip, rows, columns, out)
                     : unpack_strip<std::uint32_t>(strip, rows, columns, out);
}

}  // namespace
}  // namespace bittersweet
