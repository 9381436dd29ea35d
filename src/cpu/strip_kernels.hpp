// What one instruction set offers for packed matrices: functions over one strip, and over one panel of delta matrices.
// Filled by verbs_strips_*.cpp, chosen by strip_isa.cpp. Whole matrices and threads are engine_sparse.cpp's business.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bittersweet/sparse/packed_matrix.hpp"
#include "cpu/delta_kernels.hpp"

namespace bittersweet::cpu {

inline constexpr int most_columns = 8;  // of the batch in one pass over a strip

// A strip's place in memory. `values` points to its first.
struct Strip {
  const std::uint32_t* masks;
  const void* values;
  std::int64_t tiles;
};

struct CountedStrip {
  std::uint64_t live = 0;
  std::int64_t lost = 0;  // elements with bits that the mask drops
};

// Products of bf16 by a matrix unit, in an order of its own. A block is 16 columns of the batch.
struct TileKernels {
  // One strip by one or two blocks: out[column][row].
  void (*multiply_few)(const Strip&, const std::uint32_t* x, int blocks, float* out);
  // Its elements, tile by tile, to 32 * 16 * tiles of them, aligned to 64 bytes.
  void (*decode)(const Strip&, void* out);
  // Two decoded strips by two blocks: out[strip][block][column][row].
  void (*multiply_decoded)(const void* first, const void* second, std::int64_t tiles, const std::uint32_t* x,
                           float* out);
  // A block of x, of which `rows` columns of the batch are there, as 256 words a tile.
  void (*arrange)(const std::uint16_t* x, std::int64_t rows, std::int64_t columns, std::uint32_t* out);
};

// Products with few columns of the batch, 1 to most_columns. Lanes are columns of the matrix.
struct LaneKernels {
  std::int64_t words_per_tile;  // of 32 bits, of a column of x
  // A row of x as `multiply` reads it for values of `type`; its tiles lie `stride` words apart, and the last is padded
  // with 0.
  void (*arrange)(const TensorView& x, std::int64_t first, std::int64_t columns, DType type, std::int64_t stride,
                  void* out);
  // Sums of 16 rows: out[b][i]. Tile t of column b begins at word (t * batch + b) * words_per_tile of x.
  void (*multiply)(const Strip&, DType type, const void* x, int batch, float* out);
};

// Products with many columns of the batch, in an order of their own. A panel is some tiles of a strip, decoded to
// words of 32 bits; a chunk is all of x for some columns of the batch, `width` of them.
struct PanelKernels {
  std::int64_t least_batch;     // for which it is faster
  std::int64_t step;            // a width is a multiple of it
  std::int64_t most_width;      // and no more than this
  std::int64_t words_per_tile;  // of a row
  std::int64_t most_tiles;      // of a panel
  // Rows first .. first + count of x as a chunk of tiles * words_per_tile * width words, padded with 0, for weights of
  // `type`.
  void (*arrange)(const TensorView& x, std::int64_t first, std::int64_t count, std::int64_t columns, DType type,
                  std::int64_t width, void* out);
  // A panel from its masks and the first of its values, which moves behind its last.
  void (*decode)(const std::uint32_t* masks, DType type, std::int64_t tiles, const void** values, void* out);
  // Adds a panel times the chunk's words for its tiles: sums[row][column].
  void (*multiply)(const void* panel, const void* x, std::int64_t tiles, std::int64_t width, float* sums);
  // Those sums as out[column][row].
  void (*turn)(const float* sums, std::int64_t width, float* out);

  std::int64_t panel_words() const { return most_tiles * words_per_tile * strips::height; }
};

// Products of bf16 by bf16, two of them at a time, in an order of their own; denormals are 0 to them.
struct PairKernels {
  LaneKernels lanes;
  PanelKernels panels;
};

struct StripKernels {
  const char* name;
  CountedStrip (*count)(const DenseMatrix&, const std::uint64_t* keep, std::int64_t strip, std::uint32_t* masks);
  // Writes a strip's values, and nothing behind the last of them.
  void (*pack)(const DenseMatrix&, std::int64_t strip, const std::uint32_t* masks, void* values, std::int64_t live);
  // Writes a strip's rows to `out`, which begins with the strip's first row.
  void (*unpack)(const Strip&, DType type, std::int64_t rows, std::int64_t columns, void* out);
  LaneKernels lanes;  // in the order of the contract
  // Sums of a strip's rows, out[b][i], for `batch` columns of y from the first on, with the bias, as y stores them.
  void (*store)(const StripProduct&, std::int64_t rows, std::int64_t strip, std::int64_t first, std::int64_t batch,
                const float* sums);
  const TileKernels* tiles;    // null: there is no matrix unit
  const PanelKernels* panels;  // null: there is nothing faster than `lanes`
  const PairKernels* pairs;    // null: bf16 is multiplied as floats
  DeltaKernels delta;
};

const StripKernels& strip_kernels_portable();
const StripKernels& strip_kernels_v3();
const StripKernels& strip_kernels_v4();
const StripKernels& strip_kernels_v4_vbmi2();
const StripKernels& strip_kernels_v4_amd();
const StripKernels& strip_kernels_amx();

// The best that this machine runs. Where BITTERSWEET_CPU_ISA names an instruction set: the best that needs no other.
const StripKernels& strip_kernels();

std::vector<std::string> usable_strip_isas();

// One of them, for tests. Throws ArgumentError.
const StripKernels& strip_kernels_of(const std::string& name);

}  // namespace bittersweet::cpu
