// Packed matrices of the CUDA engine on the emulator against the reference engine, bit by bit.
#include "bittersweet/cuda_sparse.hpp"

#include <gtest/gtest.h>

#include <numeric>

#include "bittersweet/engine/reference_sparse.hpp"
#include "bittersweet/error.hpp"
#include "bittersweet/mask/bit_layout.hpp"
#include "bittersweet/sparse.hpp"
#include "sparse/matrices.hpp"
#include "support/simt/emulated.hpp"

namespace bittersweet::test {
namespace {

using Bytes = std::vector<std::byte>;

sparse::Packed reference_pack(const Matrix& matrix, const std::uint64_t* keep = nullptr) {
  const DenseMatrix dense = matrix.view();
  sparse::Packed made{.rows = dense.rows, .columns = dense.columns, .dtype = dense.elements.dtype};
  made.masks.resize(static_cast<std::size_t>(strips::words(dense.rows, dense.columns)));
  made.offsets.resize(static_cast<std::size_t>(strips::count(dense.rows) + 1));
  ReferenceSparse().count_strips(dense, keep, made.masks.data(), std::span(made.offsets).subspan(1));
  std::partial_sum(made.offsets.begin(), made.offsets.end(), made.offsets.begin());
  made.values.assign((made.offsets.back() + strips::slack) * size_of(made.dtype), std::byte{0xa5});
  ReferenceSparse().pack_strips(dense, made.view(), made.values.data());
  return made;
}

// Everything that is written begins as rubbish, and what lies behind the last value stays it.
sparse::Packed emulated_pack(const Matrix& matrix, const std::uint64_t* keep = nullptr, std::int64_t* lost = nullptr,
                             std::uint64_t seed = 1) {
  const DenseMatrix dense = matrix.view();
  EmulatedCuda engine(seed);
  sparse::Packed made{.rows = dense.rows, .columns = dense.columns, .dtype = dense.elements.dtype};
  made.masks.assign(static_cast<std::size_t>(strips::words(dense.rows, dense.columns)), 0xdeadbeef);
  made.offsets.assign(static_cast<std::size_t>(strips::count(dense.rows) + 1), ~std::uint64_t{0});
  engine.count_strips(dense, keep, made.masks.data(), made.offsets.data(), lost);
  made.values.assign((made.offsets.back() + strips::slack) * size_of(made.dtype), std::byte{0xa5});
  engine.pack_strips(dense, made.masks.data(), made.offsets.data(), made.values.data());
  return made;
}

Bytes emulated_unpack(const sparse::Packed& packed, std::int64_t first_row, std::int64_t rows, std::uint64_t seed = 1) {
  Bytes out(static_cast<std::size_t>(rows * packed.columns) * size_of(packed.dtype), std::byte{0x5a});
  EmulatedCuda(seed).unpack_strips(packed.view(), first_row, rows, out.data());
  return out;
}

struct Product {
  const sparse::Packed& packed;
  const Vectors& x;
  std::int64_t batch;
  DType out;
  const Vectors* bias = nullptr;

  template <class F>
  Bytes by(F&& multiply) const {
    Bytes y(static_cast<std::size_t>(batch * packed.rows) * size_of(out), std::byte{0x77});
    multiply(
        packed.view(),
        StripProduct{.x = x.view(), .y = {y.data(), out}, .batch = batch, .bias = bias ? bias->view() : TensorView{}});
    return y;
  }
  Bytes by_reference() const {
    Workspace workspace;
    return by([&](const PackedMatrix& matrix, const StripProduct& product) {
      ReferenceSparse().multiply_strips(matrix, product, workspace);
    });
  }
  Bytes by_emulator(std::uint64_t seed = 1) const {
    return by([&](const PackedMatrix& matrix, const StripProduct& product) {
      EXPECT_EQ(EmulatedCuda(seed).multiply_strips(matrix, product), packed.rows > 0 ? (batch + 15) / 16 : 0);
    });
  }
};

std::vector<Matrix> matrices() {
  std::vector<Matrix> all;
  for (const DType type : types) {
    std::uint64_t seed = 1;
    // Fewer tiles than a block takes at once, as many, a few more, and several times as many; strips in part.
    for (const auto& [rows, columns] : {std::pair<std::int64_t, std::int64_t>{1, 1},
                                        {1, 33},
                                        {16, 32},
                                        {15, 31},
                                        {17, 65},
                                        {33, 512},
                                        {3, 1025},
                                        {40, 2210}})
      for (const double sparsity : {0.0, 0.5, 0.95, 1.0})
        all.push_back(random_matrix(type, rows, columns, sparsity, seed++));
    for (const auto& [rows, columns] : {std::pair<std::int64_t, std::int64_t>{0, 5}, {5, 0}, {0, 0}})
      all.push_back(random_matrix(type, rows, columns, 0.5, 1));
    all.push_back(nasty_matrix(type, 50, 141));
    Matrix uneven = random_matrix(type, 80, 64, 0.0, 7);  // whole strips empty, others full
    std::fill(uneven.bytes.begin() + static_cast<std::ptrdiff_t>(uneven.bytes.size() / 2), uneven.bytes.end(),
              std::byte{0});
    all.push_back(uneven);
  }
  return all;
}

void expect_same(const sparse::Packed& expected, const sparse::Packed& found) {
  EXPECT_EQ(expected.masks, found.masks);
  EXPECT_EQ(expected.offsets, found.offsets);
  EXPECT_EQ(expected.values, found.values);
}

TEST(CudaStrips, PacksAsTheReferenceAndBack) {
  for (const Matrix& matrix : matrices()) {
    SCOPED_TRACE(matrix.name);
    const sparse::Packed packed = reference_pack(matrix);
    expect_same(packed, emulated_pack(matrix));
    EXPECT_EQ(emulated_unpack(packed, 0, matrix.rows), matrix.bytes);
    if (matrix.rows > 32) {
      const auto row = static_cast<std::ptrdiff_t>(static_cast<std::size_t>(matrix.columns) * size_of(matrix.type));
      const Bytes middle(matrix.bytes.begin() + 16 * row, matrix.bytes.begin() + 32 * row);
      const Bytes end(matrix.bytes.begin() + 32 * row, matrix.bytes.end());
      EXPECT_EQ(emulated_unpack(packed, 16, 16), middle);
      EXPECT_EQ(emulated_unpack(packed, 32, matrix.rows - 32), end);
    }
  }
}

TEST(CudaStrips, ManyStripsAreSummedBlockByBlock) {
  const Matrix matrix = random_matrix(DType::bf16, 16 * 514 + 3, 2, 0.6, 5);
  expect_same(reference_pack(matrix), emulated_pack(matrix));
}

TEST(CudaStrips, KeepBitsDecideAndLostElementsAreCounted) {
  for (const DType type : types)
    for (const auto& [rows, columns] : {std::pair<std::int64_t, std::int64_t>{40, 100}, {5, 64}, {33, 7}}) {
      const Matrix matrix = random_matrix(type, rows, columns, 0.6, 3);
      std::vector<std::uint64_t> keep(static_cast<std::size_t>(bits::words(rows * columns)));
      Generator random(5);
      for (std::int64_t i = 0; i < rows * columns; ++i)  // some kept elements are 0
        if (matrix.at(i / columns, i % columns) != 0.0f || random.uniform() < 0.3) bits::set(keep.data(), i);
      std::int64_t lost = -7;
      const sparse::Packed found = emulated_pack(matrix, keep.data(), &lost);
      expect_same(reference_pack(matrix, keep.data()), found);
      EXPECT_EQ(lost, 0);
      EXPECT_EQ(emulated_unpack(found, 0, rows), matrix.bytes);
      std::int64_t dropped = 0;
      for (std::int64_t i = 0; i < rows * columns && dropped < 3; ++i)
        if (matrix.at(i / columns, i % columns) != 0.0f) bits::clear(keep.data(), i), ++dropped;
      emulated_pack(matrix, keep.data(), &lost);
      EXPECT_EQ(lost, dropped);
    }
}

TEST(CudaStrips, MultipliesWithTheReferencesBits) {
  for (const Matrix& matrix : matrices()) {
    const sparse::Packed packed = reference_pack(matrix);
    for (const std::int64_t batch : {1, 2, 3, 16}) {
      SCOPED_TRACE(matrix.name + ", batch " + std::to_string(batch));
      const Vectors x = random_vectors(matrix.type, batch * matrix.columns, 17);
      const Vectors bias = random_vectors(matrix.type, matrix.rows, 18);
      const Product bare{packed, x, batch, matrix.type}, whole{packed, x, batch, DType::f32, &bias};
      EXPECT_EQ(bare.by_reference(), bare.by_emulator());
      EXPECT_EQ(whole.by_reference(), whole.by_emulator(2));
    }
  }
}

TEST(CudaStrips, EveryBatch) {
  for (const DType type : types) {
    const sparse::Packed packed = reference_pack(random_matrix(type, 20, 300, 0.5, 2));
    for (std::int64_t batch = 0; batch <= 35; ++batch) {
      const Vectors x = random_vectors(type, batch * 300, 4);
      const Product product{packed, x, batch, type};
      EXPECT_EQ(product.by_reference(), product.by_emulator()) << name_of(type) << ", " << batch;
    }
  }
}

TEST(CudaStrips, TypesOfXYAndBiasAreTheirOwn) {
  for (const DType w : types)
    for (const DType in : types)
      for (const DType out : types) {
        const sparse::Packed packed = reference_pack(random_matrix(w, 35, 75, 0.5, 2));
        const Vectors x = random_vectors(in, 3 * 75, 4), bias = random_vectors(out, 35, 6);
        const Product product{packed, x, 3, out, &bias};
        EXPECT_EQ(product.by_reference(), product.by_emulator());
      }
}

// Underflow and overflow inside of products; sums that end as -0.
TEST(CudaStrips, ExtremeScalesGiveTheReferencesBits) {
  for (const DType type : {DType::bf16, DType::f32})
    for (const double scale : {1e-38, 1e-25, 1e19, 3e37}) {
      Generator random(8);
      const Matrix matrix = matrix_of("extreme", type, 20, 1300, [&](auto, auto) {
        return random.uniform() < 0.5 ? 0u : bits_of(static_cast<float>(random.normal() * scale), type);
      });
      const sparse::Packed packed = reference_pack(matrix);
      const Vectors x = random_vectors(type, 2 * 1300, 9, scale < 1 ? 1e-10 : 10.0);
      const Product product{packed, x, 2, DType::f32};
      EXPECT_EQ(product.by_reference(), product.by_emulator());
    }
}

TEST(CudaStrips, NumbersThatAreNoneReachTheSumsThatTheyMeet) {
  const sparse::Packed packed = reference_pack(random_matrix(DType::f32, 40, 100, 0.5, 3));
  Vectors x = random_vectors(DType::f32, 200, 5);
  const float strange[] = {infinity, -infinity, not_a_number, -0.0f};
  for (std::size_t i = 0; i < 4; ++i) std::memcpy(x.bytes.data() + 4 * (30 * i + 5), &strange[i], 4);
  const Product product{packed, x, 2, DType::f32};
  EXPECT_EQ(product.by_reference(), product.by_emulator());
}

TEST(CudaStrips, AnyOrderOfThreads) {
  const Matrix matrix = random_matrix(DType::bf16, 33, 2100, 0.5, 2);
  const sparse::Packed packed = reference_pack(matrix);
  const Vectors x = random_vectors(DType::bf16, 2 * 2100, 3);
  const Product product{packed, x, 2, DType::bf16};
  const Bytes expected = product.by_reference();
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    expect_same(packed, emulated_pack(matrix, nullptr, nullptr, seed));
    EXPECT_EQ(emulated_unpack(packed, 0, 33, seed), matrix.bytes) << seed;
    EXPECT_EQ(product.by_emulator(seed), expected) << seed;
  }
}

TEST(CudaStrips, RefusesWhatDoesNotFit) {
  const Matrix matrix = random_matrix(DType::f32, 40, 50, 0.5, 4);
  const sparse::Packed packed = reference_pack(matrix);
  std::vector<std::uint32_t> masks(packed.masks.size());
  std::vector<std::uint64_t> offsets(packed.offsets.size()), keep(40);
  std::vector<float> out(2000), y(40), x(50);
  EmulatedCuda engine;
  const auto count = [&](const DenseMatrix& dense) {
    engine.count_strips(dense, nullptr, masks.data(), offsets.data(), nullptr);
  };
  EXPECT_THROW(count({{nullptr, DType::f32}, 2, 2}), LayoutError);
  EXPECT_THROW(count({{}, 2, 2}), DTypeError);
  EXPECT_THROW(count({matrix.view().elements, -1, 2}), ShapeError);
  EXPECT_THROW(engine.count_strips(matrix.view(), nullptr, nullptr, offsets.data(), nullptr), LayoutError);
  EXPECT_THROW(engine.count_strips(matrix.view(), nullptr, masks.data(), nullptr, nullptr), LayoutError);
  EXPECT_THROW(engine.count_strips(matrix.view(), keep.data(), masks.data(), offsets.data(), nullptr), ArgumentError);
  const PackedMatrix good = packed.view();
  PackedMatrix shifted = good;
  shifted.values.data = static_cast<char*>(shifted.values.data) + 4;
  EXPECT_THROW(engine.unpack_strips(shifted, 0, 40, out.data()), LayoutError);
  EXPECT_THROW(engine.unpack_strips(good, 8, 16, out.data()), ShapeError);
  EXPECT_THROW(engine.unpack_strips(good, 32, 16, out.data()), ShapeError);
  EXPECT_THROW(engine.unpack_strips(good, 0, 16, nullptr), LayoutError);
  EXPECT_THROW(engine.multiply_strips(good, {.x = view(x.data())}), DTypeError);
  EXPECT_THROW(engine.multiply_strips(good, {.x = view(x.data()), .y = {nullptr, DType::f32}}), LayoutError);
  EXPECT_THROW(engine.multiply_strips(good, {.x = view(x.data()), .y = view(y.data()), .batch = -1}), ShapeError);
  EXPECT_THROW(engine.multiply_strips(shifted, {.x = view(x.data()), .y = view(y.data())}), LayoutError);
  EXPECT_EQ(masks, std::vector<std::uint32_t>(packed.masks.size()));
  EXPECT_EQ(y, std::vector<float>(40));
}

}  // namespace
}  // namespace bittersweet::test
