// Delta matrices: every engine packs, unpacks and multiplies with the bits of the reference engine, whose sums lie
// within the stated bound of float64, whatever the shape, the instruction set, the threads and the batch.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "bittersweet/engine/cpu_delta.hpp"
#include "bittersweet/engine/reference_delta.hpp"
#include "bittersweet/error.hpp"
#include "bittersweet/mask/bit_layout.hpp"
#include "bittersweet/sparse.hpp"
#include "sparse/delta_matrices.hpp"

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace bittersweet::test {
namespace {

class DeltaContract : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (!GetParam().usable()) GTEST_SKIP() << "instruction set '" << GetParam().name << "' does not run here";
  }
  CpuDelta engine() const { return CpuDelta(GetParam().name, GetParam().threads); }
};

INSTANTIATE_TEST_SUITE_P(Isas, DeltaContract, testing::ValuesIn(isas()), isa_name);

template <class E>
std::vector<std::byte> unpack_by(E&& engine, const DeltaMatrix& packed, std::int64_t first, std::int64_t count) {
  const std::int64_t rows = std::min(count * delta::height, packed.rows - first * delta::height);
  std::vector<std::byte> out(static_cast<std::size_t>(rows * packed.columns) * size_of(packed.values.dtype),
                             std::byte{0x5a});
  engine.unpack_delta(packed, first, count, out.data());
  return out;
}

// ---- moving ----

TEST_P(DeltaContract, PacksAsTheReferenceAndBack) {
  for (const Matrix& matrix : delta_matrices()) {
    SCOPED_TRACE(matrix.name);
    const sparse::PackedDelta expected = pack_by(ReferenceDelta{}, matrix.view());
    const sparse::PackedDelta found = pack_by(engine(), matrix.view());
    expect_same(expected, found);
    const DeltaMatrix packed = found.view();
    EXPECT_EQ(unpack_by(engine(), packed, 0, packed.panels()), matrix.bytes);
    EXPECT_EQ(unpack_by(ReferenceDelta{}, packed, 0, packed.panels()), matrix.bytes);
    if (packed.panels() > 1) {
      EXPECT_EQ(unpack_by(engine(), packed, 1, 1), unpack_by(ReferenceDelta{}, packed, 1, 1));
    }
    EXPECT_NO_THROW(sparse::check(packed, static_cast<std::int64_t>(found.codes.size()), 32 * packed.steps()));
  }
}

TEST_P(DeltaContract, KeepBitsDecideAndLostElementsAreCounted) {
  for (const DType type : types)
    for (const auto& [rows, columns] : {std::pair<std::int64_t, std::int64_t>{40, 300}, {5, 64}, {290, 70}}) {
      const Matrix matrix = random_matrix(type, rows, columns, 0.9, 3);
      std::vector<std::uint64_t> keep(static_cast<std::size_t>(bits::words(rows * columns)));
      Generator random(5);
      std::int64_t live = 0;
      for (std::int64_t i = 0; i < rows * columns; ++i)  // some kept elements are 0
        if (matrix.at(i / columns, i % columns) != 0.0f || random.uniform() < 0.1) bits::set(keep.data(), i), ++live;
      const sparse::PackedDelta expected = pack_by(ReferenceDelta{}, matrix.view(), keep.data());
      const sparse::PackedDelta found = pack_by(engine(), matrix.view(), keep.data());
      expect_same(expected, found);
      EXPECT_EQ(found.view().live(), live);
      EXPECT_EQ(unpack_by(engine(), found.view(), 0, found.view().panels()), matrix.bytes);
      std::int64_t dropped = 0;
      for (std::int64_t i = 0; i < rows * columns && dropped < 3; ++i)
        if (matrix.at(i / columns, i % columns) != 0.0f) bits::clear(keep.data(), i), ++dropped;
      std::vector<std::uint64_t> steps(expected.offsets.size() - 2);
      for (const DeltaCount count : {engine().count_delta(matrix.view(), keep.data(), steps),
                                     ReferenceDelta{}.count_delta(matrix.view(), keep.data(), steps)}) {
        EXPECT_EQ(count.lost, dropped);
        EXPECT_EQ(count.live, live - dropped);
      }
    }
}

// ---- products ----

TEST_P(DeltaContract, MultipliesWithTheReferencesBits) {
  for (const Matrix& matrix : delta_matrices()) {
    SCOPED_TRACE(matrix.name);
    const sparse::PackedDelta packed = pack_by(ReferenceDelta{}, matrix.view());
    for (const std::int64_t batch : {1, 2, 16, 17}) {
      const Vectors x = random_vectors(matrix.type, batch * matrix.columns, 17);
      const Vectors bias = random_vectors(matrix.type, matrix.rows, 18);
      EXPECT_EQ(multiply_by(ReferenceDelta{}, packed, x, batch, matrix.type),
                multiply_by(engine(), packed, x, batch, matrix.type));
      EXPECT_EQ(multiply_by(ReferenceDelta{}, packed, x, batch, DType::f32, &bias),
                multiply_by(engine(), packed, x, batch, DType::f32, &bias));
    }
  }
}

TEST_P(DeltaContract, TypesOfXYAndBiasAreTheirOwn) {
  for (const DType w : types)
    for (const DType in : types)
      for (const DType out : types) {
        const sparse::PackedDelta packed = pack_by(ReferenceDelta{}, random_matrix(w, 75, 350, 0.9, 2).view());
        const Vectors x = random_vectors(in, 3 * 350, 4), bias = random_vectors(out, 75, 6);
        EXPECT_EQ(multiply_by(ReferenceDelta{}, packed, x, 3, out, &bias),
                  multiply_by(engine(), packed, x, 3, out, &bias));
      }
}

// Underflow and overflow inside of products, and sums that are -0.
TEST_P(DeltaContract, ExtremeScalesGiveTheReferencesBits) {
  for (const DType type : {DType::bf16, DType::f32})
    for (const double scale : {1e-38, 1e-25, 1e19, 3e37}) {
      Generator random(8);
      const Matrix matrix = matrix_of("extreme", type, 40, 330, [&](auto, auto) {
        return random.uniform() < 0.9 ? 0u : bits_of(static_cast<float>(random.normal() * scale), type);
      });
      const sparse::PackedDelta packed = pack_by(ReferenceDelta{}, matrix.view());
      const Vectors x = random_vectors(type, 2 * 330, 9, scale < 1 ? 1e-10 : 10.0);
      EXPECT_EQ(multiply_by(ReferenceDelta{}, packed, x, 2, DType::f32),
                multiply_by(engine(), packed, x, 2, DType::f32));
    }
}

// Infinities and NaN of x reach the rows that store their column, and no others.
TEST_P(DeltaContract, WhatIsNotStoredIsNotMultiplied) {
  for (const DType type : types) {
    const Matrix matrix = random_matrix(type, 280, 520, 0.95, 4);
    const sparse::PackedDelta packed = pack_by(ReferenceDelta{}, matrix.view());
    for (const std::int64_t special : {0, 172, 173, 174, 519}) {
      Vectors x = random_vectors(type, 520, 3);
      const std::uint32_t infinity = bits_of(std::numeric_limits<float>::infinity(), type);
      std::memcpy(x.bytes.data() + static_cast<std::size_t>(special) * size_of(type), &infinity, size_of(type));
      const std::vector<std::byte> y = multiply_by(engine(), packed, x, 1, DType::f32);
      for (std::int64_t row = 0; row < 280; ++row)
        EXPECT_EQ(std::isfinite(load_as_float(y.data(), DType::f32, row)), matrix.at(row, special) == 0.0f)
            << row << ", " << special;
    }
  }
}

TEST(Delta, SumsAreWithinTheStatedBoundOfDouble) {
  for (const Matrix& matrix : delta_matrices()) {
    if (matrix.name.starts_with("nasty")) continue;
    SCOPED_TRACE(matrix.name);
    const sparse::PackedDelta packed = sparse::pack_delta(matrix.view());
    const Vectors x = random_vectors(matrix.type, matrix.columns, 21),
                  bias = random_vectors(DType::f32, matrix.rows, 22);
    std::vector<float> y(static_cast<std::size_t>(matrix.rows));
    Workspace workspace;
    sparse::multiply(packed.view(), {.x = x.view(), .y = view(y.data()), .batch = 1, .bias = bias.view()}, workspace);
    const auto roundings = static_cast<double>(delta::width(matrix.columns) + delta::blocks(matrix.columns) + 1);
    for (std::int64_t row = 0; row < matrix.rows; ++row) {
      double sum = bias[row], magnitude = std::fabs(bias[row]);
      for (std::int64_t c = 0; c < matrix.columns; ++c) {
        const double product = static_cast<double>(matrix.at(row, c)) * x[c];
        sum += product;
        magnitude += std::fabs(product);
      }
      EXPECT_LE(std::fabs(y[static_cast<std::size_t>(row)] - sum), roundings * 0x1p-24 * magnitude * 1.001) << row;
    }
  }
}

TEST(Delta, TheBatchDoesNotShowInAColumn) {
  const sparse::PackedDelta packed = sparse::pack_delta(random_matrix(DType::bf16, 300, 333, 0.9, 2).view());
  const Vectors x = random_vectors(DType::bf16, 40 * 333, 3);
  const std::vector<std::byte> all = multiply_by(CpuDelta{}, packed, x, 40, DType::f32);
  for (std::int64_t b = 0; b < 40; ++b) {
    const Vectors one{DType::bf16, {x.bytes.begin() + b * 333 * 2, x.bytes.begin() + (b + 1) * 333 * 2}};
    const std::vector<std::byte> y = multiply_by(CpuDelta{}, packed, one, 1, DType::f32);
    EXPECT_TRUE(std::equal(y.begin(), y.end(), all.begin() + b * 300 * 4)) << b;
  }
}

#if defined(__SSE__)
TEST(Delta, DenormalsSurviveACallerThatFlushesThem) {
  const Matrix matrix = matrix_of("tiny", DType::f32, 300, 2000, [](auto row, auto column) {
    return (row + column) % 8 == 0 ? bits_of(1e-30f, DType::f32) : 0u;
  });
  const sparse::PackedDelta packed = sparse::pack_delta(matrix.view());
  const std::vector<float> x(2000, 1e-12f);
  std::vector<float> y(300);
  Workspace workspace;
  const unsigned saved = _mm_getcsr();
  _mm_setcsr(0x1f80 | 0x8040);
  sparse::multiply(packed.view(), {.x = view(x.data()), .y = view(y.data())}, workspace);
  const unsigned after = _mm_getcsr();
  _mm_setcsr(saved);
  EXPECT_EQ(after & 0x8040u, 0x8040u);
  EXPECT_TRUE(std::ranges::all_of(y, [](float v) { return v > 0.0f && v < 1e-37f; }));
}
#endif

// ---- the public face ----

TEST(Delta, BytesAreAsStated) {
  const sparse::PackedDelta packed = sparse::pack_delta(random_matrix(DType::bf16, 1024, 1000, 0.95, 4).view());
  EXPECT_EQ(packed.view().bytes(),
            static_cast<std::int64_t>(packed.codes.size() + packed.offsets.size() * 8 + packed.values.size()));
  EXPECT_LE(static_cast<double>(packed.view().bytes()), 3.5 * static_cast<double>(packed.view().live()));
}

TEST(Delta, RefusesWhatDoesNotFit) {
  const Matrix matrix = random_matrix(DType::f32, 300, 50, 0.9, 4);
  const sparse::PackedDelta packed = sparse::pack_delta(matrix.view());
  const std::vector<std::uint64_t> nothing(static_cast<std::size_t>(bits::words(15000)));
  EXPECT_THROW(sparse::pack_delta(matrix.view(), nothing.data()), ArgumentError);
  EXPECT_THROW(sparse::pack_delta(DenseMatrix{{nullptr, DType::f32}, 2, 2}), LayoutError);
  EXPECT_THROW(sparse::pack_delta(DenseMatrix{{}, 2, 2}), DTypeError);
  EXPECT_THROW(sparse::pack_delta(DenseMatrix{matrix.view().elements, -1, 2}), ShapeError);
  std::vector<float> out(15000), y(300), x(50);
  EXPECT_THROW(sparse::unpack(packed.view(), 16, 256, out.data()), ShapeError);
  EXPECT_THROW(sparse::unpack(packed.view(), 0, 32, out.data()), ShapeError);
  EXPECT_THROW(sparse::unpack(packed.view(), 256, 256, out.data()), ShapeError);
  EXPECT_NO_THROW(sparse::unpack(packed.view(), 256, 44, out.data()));
  EXPECT_THROW(sparse::unpack(packed.view(), 0, 256, nullptr), LayoutError);
  Workspace workspace;
  EXPECT_THROW(sparse::multiply(packed.view(), {.x = view(x.data())}, workspace), DTypeError);
  EXPECT_THROW(sparse::multiply(packed.view(), {.x = view(x.data()), .y = {nullptr, DType::f32}}, workspace),
               LayoutError);
  EXPECT_THROW(sparse::multiply(packed.view(), {.x = view(x.data()), .y = view(y.data()), .batch = -1}, workspace),
               ShapeError);
}

TEST(Delta, AMatrixThatChangedSinceItWasMeasuredIsRefused) {
  Matrix matrix = random_matrix(DType::bf16, 40, 300, 0.9, 4);
  sparse::PackedDelta packed = sparse::pack_delta(matrix.view());
  matrix.bytes.assign(matrix.bytes.size(), std::byte{1});
  EXPECT_THROW(
      sparse::pack_delta(matrix.view(), nullptr, packed.offsets.data(), packed.codes.data(), packed.values.data()),
      ArgumentError);
}

TEST(Delta, CheckFindsEveryKindOfDamage) {
  const sparse::PackedDelta good = sparse::pack_delta(random_matrix(DType::bf16, 300, 500, 0.9, 4).view());
  const auto codes = static_cast<std::int64_t>(good.codes.size()), values = 32 * good.view().steps();
  EXPECT_NO_THROW(sparse::check(good.view(), codes, values));
  EXPECT_THROW(sparse::check(good.view(), codes - 1, values), LayoutError);
  EXPECT_THROW(sparse::check(good.view(), codes, values + 32), LayoutError);
  const auto damaged = [&](auto change) {
    sparse::PackedDelta bad = good;
    change(bad);
    return bad;
  };
  const std::size_t first = 256, last_code = good.codes.size() - 1;  // after the places; a row beyond the matrix
  ASSERT_EQ(good.codes[last_code], 0);
  const std::size_t groups = good.offsets.size() - 2;
  for (const auto& bad :
       {damaged([](auto& p) { p.codes[3] = p.codes[4]; }), damaged([&](auto& p) { p.codes[first] = 0; }),
        damaged([&](auto& p) { p.codes[first] = 251; }),
        damaged([&](auto& p) { p.codes[first + 32] = p.codes[first]; }),
        damaged([&](auto& p) { p.codes[last_code] = 9; }), damaged([&](auto& p) { p.values.back() = std::byte{0}; }),
        damaged([](auto& p) { ++p.offsets[0]; }), damaged([](auto& p) { ++p.offsets[1]; }),
        damaged([](auto& p) { p.offsets[2] = ~0ull; }), damaged([&](auto& p) { --p.offsets[groups]; }),
        damaged([&](auto& p) { ++p.offsets[groups + 1]; })})
    EXPECT_THROW(sparse::check(bad.view(), codes, values), LayoutError);
  sparse::PackedDelta empty = sparse::pack_delta(random_matrix(DType::f32, 40, 20, 1.0, 4).view());
  std::swap(empty.codes[3], empty.codes[4]);  // rows of equal numbers, not in order
  EXPECT_THROW(sparse::check(empty.view(), 64, 0), LayoutError);
}

}  // namespace
}  // namespace bittersweet::test
