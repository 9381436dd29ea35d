// The verbs of packed matrices: what an engine does with zeros that are not stored.
//
// Contracts, beside those of engine.hpp: elements are f32, bf16 or f16 and are moved as bits, so that NaN payloads, -0
// and denormals survive packing. Sums are f32 and of one order. That of strips:
//
//   every row has 16 partial sums that begin at +0; column after column, padded ones included, adds
//   sum[lane_of(type, column % 32)] = fma(w, x, sum[...]), with w = +0 where the bit is 0;
//   then sum[j] += sum[j + 8] for j below 8, and so on with 4, 2 and 1; then the bias, if there is one; the result is
//   rounded to the type of y, and a NaN becomes the quiet one without a payload.
//
// So, but for products that are not to be reproducible, all engines give the same bits, whatever the number of threads
// and the batch. In that order the error of a row is at most (columns / 16 + 6) * 2^-24 * sum(|w x|) + columns *
// 2^-149, before the rounding to the type of y. The others add a row's products in any order that the threads do not
// change, with an error of at most (columns + 6) * 2^-24 * sum(|w x|).
//
// That of delta:
//
//   every row begins at +0; block after block of its columns (sparse/delta_layout.hpp), a partial sum begins at +0,
//   value after stored value makes sum = fma(w, x, sum), and the partial sum is added to the row's;
//   then the bias, the rounding to the type of y and NaN as above.
//
// All engines give the same bits here too, for every product. What is not stored is not multiplied: infinities and NaN
// of x reach the rows that have a value in their column. The error of a row is at most (width + blocks + 1) * 2^-24 *
// sum(|w x|) / (1 - that) + columns * 2^-149.
#pragma once

#include <concepts>
#include <cstdint>
#include <span>

#include "bittersweet/engine/workspace.hpp"
#include "bittersweet/sparse/packed_matrix.hpp"
#include "bittersweet/sparse/row_bitmask.hpp"

namespace bittersweet {

template <class E>
concept SparseEngine =
    requires(E& engine, const DenseMatrix& dense, const PackedMatrix& packed, const StripProduct& product,
             const RowMatrix& rows, std::uint64_t* offsets, const std::uint64_t* keep, std::uint32_t* masks,
             std::span<std::uint64_t> counts, void* out, std::int64_t first, Workspace& workspace) {
      // Writes the masks of all tiles, and counts[s] = the values of strip s. A bit is set where `keep` has it
      // (mask/bit_layout.hpp, flat row-major index), without `keep` where an element's bits are not all 0.
      // Returns how many elements have bits although `keep` has none for them.
      { engine.count_strips(dense, keep, masks, counts) } -> std::same_as<std::int64_t>;

      // Writes the values of a matrix whose masks and offsets are known.
      engine.pack_strips(dense, packed, out);

      // Strips first, first + 1, ... of the dense matrix, n = first of them; `out` begins with the first row of these.
      engine.unpack_strips(packed, first, first, out);

      // The same matrix in row order: writes all three arrays of `rows`, whose shape and type are those of `packed`.
      engine.repack_rows(packed, rows);

      // Back: writes all masks, offsets and values of strips. `rows` is as row_bitmask.hpp says.
      engine.repack_rows(rows, masks, offsets, out);

      // y of `product`; its arrays overlap nothing.
      engine.multiply_strips(packed, product, workspace);
    };

struct DeltaCount {
  std::int64_t live = 0;  // values to store
  std::int64_t lost = 0;  // elements that have bits although `keep` has none for them
};

template <class E>
concept DeltaEngine = requires(E& engine, const DenseMatrix& dense, const DeltaMatrix& packed,
                               const StripProduct& product, const std::uint64_t* keep, std::span<std::uint64_t> steps,
                               std::uint8_t* codes, void* out, std::int64_t first, Workspace& workspace) {
  // Writes steps[g], the steps of group g. What is stored is decided as by count_strips.
  { engine.count_delta(dense, keep, steps) } -> std::same_as<DeltaCount>;

  // Writes the codes and values of a matrix whose offsets are known. False, with neither of use, where `dense` and
  // `keep` are not those that were counted.
  { engine.pack_delta(dense, keep, packed, codes, out) } -> std::same_as<bool>;

  // Panels first, first + 1, ... of the dense matrix, n = first of them; `out` begins with the first row of these.
  engine.unpack_delta(packed, first, first, out);

  // y of `product`; its arrays overlap nothing.
  engine.multiply_delta(packed, product, workspace);
};

}  // namespace bittersweet
