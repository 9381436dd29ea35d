// The reference engine of packed matrices: the plainest loop that is right for each verb, and the oracle of the tests.
#pragma once

#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "bittersweet/engine/sparse.hpp"
#include "bittersweet/mask/bit_layout.hpp"

namespace bittersweet {

class ReferenceSparse {
 public:
  std::int64_t count_strips(const DenseMatrix& dense, const std::uint64_t* keep, std::uint32_t* masks,
                            std::span<std::uint64_t> counts) {
    std::int64_t lost = 0;
    for (std::uint64_t& count : counts) count = 0;
    for_each(dense.rows, dense.columns, [&](Place at, std::int64_t word) {
      masks[word] = 0;
      for (int c = 0; c < strips::width; ++c) {
        if (at.row >= dense.rows || at.column + c >= dense.columns) continue;
        const std::int64_t index = at.row * dense.columns + at.column + c;
        const bool nonzero = bits_of(dense.elements, index) != 0, live = keep ? bits::get(keep, index) : nonzero;
        lost += nonzero && !live;
        masks[word] |= std::uint32_t{live} << c;
        counts[static_cast<std::size_t>(at.strip)] += live;
      }
    });
    return lost;
  }

  void pack_strips(const DenseMatrix& dense, const PackedMatrix& packed, void* out) {
    const std::size_t size = size_of(dense.elements.dtype);
    auto* to = static_cast<char*>(out);
    for_each(dense.rows, dense.columns, [&](Place at, std::int64_t word) {
      for (int c = 0; c < strips::width; ++c) {
        if (!strips::has(packed.masks[word], c)) continue;
        const auto index = static_cast<std::size_t>(at.row * dense.columns + at.column + c);
        std::memcpy(to, static_cast<const char*>(dense.elements.data) + index * size, size);
        to += size;
      }
    });
  }

  void unpack_strips(const PackedMatrix& packed, std::int64_t first, std::int64_t count, void* out) {
    const std::size_t size = size_of(packed.values.dtype);
    const auto* from = static_cast<const char*>(packed.values.data);
    for_each(packed.rows, packed.columns, [&](Place at, std::int64_t word) {
      for (int c = 0; c < strips::width; ++c) {
        const bool live = strips::has(packed.masks[word], c);
        const bool wanted = at.strip >= first && at.strip < first + count;
        if (wanted && at.row < packed.rows && at.column + c < packed.columns) {
          const std::int64_t index = (at.row - first * strips::height) * packed.columns + at.column + c;
          char* const to = static_cast<char*>(out) + static_cast<std::size_t>(index) * size;
          std::memset(to, 0, size);
          if (live) std::memcpy(to, from, size);
        }
        if (live) from += size;
      }
    });
  }

  void repack_rows(const PackedMatrix& packed, const RowMatrix& rows) {
    const std::size_t size = size_of(packed.values.dtype);
    std::int64_t next = 0;
    for (std::int64_t row = 0; row < packed.rows; ++row) {
      rows.row_offsets[row] = next;
      for (std::int64_t tile = 0; tile < packed.tiles(); ++tile) rows.set_mask(row, tile, mask_at(packed, row, tile));
      for_each_live(packed, row, [&](std::int64_t place) {
        std::memcpy(static_cast<char*>(rows.values.data) + static_cast<std::size_t>(next++) * size,
                    static_cast<const char*>(packed.values.data) + static_cast<std::size_t>(place) * size, size);
      });
    }
  }

  void repack_rows(const RowMatrix& rows, std::uint32_t* masks, std::uint64_t* offsets, void* out) {
    const std::size_t size = size_of(rows.values.dtype);
    std::uint64_t next = 0;
    for (std::int64_t strip = 0; strip <= strips::count(rows.rows); ++strip) offsets[strip] = 0;
    for_each(rows.rows, rows.columns, [&](Place at, std::int64_t word) {
      if (word % strips::words_per_strip(rows.columns) == 0) offsets[at.strip] = next;
      masks[word] = at.row < rows.rows ? rows.mask(at.row, at.column / strips::width) : 0;
      std::int64_t place = at.row < rows.rows ? rows.row_offsets[at.row] : 0;
      for (std::int64_t tile = 0; tile < at.column / strips::width; ++tile)
        place += strips::live(rows.mask(at.row < rows.rows ? at.row : 0, tile));
      for (int n = strips::live(masks[word]); n > 0; --n, ++place)
        std::memcpy(static_cast<char*>(out) + static_cast<std::size_t>(next++) * size,
                    static_cast<const char*>(rows.values.data) + static_cast<std::size_t>(place) * size, size);
      offsets[strips::count(rows.rows)] = next;
    });
  }

  void multiply_strips(const PackedMatrix& packed, const StripProduct& product, Workspace&) {
    const DType type = packed.values.dtype;
    for (std::int64_t b = 0; b < product.batch; ++b) {
      std::int64_t next = 0;
      for (std::int64_t strip = 0; strip < packed.strips(); ++strip) {
        std::array<std::array<float, strips::lanes>, strips::height> sums{};
        for (std::int64_t tile = 0; tile < packed.tiles(); ++tile)
          for (std::int64_t i = 0; i < strips::height; ++i)
            for (int c = 0; c < strips::width; ++c) {
              const std::int64_t column = tile * strips::width + c;
              const bool live = strips::has(packed.masks[(strip * packed.tiles() + tile) * strips::height + i], c);
              const float w = live ? load_as_float(packed.values.data, type, next++) : 0.0f;
              const bool inside = column < packed.columns;
              const float x =
                  inside ? load_as_float(product.x.data, product.x.dtype, b * packed.columns + column) : 0.0f;
              float& sum = sums[static_cast<std::size_t>(i)][static_cast<std::size_t>(strips::lane_of(type, c))];
              sum = std::fma(w, x, sum);
            }
        for (std::int64_t i = 0; i < strips::height; ++i)
          if (const std::int64_t row = strip * strips::height + i; row < packed.rows)
            store_sum(product, b * packed.rows + row, row, fold(sums[static_cast<std::size_t>(i)]));
      }
    }
  }

 private:
  struct Place {
    std::int64_t strip, row, column;  // of the first element of 32
  };

  // f(place, index of its mask) in the order of the masks.
  template <class F>
  static void for_each(std::int64_t rows, std::int64_t columns, F&& f) {
    std::int64_t word = 0;
    for (std::int64_t strip = 0; strip < strips::count(rows); ++strip)
      for (std::int64_t tile = 0; tile < strips::tiles(columns); ++tile)
        for (std::int64_t i = 0; i < strips::height; ++i)
          f(Place{strip, strip * strips::height + i, tile * strips::width}, word++);
  }

  static std::uint32_t mask_at(const PackedMatrix& packed, std::int64_t row, std::int64_t tile) {
    return packed.masks[(row / strips::height * packed.tiles() + tile) * strips::height + row % strips::height];
  }

  // f(place of its value) for each element of a row that has its bit.
  template <class F>
  static void for_each_live(const PackedMatrix& packed, std::int64_t row, F&& f) {
    const std::int64_t first = row / strips::height * strips::height;
    auto place = static_cast<std::int64_t>(packed.offsets[row / strips::height]);
    for (std::int64_t tile = 0; tile < packed.tiles(); ++tile)
      for (std::int64_t i = 0; i < strips::height; ++i) {
        const std::uint32_t mask = mask_at(packed, first + i, tile);
        for (int n = 0; n < strips::live(mask); ++n, ++place)
          if (first + i == row) f(place);
      }
  }

  static std::uint32_t bits_of(const TensorView& array, std::int64_t index) {
    if (size_of(array.dtype) == 2) return static_cast<const std::uint16_t*>(array.data)[index];
    return static_cast<const std::uint32_t*>(array.data)[index];
  }

  static float fold(std::array<float, strips::lanes>& sums) {
    for (std::size_t n = sums.size() / 2; n > 0; n /= 2)
      for (std::size_t j = 0; j < n; ++j) sums[j] += sums[j + n];
    return sums[0];
  }

  static void store_sum(const StripProduct& product, std::int64_t index, std::int64_t row, float sum) {
    if (product.bias.data != nullptr) sum += load_as_float(product.bias.data, product.bias.dtype, row);
    if (std::isnan(sum)) sum = std::numeric_limits<float>::quiet_NaN();
    store_from_float(product.y.data, product.y.dtype, index, sum);
  }
};

static_assert(SparseEngine<ReferenceSparse>);

}  // namespace bittersweet
