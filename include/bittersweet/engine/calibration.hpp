// The verb that adds up the squares of a layer's inputs, column by column: what the norms of scorer `wanda` are made
// of.
//
// Contract: a matrix has a row for each position and a column for each input feature. Every row that counts adds x * x,
// which a double holds exactly, to its column's sum, or x * x * times[r % period], rounded once. The order of additions
// is stated, so that engines give the same bits whatever their threads or grid: row after row within runs of 16, run
// after run within chunks of 256, chunk after chunk within bands of 16,384, each of these sums from 0; and band after
// band to what is in `sums`. What does not count is not looked at. A value that counts and is not finite is counted in
// `counts`, and leaves its column's sum without meaning.
#pragma once

#include <cmath>
#include <concepts>
#include <cstdint>

#include "bittersweet/tensor_view.hpp"

namespace bittersweet {

struct LayerInput {
  TensorView x;  // f32, bf16 or f16, row after row
  std::int64_t rows = 0, columns = 0;
  const std::uint8_t* counted = nullptr;  // one byte for `together` rows each, not 0 where they count; null: all do
  std::int64_t together = 1;
  const double* times = nullptr;  // how often a row counts, again and again; null: once
  std::int64_t period = 1;        // of `times`

  constexpr bool counts(std::int64_t row) const { return counted == nullptr || counted[row / together] != 0; }
};

struct SquareSums {
  static constexpr std::int64_t run = 16, chunk = 256, band = 16384;  // rows

  double* sums = nullptr;          // one for each column
  std::int64_t* counts = nullptr;  // rows that counted; values that are not finite

  static constexpr std::int64_t bands(std::int64_t rows) { return (rows + band - 1) / band; }
};

template <class E>
concept CalibratingEngine =
    requires(E& engine, const LayerInput& input, const SquareSums& to) { engine.add_squares(input, to); };

}  // namespace bittersweet
