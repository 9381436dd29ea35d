// Delta matrices of the CUDA engine on the emulator against the reference engine, bit by bit.
#include <gtest/gtest.h>

#include "bittersweet/cuda_sparse.hpp"
#include "bittersweet/error.hpp"
#include "bittersweet/mask/bit_layout.hpp"
#include "sparse/delta_matrices.hpp"
#include "support/simt/emulated.hpp"

namespace bittersweet::test {
namespace {

using Bytes = std::vector<std::byte>;

// Everything that is written begins as rubbish.
sparse::PackedDelta emulated_pack(const Matrix& matrix, const std::uint64_t* keep = nullptr,
                                  std::int64_t* lost = nullptr, std::uint64_t seed = 1) {
  const DenseMatrix dense = matrix.view();
  EmulatedCuda engine(seed);
  sparse::PackedDelta made{.rows = dense.rows, .columns = dense.columns, .dtype = dense.elements.dtype};
  const auto groups = static_cast<std::size_t>(delta::groups(dense.rows, dense.columns));
  made.offsets.assign(groups + 2, ~std::uint64_t{0});
  engine.count_delta(dense, keep, made.offsets.data(), lost);
  made.codes.assign(32 * (groups + made.offsets[groups]), 0xa5);
  made.values.assign(32 * made.offsets[groups] * size_of(made.dtype), std::byte{0xa5});
  engine.pack_delta(dense, keep, made.offsets.data(), made.codes.data(), made.values.data());
  return made;
}

Bytes emulated_unpack(const sparse::PackedDelta& packed, std::int64_t first_row, std::int64_t rows,
                      std::uint64_t seed = 1) {
  Bytes out(static_cast<std::size_t>(rows * packed.columns) * size_of(packed.dtype), std::byte{0x5a});
  EmulatedCuda(seed).unpack_delta(packed.view(), first_row, rows, out.data());
  return out;
}

// multiply_by() takes it for an engine.
struct Emulated {
  std::uint64_t seed = 1;
  void multiply_delta(const DeltaMatrix& packed, const StripProduct& product, Workspace&) const {
    const std::int64_t each = packed.columns > 0 ? 2 : 1;  // launches for 16 columns of the batch
    EXPECT_EQ(EmulatedCuda(seed).multiply_delta(packed, product),
              packed.rows > 0 ? each * ((product.batch + 15) / 16) : 0);
  }
};

void expect_same_products(const sparse::PackedDelta& packed, const Vectors& x, std::int64_t batch, DType out,
                          const Vectors* bias = nullptr, std::uint64_t seed = 1) {
  EXPECT_EQ(multiply_by(ReferenceDelta{}, packed, x, batch, out, bias),
            multiply_by(Emulated{seed}, packed, x, batch, out, bias))
      << "batch " << batch;
}

TEST(CudaDelta, PacksAsTheReferenceAndBack) {
  for (const Matrix& matrix : delta_matrices()) {
    SCOPED_TRACE(matrix.name);
    const sparse::PackedDelta packed = pack_by(ReferenceDelta{}, matrix.view());
    expect_same(packed, emulated_pack(matrix));
    EXPECT_EQ(emulated_unpack(packed, 0, matrix.rows), matrix.bytes);
    if (matrix.rows > 512) {
      const auto row = static_cast<std::ptrdiff_t>(static_cast<std::size_t>(matrix.columns) * size_of(matrix.type));
      const Bytes middle(matrix.bytes.begin() + 256 * row, matrix.bytes.begin() + 512 * row);
      const Bytes end(matrix.bytes.begin() + 512 * row, matrix.bytes.end());
      EXPECT_EQ(emulated_unpack(packed, 256, 256), middle);
      EXPECT_EQ(emulated_unpack(packed, 512, matrix.rows - 512), end);
    }
  }
}

TEST(CudaDelta, ManyGroupsAreSummedBlockByBlock) {
  const Matrix matrix = random_matrix(DType::bf16, 16500, 2, 0.6, 5);
  expect_same(pack_by(ReferenceDelta{}, matrix.view()), emulated_pack(matrix));
}

TEST(CudaDelta, KeepBitsDecideAndLostElementsAreCounted) {
  for (const DType type : types)
    for (const auto& [rows, columns] : {std::pair<std::int64_t, std::int64_t>{40, 300}, {5, 64}, {290, 70}}) {
      const Matrix matrix = random_matrix(type, rows, columns, 0.9, 3);
      std::vector<std::uint64_t> keep(static_cast<std::size_t>(bits::words(rows * columns)));
      Generator random(5);
      for (std::int64_t i = 0; i < rows * columns; ++i)  // some kept elements are 0
        if (matrix.at(i / columns, i % columns) != 0.0f || random.uniform() < 0.1) bits::set(keep.data(), i);
      std::int64_t lost = -7;
      const sparse::PackedDelta found = emulated_pack(matrix, keep.data(), &lost);
      expect_same(pack_by(ReferenceDelta{}, matrix.view(), keep.data()), found);
      EXPECT_EQ(lost, 0);
      EXPECT_EQ(emulated_unpack(found, 0, rows), matrix.bytes);
      std::int64_t dropped = 0;
      for (std::int64_t i = 0; i < rows * columns && dropped < 3; ++i)
        if (matrix.at(i / columns, i % columns) != 0.0f) bits::clear(keep.data(), i), ++dropped;
      emulated_pack(matrix, keep.data(), &lost);
      EXPECT_EQ(lost, dropped);
    }
}

// Packing what was not counted writes nothing beyond the room that was counted.
TEST(CudaDelta, WhatHasChangedSinceIsWrittenIntoItsRoom) {
  const Matrix before = random_matrix(DType::f32, 300, 400, 0.97, 3), after = random_matrix(DType::f32, 300, 400, 0, 4);
  sparse::PackedDelta packed = pack_by(ReferenceDelta{}, before.view());
  const std::vector<std::uint64_t> offsets = packed.offsets;
  const std::size_t codes = packed.codes.size(), values = packed.values.size();
  packed.codes.insert(packed.codes.end(), 4096, 0xee);
  packed.values.insert(packed.values.end(), 4096, std::byte{0xee});
  EmulatedCuda().pack_delta(after.view(), nullptr, offsets.data(), packed.codes.data(), packed.values.data());
  for (std::size_t i = 0; i < 4096; ++i) {
    ASSERT_EQ(packed.codes[codes + i], 0xee);
    ASSERT_EQ(packed.values[values + i], std::byte{0xee});
  }
  EXPECT_EQ(packed.offsets, offsets);
}

TEST(CudaDelta, MultipliesWithTheReferencesBits) {
  for (const Matrix& matrix : delta_matrices()) {
    SCOPED_TRACE(matrix.name);
    const sparse::PackedDelta packed = pack_by(ReferenceDelta{}, matrix.view());
    for (const std::int64_t batch : {1, 2, 3, 16}) {
      const Vectors x = random_vectors(matrix.type, batch * matrix.columns, 17);
      const Vectors bias = random_vectors(matrix.type, matrix.rows, 18);
      expect_same_products(packed, x, batch, matrix.type);
      expect_same_products(packed, x, batch, DType::f32, &bias, 2);
    }
  }
}

TEST(CudaDelta, EveryBatch) {
  for (const DType type : types) {
    const sparse::PackedDelta packed = pack_by(ReferenceDelta{}, random_matrix(type, 270, 300, 0.9, 2).view());
    for (std::int64_t batch = 0; batch <= 35; ++batch)
      expect_same_products(packed, random_vectors(type, batch * 300, 4), batch, type);
  }
}

TEST(CudaDelta, TypesOfXYAndBiasAreTheirOwn) {
  for (const DType w : types)
    for (const DType in : types)
      for (const DType out : types) {
        const sparse::PackedDelta packed = pack_by(ReferenceDelta{}, random_matrix(w, 75, 350, 0.9, 2).view());
        const Vectors x = random_vectors(in, 3 * 350, 4), bias = random_vectors(out, 75, 6);
        expect_same_products(packed, x, 3, out, &bias);
      }
}

// Underflow and overflow inside of products; sums that end as -0.
TEST(CudaDelta, ExtremeScalesGiveTheReferencesBits) {
  for (const DType type : {DType::bf16, DType::f32})
    for (const double scale : {1e-38, 1e-25, 1e19, 3e37}) {
      Generator random(8);
      const Matrix matrix = matrix_of("extreme", type, 40, 330, [&](auto, auto) {
        return random.uniform() < 0.9 ? 0u : bits_of(static_cast<float>(random.normal() * scale), type);
      });
      const sparse::PackedDelta packed = pack_by(ReferenceDelta{}, matrix.view());
      for (const std::int64_t batch : {1, 2, 16}) {
        const Vectors x = random_vectors(type, batch * 330, 9, scale < 1 ? 1e-10 : 10.0);
        expect_same_products(packed, x, batch, DType::f32);
      }
    }
}

// Infinities and NaN of x reach the rows that store their column, and no others.
TEST(CudaDelta, NumbersThatAreNoneReachTheSumsThatTheyMeet) {
  for (const DType type : types) {
    const Matrix matrix = random_matrix(type, 280, 520, 0.95, 4);
    const sparse::PackedDelta packed = pack_by(ReferenceDelta{}, matrix.view());
    const float strange[] = {infinity, -infinity, not_a_number, -0.0f};
    for (const std::int64_t batch : {1, 5, 16}) {
      Vectors x = random_vectors(type, batch * 520, 5);
      for (std::size_t i = 0; i < 4; ++i) {
        const std::uint32_t bits = bits_of(strange[i], type);
        std::memcpy(x.bytes.data() + (130 * i + 5) * size_of(type), &bits, size_of(type));
      }
      expect_same_products(packed, x, batch, DType::f32);
      const Bytes y = multiply_by(Emulated{}, packed, x, batch, DType::f32);
      for (std::int64_t row = 0; row < 280; ++row) {
        const bool meets = matrix.at(row, 5) != 0 || matrix.at(row, 135) != 0 || matrix.at(row, 265) != 0;
        EXPECT_EQ(std::isfinite(load_as_float(y.data(), DType::f32, row)), !meets) << row;
      }
    }
  }
}

TEST(CudaDelta, AnyOrderOfThreads) {
  const Matrix matrix = random_matrix(DType::bf16, 290, 600, 0.9, 2);
  const sparse::PackedDelta packed = pack_by(ReferenceDelta{}, matrix.view());
  const Vectors x = random_vectors(DType::bf16, 5 * 600, 3);
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    expect_same(packed, emulated_pack(matrix, nullptr, nullptr, seed));
    EXPECT_EQ(emulated_unpack(packed, 0, 290, seed), matrix.bytes) << seed;
    expect_same_products(packed, x, 5, DType::bf16, nullptr, seed);
  }
}

// Small enough for accesses that are watched one by one.
TEST(CudaDelta, EveryKernelWatched) {
  for (const DType type : types) {
    const Matrix matrix = random_matrix(type, 290, 300, 0.9, 2);
    std::vector<std::uint64_t> keep(static_cast<std::size_t>(bits::words(290 * 300)), ~std::uint64_t{0});
    for (std::int64_t i = 0; i < 290 * 300; ++i)
      if (matrix.at(i / 300, i % 300) == 0.0f && i % 17 != 0) bits::clear(keep.data(), i);
    std::int64_t lost = -1;
    const sparse::PackedDelta packed = emulated_pack(matrix, keep.data(), &lost);
    EXPECT_EQ(lost, 0);
    expect_same(pack_by(ReferenceDelta{}, matrix.view(), keep.data()), packed);
    EXPECT_EQ(emulated_unpack(packed, 0, 290), matrix.bytes);
    for (const std::int64_t batch : {1, 2, 4, 8, 16})
      expect_same_products(packed, random_vectors(type, batch * 300, 4), batch, type);
  }
}

TEST(CudaDelta, RefusesWhatDoesNotFit) {
  const Matrix matrix = random_matrix(DType::f32, 300, 50, 0.5, 4);
  const sparse::PackedDelta packed = pack_by(ReferenceDelta{}, matrix.view());
  std::vector<std::uint8_t> codes(packed.codes.size());
  std::vector<std::uint64_t> offsets(packed.offsets.size()), keep(300);
  std::vector<float> out(15000), x(50), y(300);
  EmulatedCuda engine;
  const auto count = [&](const DenseMatrix& dense) { engine.count_delta(dense, nullptr, offsets.data(), nullptr); };
  EXPECT_THROW(count({{nullptr, DType::f32}, 2, 2}), LayoutError);
  EXPECT_THROW(count({{}, 2, 2}), DTypeError);
  EXPECT_THROW(count({matrix.view().elements, -1, 2}), ShapeError);
  EXPECT_THROW(engine.count_delta(matrix.view(), nullptr, nullptr, nullptr), LayoutError);
  EXPECT_THROW(engine.count_delta(matrix.view(), keep.data(), offsets.data(), nullptr), ArgumentError);
  const auto pack = [&](const std::uint64_t* places, std::uint8_t* to, void* values) {
    engine.pack_delta(matrix.view(), nullptr, places, to, values);
  };
  EXPECT_THROW(pack(nullptr, codes.data(), out.data()), LayoutError);
  EXPECT_THROW(pack(packed.offsets.data(), nullptr, out.data()), LayoutError);
  EXPECT_THROW(pack(packed.offsets.data(), codes.data(), reinterpret_cast<char*>(out.data()) + 2), LayoutError);
  const DeltaMatrix good = packed.view();
  DeltaMatrix shifted = good;
  shifted.values.data = static_cast<char*>(shifted.values.data) + 2;
  EXPECT_THROW(engine.unpack_delta(shifted, 0, 300, out.data()), LayoutError);
  EXPECT_THROW(engine.unpack_delta(good, 16, 256, out.data()), ShapeError);
  EXPECT_THROW(engine.unpack_delta(good, 256, 256, out.data()), ShapeError);
  EXPECT_THROW(engine.unpack_delta(good, 0, 256, nullptr), LayoutError);
  EXPECT_THROW(engine.multiply_delta(good, {.x = view(x.data())}), DTypeError);
  EXPECT_THROW(engine.multiply_delta(good, {.x = view(x.data()), .y = {nullptr, DType::f32}}), LayoutError);
  EXPECT_THROW(engine.multiply_delta(good, {.x = view(x.data()), .y = view(y.data()), .batch = -1}), ShapeError);
  EXPECT_THROW(engine.multiply_delta(shifted, {.x = view(x.data()), .y = view(y.data())}), LayoutError);
  EXPECT_THROW(engine.multiply_delta(good, {.x = view(x.data()), .y = view(y.data())}, 4), ArgumentError);
  EXPECT_EQ(offsets, std::vector<std::uint64_t>(packed.offsets.size()));
  EXPECT_EQ(codes, std::vector<std::uint8_t>(packed.codes.size()));
  EXPECT_EQ(y, std::vector<float>(300));
}

}  // namespace
}  // namespace bittersweet::test
