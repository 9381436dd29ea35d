// Sums of squares: bands of rows and tiles of columns, dealt out to threads. A tile's row is decoded by the kernels of
// the instruction set and added up in doubles, which any compiler makes vectors of.
#include "bittersweet/engine/cpu_calibration.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <vector>

#include "bittersweet/dtype.hpp"
#include "cpu/isa.hpp"
#include "cpu/kernels.hpp"
#include "cpu/parallel.hpp"

namespace bittersweet {

using namespace cpu;

namespace {

constexpr std::int64_t tile = 256;  // columns
using Sums = std::array<double, tile>;

void add(Sums& to, const Sums& more, std::int64_t count) {
  for (std::int64_t c = 0; c < count; ++c) to[static_cast<std::size_t>(c)] += more[static_cast<std::size_t>(c)];
}

// Columns first .. first + count of a matrix.
struct Tile {
  const LayerInput& input;
  const Kernels& kernels;
  std::int64_t first, count;

  const float* decoded(std::int64_t row, float* room) const {
    const std::int64_t at = row * input.columns + first;
    if (input.x.dtype == DType::f32) return static_cast<const float*>(input.x.data) + at;
    const auto* const from = static_cast<const std::uint16_t*>(input.x.data) + at;
    input.x.dtype == DType::bf16 ? kernels.from_bf16(from, count, room) : kernels.from_f16(from, count, room);
    return room;
  }

  Sums run(std::int64_t begin, std::int64_t end) const {
    Sums sums{};
    float room[tile];
    for (std::int64_t row = begin; row < end; ++row) {
      if (!input.counts(row)) continue;
      const float* const x = decoded(row, room);
      const double times = input.times == nullptr ? 1.0 : input.times[row % input.period];
      for (std::int64_t c = 0; c < count; ++c)
        sums[static_cast<std::size_t>(c)] += static_cast<double>(x[c]) * static_cast<double>(x[c]) * times;
    }
    return sums;
  }

  std::int64_t not_finite(std::int64_t begin, std::int64_t end) const {
    std::int64_t found = 0;
    float room[tile];
    for (std::int64_t row = begin; row < end; ++row)
      if (input.counts(row)) {
        const float* const x = decoded(row, room);
        found += std::count_if(x, x + count, [](float value) { return !std::isfinite(value); });
      }
    return found;
  }

  Sums band(std::int64_t begin, std::int64_t end, std::int64_t& bad) const {
    Sums sums{};
    for (std::int64_t chunk = begin; chunk < end; chunk += SquareSums::chunk) {
      Sums part{};
      const std::int64_t last = std::min(chunk + SquareSums::chunk, end);
      for (std::int64_t row = chunk; row < last; row += SquareSums::run)
        add(part, run(row, std::min(row + SquareSums::run, last)), count);
      // Squares of finite floats stay finite, added up too.
      if (std::any_of(part.begin(), part.end(), [](double sum) { return !std::isfinite(sum); }))
        bad += not_finite(chunk, last);
      add(sums, part, count);
    }
    return sums;
  }
};

}  // namespace

CpuCalibration::CpuCalibration() : kernels_(kernels()) {}
CpuCalibration::CpuCalibration(const std::string& isa, int threads)
    : kernels_(kernels_of(isa)), forced_threads_(threads) {}

void CpuCalibration::add_squares(const LayerInput& input, const SquareSums& to) {
  const std::int64_t bands = SquareSums::bands(input.rows), tiles = (input.columns + tile - 1) / tile;
  for (std::int64_t row = 0; row < input.rows; row += input.together)
    if (input.counts(row)) to.counts[0] += std::min(input.together, input.rows - row);
  std::vector<double> sums(static_cast<std::size_t>(bands * input.columns));
  std::atomic<std::int64_t> bad{0};
  const std::int64_t work = input.rows * input.columns;
  parallel_for(forced_threads_ > 0 ? forced_threads_ : threads_for(work), bands * tiles, [&](int, std::int64_t piece) {
    const std::int64_t band = piece / tiles, first = piece % tiles * tile, begin = band * SquareSums::band;
    const Tile columns{input, kernels_, first, std::min(tile, input.columns - first)};
    std::int64_t found = 0;
    const Sums of = columns.band(begin, std::min(begin + SquareSums::band, input.rows), found);
    std::copy_n(of.begin(), columns.count, sums.begin() + band * input.columns + first);
    bad += found;
  });
  for (std::int64_t band = 0; band < bands; ++band)
    for (std::int64_t c = 0; c < input.columns; ++c)
      to.sums[c] += sums[static_cast<std::size_t>(band * input.columns + c)];
  to.counts[1] += bad;
}

}  // namespace bittersweet
