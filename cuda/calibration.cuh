// Sums of the squares of a layer's inputs, in the order of engine/calibration.hpp. A block takes a chunk of 256 rows of
// neighbouring columns: each of its 16 warps adds up one run, a lane up to eight columns, eight rows on their way at a
// time; then a thread adds up the runs of a column. Chunks are added up to bands, and bands to the sums, by a second
// kernel, unless there is one chunk.
#pragma once

#include <cmath>

#include "bittersweet/cuda_calibration.hpp"
#include "calibration_checks.hpp"
#include "neighbours.cuh"
#include "verbs.cuh"

namespace bittersweet::cuda {

inline constexpr u32 square_run = SquareSums::run, square_runs = SquareSums::chunk / SquareSums::run;
inline constexpr u32 band_chunks = SquareSums::band / SquareSums::chunk;

// Reads `Width` neighbours of one type by one load, or a single one of any.
template <DType Type, int Width>
struct SquaredInputs {
  static constexpr int width = Width;
  Neighbours<Type, Width> values;
  BITTERSWEET_DEVICE void read(const LayerInput& input, std::int64_t at) { values.read(input.x.data, at); }
  BITTERSWEET_DEVICE float operator[](int i) const { return values[i]; }
};

struct SingleInput {
  static constexpr int width = 1;
  float value;
  BITTERSWEET_DEVICE void read(const LayerInput& input, std::int64_t at) {
    value = load_as_float(input.x.data, input.x.dtype, at);
  }
  BITTERSWEET_DEVICE float operator[](int) const { return value; }
};

template <class Inputs>
struct SumSquares {
  static constexpr u32 threads = 32 * square_runs, blocks = 2;
  static constexpr u32 columns = 32 * Inputs::width;  // of a block
  static constexpr u32 at_once = narrow_memory || blackwell ? 4 : 8;

  struct Args {
    LayerInput input;
    double* to;  // sums of chunks, or where the only one is added
    std::int64_t* counts;
    u32 groups;  // of columns
    u64 pieces;  // chunks times groups
    bool alone;  // is there one chunk?
  };
  struct Shared {
    double runs[square_runs][Inputs::width][33];  // neighbouring columns in banks of their own
  };

  static BITTERSWEET_DEVICE void body(const Args& args, Shared& shared) {
    const LayerInput& input = args.input;
    for (u64 piece = blockIdx.x; piece < args.pieces; piece += gridDim.x) {
      const auto chunk = static_cast<std::int64_t>(piece / args.groups);
      const u32 group = static_cast<u32>(piece % args.groups);
      const std::int64_t first = std::int64_t{group} * columns;
      const std::int64_t begin = chunk * SquareSums::chunk + warp_id() * square_run;
      const std::int64_t left = input.rows - begin;
      const u32 rows = static_cast<u32>(left < 0 ? 0 : left < square_run ? left : square_run);
      const u32 live = rows_that_count(input, begin, rows);
      if (group == 0 && lane_id() == 0 && live != 0) add(args.counts, static_cast<std::int64_t>(__popc(live)));
      const std::int64_t column = first + lane_id() * Inputs::width;
      double sums[Inputs::width] = {};
      if (column < input.columns) add_run(input, begin, column, live, sums);
      count_bad(args, begin, column, live, sums);
#pragma unroll
      for (int i = 0; i < Inputs::width; ++i) shared.runs[warp_id()][i][lane_id()] = sums[i];
      __syncthreads();
      for (u32 c = threadIdx.x; c < columns && first + c < input.columns; c += threads) {
        double sum = 0;
        for (u32 run = 0; run < square_runs; ++run) sum += shared.runs[run][c % Inputs::width][c / Inputs::width];
        if (args.alone)
          args.to[first + c] += sum;
        else
          args.to[chunk * input.columns + first + c] = sum;
      }
      __syncthreads();
    }
  }

  // A bit for each row of the run that counts, in all lanes.
  static BITTERSWEET_DEVICE u32 rows_that_count(const LayerInput& input, std::int64_t begin, u32 rows) {
    return __ballot_sync(everyone, lane_id() < rows && input.counts(begin + lane_id()));
  }

  static BITTERSWEET_DEVICE void add_run(const LayerInput& input, std::int64_t begin, std::int64_t column, u32 live,
                                         double (&sums)[Inputs::width]) {
    std::int64_t turn = input.times == nullptr ? 0 : begin % input.period;
    for (u32 row = 0; row < square_run; row += at_once) {
      Inputs x[at_once];
#pragma unroll
      for (u32 r = 0; r < at_once; ++r)
        if ((live >> (row + r) & 1u) != 0) x[r].read(input, (begin + row + r) * input.columns + column);
#pragma unroll
      for (u32 r = 0; r < at_once; ++r) {
        const std::int64_t at = turn;
        if (++turn >= input.period) turn = 0;
        if ((live >> (row + r) & 1u) == 0) continue;
        if (input.times == nullptr) {  // the product is exact: one rounding either way
#pragma unroll
          for (int i = 0; i < Inputs::width; ++i) sums[i] = ::fma(double{x[r][i]}, double{x[r][i]}, sums[i]);
        } else {
          const double times = input.times[at];
#pragma unroll
          for (int i = 0; i < Inputs::width; ++i) sums[i] += double{x[r][i]} * double{x[r][i]} * times;
        }
      }
    }
  }

  // Squares of finite floats stay finite, added up too: only where a sum did not is anything looked at again.
  static BITTERSWEET_DEVICE void count_bad(const Args& args, std::int64_t begin, std::int64_t column, u32 live,
                                           const double (&sums)[Inputs::width]) {
    bool finite = true;
    for (int i = 0; i < Inputs::width; ++i) finite = finite && ::fabs(sums[i]) < HUGE_VAL;
    if (__ballot_sync(everyone, !finite) == 0) return;
    u32 bad = 0;
    for (u32 row = 0; row < square_run && !finite; ++row) {
      if ((live >> row & 1u) == 0) continue;
      const std::int64_t at = (begin + row) * args.input.columns + column;
      for (int i = 0; i < Inputs::width; ++i)
        bad += !(::fabsf(load_as_float(args.input.x.data, args.input.x.dtype, at + i)) < HUGE_VALF);
    }
    add_warp(args.counts + 1, bad);
  }
};

// Adds up chunks to bands, a warp a band of 32 columns, and bands to the sums.
struct AddChunks {
  static constexpr u32 threads = 256, blocks = 4;
  struct Args {
    const double* chunks;
    double* sums;
    std::int64_t columns, count;  // of chunks
  };
  struct Shared {
    double bands[threads / 32][32];
  };

  static BITTERSWEET_DEVICE void body(const Args& args, Shared& shared) {
    constexpr u32 warps = threads / 32;
    for (std::int64_t first = std::int64_t{blockIdx.x} * 32; first < args.columns;
         first += std::int64_t{gridDim.x} * 32) {
      const std::int64_t column = first + lane_id();
      const bool there = column < args.columns;
      double total = there && warp_id() == 0 ? args.sums[column] : 0.0;
      for (std::int64_t from = 0; from < args.count; from += warps * band_chunks) {
        const std::int64_t begin = from + warp_id() * band_chunks;
        double sum = 0;
        if (there) {
#pragma unroll 8
          for (u32 chunk = 0; chunk < band_chunks; ++chunk)
            if (begin + chunk < args.count) sum += args.chunks[(begin + chunk) * args.columns + column];
        }
        shared.bands[warp_id()][lane_id()] = sum;
        __syncthreads();
        if (warp_id() == 0)
          for (u32 band = 0; band < warps && from + band * band_chunks < args.count; ++band)
            total += shared.bands[band][lane_id()];
        __syncthreads();
      }
      if (there && warp_id() == 0) args.sums[column] = total;
    }
  }
};

inline std::int64_t chunks_of(std::int64_t rows) { return (rows + SquareSums::chunk - 1) / SquareSums::chunk; }

inline std::size_t square_bytes(std::int64_t rows, std::int64_t columns) {
  const std::int64_t chunks = chunks_of(rows);
  return chunks > 1 ? static_cast<std::size_t>(chunks * columns) * sizeof(double) : 0;
}

inline void check_calibration(const LayerInput& input, const SquareSums& to, const void* workspace,
                              std::size_t workspace_bytes) {
  check_squares(input, to);
  const std::size_t needed = square_bytes(input.rows, input.columns);
  if (needed > 0 && (workspace == nullptr || workspace_bytes < needed))
    throw ArgumentError("workspace_bytes: " + std::to_string(workspace_bytes) + "; this call needs " +
                        std::to_string(needed) + " (calibration_workspace_bytes)");
  if (needed > 0 && reinterpret_cast<std::uintptr_t>(workspace) % sizeof(double) != 0)
    throw LayoutError("workspace: its address is not a multiple of 8");
}

template <class Inputs, class L>
void sum_squares(L& launcher, const LayerInput& input, const SquareSums& to, double* chunks) {
  using K = SumSquares<Inputs>;
  const std::int64_t count = chunks_of(input.rows);
  const std::int64_t groups = std::max<std::int64_t>((input.columns + K::columns - 1) / K::columns, 1);  // rows count
  const auto pieces = static_cast<u64>(count * groups);
  launcher.template launch<K>(
      grid_for<K>(pieces, launcher.processors()),
      {input, count > 1 ? chunks : to.sums, to.counts, static_cast<u32>(groups), pieces, count == 1});
  if (count > 1)
    launcher.template launch<AddChunks>(
        grid_for<AddChunks>(static_cast<u64>(input.columns + 31) / 32, launcher.processors()),
        {chunks, to.sums, input.columns, count});
}

template <class L>
void add_squares(L& launcher, const LayerInput& input, const SquareSums& to, void* workspace) {
  if (input.rows == 0) return;
  auto* const chunks = static_cast<double*>(workspace);
  const auto at = reinterpret_cast<std::uintptr_t>(input.x.data);
  if (const int width = input.x.dtype == DType::f32 ? 4 : 8; at % 16 != 0 || input.columns % width != 0)
    return sum_squares<SingleInput>(launcher, input, to, chunks);
  if (input.x.dtype == DType::f32) return sum_squares<SquaredInputs<DType::f32, 4>>(launcher, input, to, chunks);
  if (input.x.dtype == DType::bf16) return sum_squares<SquaredInputs<DType::bf16, 8>>(launcher, input, to, chunks);
  sum_squares<SquaredInputs<DType::f16, 8>>(launcher, input, to, chunks);
}

}  // namespace bittersweet::cuda
