// Matrices for the tests of the delta layout, packed and multiplied by any engine.
#pragma once

#include <numeric>

#include "bittersweet/engine/reference_delta.hpp"
#include "bittersweet/sparse.hpp"
#include "sparse/matrices.hpp"

namespace bittersweet::test {

// Rows with a value every `gap` columns, from row % gap on.
inline Matrix combed_matrix(DType type, std::int64_t rows, std::int64_t columns, std::int64_t gap) {
  return matrix_of("a value every " + std::to_string(gap) + " columns", type, rows, columns,
                   [&](std::int64_t row, std::int64_t column) {
                     return column % gap == row % gap ? bits_of(static_cast<float>(row + column + 1), type) : 0u;
                   });
}

inline std::vector<Matrix> delta_matrices() {
  std::vector<Matrix> all;
  for (const DType type : types) {
    const std::pair<std::int64_t, std::int64_t> shapes[] = {{1, 1},    {1, 255},   {1, 256},  {31, 254},
                                                            {32, 257}, {33, 511},  {255, 40}, {256, 64},
                                                            {257, 33}, {300, 300}, {3, 2000}};
    std::uint64_t seed = 1;
    for (const auto& [rows, columns] : shapes)
      for (const double sparsity : {0.0, 0.8, 0.97, 1.0})
        all.push_back(random_matrix(type, rows, columns, sparsity, seed++));
    all.push_back(random_matrix(type, 0, 5, 0.5, 1));
    all.push_back(random_matrix(type, 5, 0, 0.5, 1));
    all.push_back(random_matrix(type, 0, 0, 0.5, 1));
    all.push_back(nasty_matrix(type, 270, 600));
    for (const std::int64_t gap : {254, 255, 256, 257}) all.push_back(combed_matrix(type, 40, 1100, gap));
    all.push_back(
        matrix_of("one full row among empty ones", type, 290, 530, [&](std::int64_t row, std::int64_t column) {
          return row == 100 ? bits_of(static_cast<float>(column - 200), type) : 0u;
        }));
    all.push_back(random_matrix(type, 2, 65536, 0.99, 5));
    Matrix uneven = random_matrix(type, 600, 100, 0.9, 7);  // whole panels empty
    std::fill(uneven.bytes.begin() + static_cast<std::ptrdiff_t>(uneven.bytes.size() / 2), uneven.bytes.end(),
              std::byte{0});
    all.push_back(uneven);
  }
  return all;
}

template <class E>
sparse::PackedDelta pack_by(E&& engine, const DenseMatrix& dense, const std::uint64_t* keep = nullptr) {
  sparse::PackedDelta made{.rows = dense.rows, .columns = dense.columns, .dtype = dense.elements.dtype};
  const auto groups = static_cast<std::size_t>(delta::groups(dense.rows, dense.columns));
  made.offsets.assign(groups + 2, 0);
  const DeltaCount found = engine.count_delta(dense, keep, std::span(made.offsets).subspan(1, groups));
  EXPECT_EQ(found.lost, 0);
  std::partial_sum(made.offsets.begin(), made.offsets.end() - 1, made.offsets.begin());
  made.offsets.back() = static_cast<std::uint64_t>(found.live);
  made.codes.assign(32 * (groups + made.offsets[groups]), 0xa5);
  made.values.assign(32 * made.offsets[groups] * size_of(made.dtype), std::byte{0xa5});
  EXPECT_TRUE(engine.pack_delta(dense, keep, made.view(), made.codes.data(), made.values.data()));
  return made;
}

inline void expect_same(const sparse::PackedDelta& expected, const sparse::PackedDelta& found) {
  EXPECT_EQ(expected.offsets, found.offsets);
  EXPECT_EQ(expected.codes, found.codes);
  EXPECT_EQ(expected.values, found.values);
}

template <class E>
std::vector<std::byte> multiply_by(E&& engine, const sparse::PackedDelta& packed, const Vectors& x, std::int64_t batch,
                                   DType out, const Vectors* bias = nullptr) {
  std::vector<std::byte> y(static_cast<std::size_t>(batch * packed.rows) * size_of(out), std::byte{0x77});
  Workspace workspace;
  engine.multiply_delta(
      packed.view(), {.x = x.view(), .y = {y.data(), out}, .batch = batch, .bias = bias ? bias->view() : TensorView{}},
      workspace);
  return y;
}

}  // namespace bittersweet::test
