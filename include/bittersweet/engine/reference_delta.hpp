// The reference engine of delta matrices: the plainest loop that is right for each verb, and the oracle of the tests.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include "bittersweet/engine/sparse.hpp"
#include "bittersweet/mask/bit_layout.hpp"

namespace bittersweet {

class ReferenceDelta {
 public:
  DeltaCount count_delta(const DenseMatrix& dense, const std::uint64_t* keep, std::span<std::uint64_t> steps) {
    DeltaCount found;
    for (std::int64_t i = 0; i < dense.rows * dense.columns; ++i) {
      found.live += stored(dense, keep, i);
      found.lost += bits_of(dense.elements, i) != 0 && !stored(dense, keep, i);
    }
    for_each_block(dense.rows, dense.columns, [&](const Block& block) {
      const std::vector<Row> rows = sorted_rows(dense, keep, block);
      for (std::int64_t g = 0; g < block.groups; ++g)
        steps[static_cast<std::size_t>(block.group + g)] = rows[static_cast<std::size_t>(g * delta::group)].size();
    });
    return found;
  }

  bool pack_delta(const DenseMatrix& dense, const std::uint64_t* keep, const DeltaMatrix& packed, std::uint8_t* codes,
                  void* values) {
    const DType type = dense.elements.dtype;
    bool fits = true;
    for_each_block(dense.rows, dense.columns, [&](const Block& block) {
      std::vector<std::int64_t> order;
      const std::vector<Row> rows = sorted_rows(dense, keep, block, &order);
      std::uint8_t* code = codes + delta::group * (packed.offsets[block.group] + static_cast<std::size_t>(block.group));
      for (std::size_t place = 0; place < order.size(); ++place) code[order[place]] = static_cast<std::uint8_t>(place);
      code += order.size();
      for (std::int64_t g = 0; g < block.groups; ++g) {
        const std::uint64_t first = packed.offsets[block.group + g], end = packed.offsets[block.group + g + 1];
        fits = fits && rows[static_cast<std::size_t>(g * delta::group)].size() == end - first;
        for (std::uint64_t step = first; fits && step < end; ++step)
          for (std::int64_t lane = 0; lane < delta::group; ++lane) {
            const Row& row = rows[static_cast<std::size_t>(g * delta::group + lane)];
            const bool has = step - first < row.size();
            const std::int64_t index = has ? row[step - first] : 0;
            *code++ = has ? static_cast<std::uint8_t>(1 + index % dense.columns - block.column) : 0;
            const std::uint32_t bits = has ? bits_of(dense.elements, index) : delta::nothing(type);
            const std::size_t at = static_cast<std::size_t>(delta::group) * step + static_cast<std::size_t>(lane);
            std::memcpy(static_cast<char*>(values) + at * size_of(type), &bits, size_of(type));
          }
      }
    });
    return fits;
  }

  void unpack_delta(const DeltaMatrix& packed, std::int64_t first, std::int64_t count, void* out) {
    const std::size_t size = size_of(packed.values.dtype);
    const std::int64_t begin = first * delta::height, end = std::min(packed.rows, begin + count * delta::height);
    std::fill_n(static_cast<char*>(out), static_cast<std::size_t>((end - begin) * packed.columns) * size, '\0');
    for_each_value(packed, [&](std::int64_t row, std::int64_t column, std::int64_t at) {
      if (row < begin || row >= end) return;
      const auto index = static_cast<std::size_t>((row - begin) * packed.columns + column);
      std::memcpy(static_cast<char*>(out) + index * size,
                  static_cast<const char*>(packed.values.data) + static_cast<std::size_t>(at) * size, size);
    });
  }

  void multiply_delta(const DeltaMatrix& packed, const StripProduct& product, Workspace&) {
    for (std::int64_t b = 0; b < product.batch; ++b) {
      std::vector<float> sums(static_cast<std::size_t>(packed.rows * packed.blocks()));  // of each row and block
      const std::int64_t width = delta::width(packed.columns);
      for_each_value(packed, [&](std::int64_t row, std::int64_t column, std::int64_t at) {
        const float x = load_as_float(product.x.data, product.x.dtype, b * packed.columns + column);
        float& sum = sums[static_cast<std::size_t>(row * packed.blocks() + column / width)];
        sum = std::fma(load_as_float(packed.values.data, packed.values.dtype, at), x, sum);
      });
      for (std::int64_t row = 0; row < packed.rows; ++row) {
        float sum = 0.0f;
        for (std::int64_t block = 0; block < packed.blocks(); ++block)
          sum += sums[static_cast<std::size_t>(row * packed.blocks() + block)];
        if (product.bias.data != nullptr) sum += load_as_float(product.bias.data, product.bias.dtype, row);
        if (std::isnan(sum)) sum = std::numeric_limits<float>::quiet_NaN();
        store_from_float(product.y.data, product.y.dtype, b * packed.rows + row, sum);
      }
    }
  }

 private:
  using Row = std::vector<std::int64_t>;  // the flat indices of what it stores in one block

  struct Block {
    std::int64_t row, column, width, groups, group;  // its first row, column and group
  };

  template <class F>
  static void for_each_block(std::int64_t rows, std::int64_t columns, F&& f) {
    std::int64_t group = 0;
    for (std::int64_t panel = 0; panel < delta::panels(rows); ++panel)
      for (std::int64_t block = 0; block < delta::blocks(columns); ++block) {
        const std::int64_t groups = delta::groups_of(rows, panel);
        f(Block{panel * delta::height, block * delta::width(columns), delta::width_of(columns, block), groups, group});
        group += groups;
      }
  }

  // f(row, column, place of the value), in ascending order of columns for each row.
  template <class F>
  static void for_each_value(const DeltaMatrix& packed, F&& f) {
    for_each_block(packed.rows, packed.columns, [&](const Block& block) {
      const std::uint8_t* code =
          packed.codes + delta::group * (packed.offsets[block.group] + static_cast<std::size_t>(block.group));
      std::vector<std::int64_t> order(static_cast<std::size_t>(block.groups * delta::group));
      for (std::size_t row = 0; row < order.size(); ++row) order[*code++] = block.row + static_cast<std::int64_t>(row);
      for (std::int64_t g = 0; g < block.groups; ++g)
        for (std::uint64_t step = packed.offsets[block.group + g]; step < packed.offsets[block.group + g + 1]; ++step)
          for (std::int64_t lane = 0; lane < delta::group; ++lane, ++code)
            if (*code != 0)
              f(order[static_cast<std::size_t>(g * delta::group + lane)], block.column + *code - 1,
                static_cast<std::int64_t>(step) * delta::group + lane);
    });
  }

  static std::vector<Row> sorted_rows(const DenseMatrix& dense, const std::uint64_t* keep, const Block& block,
                                      std::vector<std::int64_t>* order = nullptr) {
    std::vector<Row> rows(static_cast<std::size_t>(block.groups * delta::group));
    for (std::size_t i = 0; i < rows.size(); ++i)
      if (const std::int64_t row = block.row + static_cast<std::int64_t>(i); row < dense.rows)
        for (std::int64_t column = block.column; column < block.column + block.width; ++column)
          if (stored(dense, keep, row * dense.columns + column)) rows[i].push_back(row * dense.columns + column);
    std::vector<std::int64_t> places(rows.size());
    std::iota(places.begin(), places.end(), 0);
    const auto size = [&](std::int64_t i) { return rows[static_cast<std::size_t>(i)].size(); };
    std::stable_sort(places.begin(), places.end(), [&](auto a, auto b) { return size(a) > size(b); });
    std::vector<Row> sorted;
    for (const std::int64_t i : places) sorted.push_back(rows[static_cast<std::size_t>(i)]);
    if (order != nullptr) *order = places;
    return sorted;
  }

  static bool stored(const DenseMatrix& dense, const std::uint64_t* keep, std::int64_t index) {
    return keep != nullptr ? bits::get(keep, index) : bits_of(dense.elements, index) != 0;
  }

  static std::uint32_t bits_of(const TensorView& array, std::int64_t index) {
    if (size_of(array.dtype) == 2) return static_cast<const std::uint16_t*>(array.data)[index];
    return static_cast<const std::uint32_t*>(array.data)[index];
  }
};

static_assert(DeltaEngine<ReferenceDelta>);

}  // namespace bittersweet
