// Products by AMX: one tile of a strip is one operand of the matrix unit, 16 rows of 32 bf16. The unit adds in an order
// of its own and flushes denormals, so these sums are not those of the contract.
#pragma once

#include "cpu/strip_kernels.hpp"
#include "cpu/verbs/strip_lanes.hpp"

namespace bittersweet {
namespace {

constexpr std::int64_t tile_words = 16 * 16;  // pairs of bf16 of one operand
constexpr std::int64_t tile_row_bytes = 64;
constexpr std::int64_t tiles_at_once = 8;  // decoded into the first cache

struct alignas(64) TileConfig {
  std::uint8_t palette = 1, start = 0, reserved[14]{};
  std::uint16_t row_bytes[16]{64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16]{16, 16, 16, 16, 16, 16, 16, 16};
};

class UsesTiles {
 public:
  UsesTiles() {
    const TileConfig config;
    _tile_loadconfig(&config);
  }
  ~UsesTiles() { _tile_release(); }
};

// Tiles of a strip, one after another, into `out`.
BITTERSWEET_INLINE void decode_tiles(const std::uint32_t*& masks, const Bf16*& from, std::int64_t count, Bf16* out) {
  for (std::int64_t tile = 0; tile < count; ++tile, masks += strips::height) {
    __builtin_prefetch(reinterpret_cast<const char*>(masks) + 2048);
#pragma GCC unroll 16
    for (int i = 0; i < strips::height; ++i, out += strips::width) {
      if (i % 2 == 0) __builtin_prefetch(reinterpret_cast<const char*>(from) + 2048);
      _mm512_store_si512(out, words_of(masks[i], from, i));
    }
  }
}

// The sums of 16 rows and 16 columns, which lie row by row, as out[column][row].
BITTERSWEET_INLINE void turn(const float* sums, float* out) {
  for (int n = 0; n < 16; ++n)
    for (int i = 0; i < 16; ++i) out[n * 16 + i] = sums[i * 16 + n];
}

// One strip and up to two blocks of 16 columns, decoded as it is multiplied.
template <int Blocks>
void few_columns(const cpu::Strip& strip, const std::uint32_t* x, float* out) {
  alignas(64) Bf16 decoded[2][tiles_at_once * strips::height * strips::width];
  alignas(64) float sums[4][tile_words];
  const auto* from = static_cast<const Bf16*>(strip.values);
  const std::uint32_t* masks = strip.masks;
  const std::int64_t block = strip.tiles * tile_words;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (std::int64_t first = 0, turn_of = 0; first < strip.tiles; first += tiles_at_once, turn_of ^= 1) {
    const std::int64_t count = std::min(tiles_at_once, strip.tiles - first);
    Bf16* const w = decoded[turn_of];
    decode_tiles(masks, from, count, w);
    for (std::int64_t t = 0; t < count; t += 2) {  // two chains of sums, since one would wait for itself
      const std::uint32_t* const here = x + (first + t) * tile_words;
      _tile_loadd(4, w + t * 512, tile_row_bytes);
      _tile_loadd(6, here, tile_row_bytes);
      _tile_dpbf16ps(0, 4, 6);
      if constexpr (Blocks == 2) {
        _tile_loadd(6, here + block, tile_row_bytes);
        _tile_dpbf16ps(2, 4, 6);
      }
      if (t + 1 == count) break;
      _tile_loadd(5, w + t * 512 + 512, tile_row_bytes);
      _tile_loadd(7, here + tile_words, tile_row_bytes);
      _tile_dpbf16ps(1, 5, 7);
      if constexpr (Blocks == 2) {
        _tile_loadd(7, here + block + tile_words, tile_row_bytes);
        _tile_dpbf16ps(3, 5, 7);
      }
    }
  }
  _tile_stored(0, sums[0], tile_row_bytes);
  _tile_stored(1, sums[1], tile_row_bytes);
  _tile_stored(2, sums[2], tile_row_bytes);
  _tile_stored(3, sums[3], tile_row_bytes);
  for (int u = 0; u < Blocks; ++u) {
    for (int i = 0; i < tile_words; ++i) sums[2 * u][i] += sums[2 * u + 1][i];
    turn(sums[2 * u], out + u * tile_words);
  }
}

inline void multiply_few(const cpu::Strip& strip, const std::uint32_t* x, int blocks, float* out) {
  const UsesTiles uses;
  blocks == 1 ? few_columns<1>(strip, x, out) : few_columns<2>(strip, x, out);
}

inline void decode_strip(const cpu::Strip& strip, void* out) {
  const auto* from = static_cast<const Bf16*>(strip.values);
  const std::uint32_t* masks = strip.masks;
  decode_tiles(masks, from, strip.tiles, static_cast<Bf16*>(out));
}

// Two decoded strips, which may be one, by two blocks of 16 columns: out[strip][block] of 16 columns by 16 rows.
inline void multiply_decoded(const void* first, const void* second, std::int64_t tiles, const std::uint32_t* x,
                             float* out) {
  const UsesTiles uses;
  alignas(64) float sums[4][tile_words];
  const auto *a = static_cast<const Bf16*>(first), *b = static_cast<const Bf16*>(second);
  const std::uint32_t* const other = x + tiles * tile_words;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (std::int64_t t = 0; t < tiles; ++t) {
    _tile_loadd(4, a + t * 512, tile_row_bytes);
    _tile_loadd(6, x + t * tile_words, tile_row_bytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, other + t * tile_words, tile_row_bytes);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, b + t * 512, tile_row_bytes);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, sums[0], tile_row_bytes);
  _tile_stored(1, sums[1], tile_row_bytes);
  _tile_stored(2, sums[2], tile_row_bytes);
  _tile_stored(3, sums[3], tile_row_bytes);
  for (int i = 0; i < 4; ++i) turn(sums[i], out + i * tile_words);
}

// 16 rows of x, of which `rows` are there, as the other operand: [tile][pair of columns][row], padded with zeros.
inline void arrange_block(const std::uint16_t* x, std::int64_t rows, std::int64_t columns, std::uint32_t* out) {
  const std::int64_t whole = columns / 2, words = strips::tiles(columns) * 16;
  for (std::int64_t n = 0; n < 16; ++n) {
    const std::uint16_t* const row = x + n * columns;
    std::int64_t k = 0;
    if (n < rows) {
      for (; k < whole; ++k) std::memcpy(out + k * 16 + n, row + 2 * k, 4);
      if (columns % 2 != 0) out[k++ * 16 + n] = row[columns - 1];
    }
    for (; k < words; ++k) out[k * 16 + n] = 0;
  }
}

constexpr cpu::TileKernels tile_kernels{&multiply_few, &decode_strip, &multiply_decoded, &arrange_block};

}  // namespace
}  // namespace bittersweet
