// Packed matrices on a device, in both layouts: the strips of sparse/strip_layout.hpp and the delta of
// sparse/delta_layout.hpp, packed, unpacked and multiplied where they lie. The promises of cuda.hpp hold: everything is
// enqueued on the caller's stream, nothing is allocated or waited for, a call can be captured. Pointers are device
// memory, the values of strips at a multiple of 16 bytes.
//
// Same bits as the CPU engine, sums included (engine/sparse.hpp), whatever the batch: the order of a sum is that of the
// contract, `reproducible` or not.
#pragma once

#include <cstddef>
#include <cstdint>

#include "bittersweet/cuda.hpp"
#include "bittersweet/engine/sparse.hpp"

namespace bittersweet::cuda {

// First half of packing: writes strips::words(rows, columns) masks and strips::count(rows) + 1 offsets, the last of
// which is the number of values: who wants to allocate room for them copies it to the host. Which elements are stored:
// those that `keep` keeps (mask/bit_layout.hpp, flat row-major index), without it those whose bits are not all 0.
// *lost becomes the number of elements that have bits although `keep` has none for them: unless it is 0, packing loses
// them. It may be null without `keep`.
//
// All functions throw ShapeError, DTypeError or LayoutError for what the host can see, before anything is enqueued.
void count_strips(const Queue& queue, const DenseMatrix& dense, const std::uint64_t* keep, std::uint32_t* masks,
                  std::uint64_t* offsets, std::int64_t* lost);

// Second half: writes the values of a matrix that was counted, as many as the last offset says.
void pack_strips(const Queue& queue, const DenseMatrix& dense, const std::uint32_t* masks, const std::uint64_t* offsets,
                 void* values);

// Rows first_row .. first_row + rows of the dense matrix, bit for bit. first_row is a multiple of 16; rows too, or they
// end with the matrix.
void unpack_strips(const Queue& queue, const PackedMatrix& packed, std::int64_t first_row, std::int64_t rows,
                   void* out);

// y = x * transposed matrix + bias, the packed bytes read once for each 16 columns of the batch. x, y and bias are f32,
// bf16 or f16, each on its own. Up to strips::slack elements behind the last value are read.
void multiply_strips(const Queue& queue, const PackedMatrix& packed, const StripProduct& product);

// The same for delta. The first half writes delta::groups(rows, columns) + 2 offsets, the last two of which say how
// many steps and how many values there are: who allocates codes and values copies them to the host.
void count_delta(const Queue& queue, const DenseMatrix& dense, const std::uint64_t* keep, std::uint64_t* offsets,
                 std::int64_t* lost);

// Second half: writes the codes and values, as many as the offsets speak of, and none beyond. Where the matrix or
// `keep` is not what was counted they are of no use, and nobody is told.
void pack_delta(const Queue& queue, const DenseMatrix& dense, const std::uint64_t* keep, const std::uint64_t* offsets,
                std::uint8_t* codes, void* values);

// As unpack_strips; first_row is a multiple of 256, and rows too unless they end with the matrix.
void unpack_delta(const Queue& queue, const DeltaMatrix& packed, std::int64_t first_row, std::int64_t rows, void* out);

// Of multiply_delta: 4 bytes for each row, block of columns and column of the batch, of which 16 count at most.
std::size_t delta_workspace_bytes(std::int64_t rows, std::int64_t columns, std::int64_t batch);

// As multiply_strips. Throws ArgumentError for a smaller workspace too; it is at a multiple of 4 bytes.
void multiply_delta(const Queue& queue, const DeltaMatrix& packed, const StripProduct& product, void* workspace,
                    std::size_t workspace_bytes);

}  // namespace bittersweet::cuda
