// The reference engine of calibration: the plainest loop that is right, and the oracle of the tests.
#pragma once

#include <algorithm>

#include "bittersweet/engine/calibration.hpp"

namespace bittersweet {

class ReferenceCalibration {
 public:
  void add_squares(const LayerInput& input, const SquareSums& to) {
    for (std::int64_t row = 0; row < input.rows; ++row) to.counts[0] += input.counts(row);
    for (std::int64_t column = 0; column < input.columns; ++column)
      for (std::int64_t first = 0; first < input.rows; first += SquareSums::band)
        to.sums[column] += sum(input, to, column, first, SquareSums::band);
  }

 private:
  // Of rows first .. first + size, in parts of parts.
  static double sum(const LayerInput& input, const SquareSums& to, std::int64_t column, std::int64_t first,
                    std::int64_t size) {
    const std::int64_t part = size == SquareSums::band    ? SquareSums::chunk
                              : size == SquareSums::chunk ? SquareSums::run
                                                          : 1;
    double total = 0;
    for (std::int64_t row = first; row < std::min(first + size, input.rows); row += part)
      if (part > 1)
        total += sum(input, to, column, row, part);
      else if (input.counts(row))
        total += square(input, to, column, row);
    return total;
  }

  static double square(const LayerInput& input, const SquareSums& to, std::int64_t column, std::int64_t row) {
    const float x = load_as_float(input.x.data, input.x.dtype, row * input.columns + column);
    to.counts[1] += !std::isfinite(x);
    const double exact = static_cast<double>(x) * static_cast<double>(x);
    return input.times == nullptr ? exact : exact * input.times[row % input.period];
  }
};

static_assert(CalibratingEngine<ReferenceCalibration>);

}  // namespace bittersweet
