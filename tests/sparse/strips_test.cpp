// Packed matrices: every engine packs, unpacks and multiplies with the bits of the reference engine, whose sums lie
// within the stated bound of float64, whatever the shape, the instruction set, the threads and the batch.
#include "bittersweet/sparse.hpp"

#include <gtest/gtest.h>

#include <numeric>

#include "bittersweet/engine/cpu_sparse.hpp"
#include "bittersweet/engine/reference_sparse.hpp"
#include "bittersweet/error.hpp"
#include "bittersweet/mask/bit_layout.hpp"
#include "sparse/matrices.hpp"

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace bittersweet::test {
namespace {

class StripContract : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (!GetParam().usable()) GTEST_SKIP() << "instruction set '" << GetParam().name << "' does not run here";
  }
  CpuSparse engine() const { return CpuSparse(GetParam().name, GetParam().threads); }
};

INSTANTIATE_TEST_SUITE_P(Isas, StripContract, testing::ValuesIn(isas()), isa_name);

// ---- matrices ----

std::vector<Matrix> matrices() {
  std::vector<Matrix> all;
  for (const DType type : types) {
    const std::pair<std::int64_t, std::int64_t> shapes[] = {{1, 1},   {1, 33},  {16, 32}, {15, 31},  {17, 65},
                                                            {3, 500}, {64, 96}, {33, 70}, {200, 129}};
    std::uint64_t seed = 1;
    for (const auto& [rows, columns] : shapes)
      for (const double sparsity : {0.0, 0.5, 0.95, 1.0})
        all.push_back(random_matrix(type, rows, columns, sparsity, seed++));
    all.push_back(random_matrix(type, 0, 5, 0.5, 1));
    all.push_back(random_matrix(type, 5, 0, 0.5, 1));
    all.push_back(random_matrix(type, 0, 0, 0.5, 1));
    all.push_back(nasty_matrix(type, 50, 141));
    Matrix uneven = random_matrix(type, 160, 64, 0.0, 7);  // whole strips empty, others full
    std::fill(uneven.bytes.begin() + static_cast<std::ptrdiff_t>(uneven.bytes.size() / 2), uneven.bytes.end(),
              std::byte{0});
    all.push_back(uneven);
  }
  return all;
}

template <class E>
sparse::Packed pack_by(E&& engine, const DenseMatrix& dense, const std::uint64_t* keep = nullptr) {
  sparse::Packed made{.rows = dense.rows, .columns = dense.columns, .dtype = dense.elements.dtype};
  made.masks.assign(static_cast<std::size_t>(strips::words(dense.rows, dense.columns)), 0xdeadbeef);
  made.offsets.assign(static_cast<std::size_t>(strips::count(dense.rows) + 1), 0);
  EXPECT_EQ(engine.count_strips(dense, keep, made.masks.data(), std::span(made.offsets).subspan(1)), 0);
  std::partial_sum(made.offsets.begin(), made.offsets.end(), made.offsets.begin());
  made.values.assign((made.offsets.back() + strips::slack) * size_of(made.dtype), std::byte{0xa5});
  engine.pack_strips(dense, made.view(), made.values.data());
  return made;
}

template <class E>
std::vector<std::byte> unpack_by(E&& engine, const PackedMatrix& packed, std::int64_t first, std::int64_t count) {
  const std::int64_t rows = std::min(count * strips::height, packed.rows - first * strips::height);
  std::vector<std::byte> out(static_cast<std::size_t>(rows * packed.columns) * size_of(packed.values.dtype),
                             std::byte{0x5a});
  engine.unpack_strips(packed, first, count, out.data());
  return out;
}

// ---- moving ----

TEST_P(StripContract, PacksAsTheReferenceAndBack) {
  for (const Matrix& matrix : matrices()) {
    SCOPED_TRACE(matrix.name);
    const sparse::Packed expected = pack_by(ReferenceSparse{}, matrix.view());
    const sparse::Packed found = pack_by(engine(), matrix.view());
    EXPECT_EQ(expected.masks, found.masks);
    EXPECT_EQ(expected.offsets, found.offsets);
    EXPECT_EQ(expected.values, found.values);  // nothing is written behind the last value
    EXPECT_EQ(unpack_by(engine(), found.view(), 0, found.view().strips()), matrix.bytes);
    EXPECT_EQ(unpack_by(ReferenceSparse{}, found.view(), 0, found.view().strips()), matrix.bytes);
    if (found.view().strips() > 2) {
      EXPECT_EQ(unpack_by(engine(), found.view(), 1, 2), unpack_by(ReferenceSparse{}, found.view(), 1, 2));
    }
    EXPECT_NO_THROW(sparse::check(found.view(), found.view().live()));
  }
}

TEST_P(StripContract, KeepBitsDecideAndLostElementsAreCounted) {
  for (const DType type : types)
    for (const auto& [rows, columns] : {std::pair<std::int64_t, std::int64_t>{40, 100}, {5, 64}, {33, 7}}) {
      const Matrix matrix = random_matrix(type, rows, columns, 0.6, 3);
      std::vector<std::uint64_t> keep(static_cast<std::size_t>(bits::words(rows * columns)));
      Generator random(5);
      std::int64_t live = 0;
      for (std::int64_t i = 0; i < rows * columns; ++i)  // some kept elements are 0
        if (matrix.at(i / columns, i % columns) != 0.0f || random.uniform() < 0.3) bits::set(keep.data(), i), ++live;
      const sparse::Packed expected = pack_by(ReferenceSparse{}, matrix.view(), keep.data());
      const sparse::Packed found = pack_by(engine(), matrix.view(), keep.data());
      EXPECT_EQ(expected.masks, found.masks);
      EXPECT_EQ(expected.values, found.values);
      EXPECT_EQ(found.view().live(), live);
      EXPECT_EQ(unpack_by(engine(), found.view(), 0, found.view().strips()), matrix.bytes);
      std::int64_t dropped = 0;
      for (std::int64_t i = 0; i < rows * columns && dropped < 3; ++i)
        if (matrix.at(i / columns, i % columns) != 0.0f) bits::clear(keep.data(), i), ++dropped;
      std::vector<std::uint32_t> masks(expected.masks.size());
      std::vector<std::uint64_t> counts(expected.offsets.size() - 1);
      EXPECT_EQ(engine().count_strips(matrix.view(), keep.data(), masks.data(), counts), dropped);
      EXPECT_EQ(ReferenceSparse{}.count_strips(matrix.view(), keep.data(), masks.data(), counts), dropped);
    }
}

// ---- row order ----

struct Rows {
  std::vector<std::uint8_t> bitmask;
  std::vector<std::int64_t> offsets;
  std::vector<std::byte> values;
  bool operator==(const Rows&) const = default;

  explicit Rows(const PackedMatrix& packed)
      : bitmask(static_cast<std::size_t>(packed.rows * ((packed.columns + 7) / 8)), 0x5a),
        offsets(static_cast<std::size_t>(packed.rows), -1),
        values(static_cast<std::size_t>(packed.live()) * size_of(packed.values.dtype), std::byte{0x5a}) {}
  RowMatrix view(const PackedMatrix& packed) {
    return {packed.rows, packed.columns, bitmask.data(), offsets.data(), {values.data(), packed.values.dtype}};
  }
};

template <class E>
sparse::Packed repack_by(E&& engine, const RowMatrix& rows, const sparse::Packed& like) {
  sparse::Packed made{.rows = rows.rows, .columns = rows.columns, .dtype = rows.values.dtype};
  made.masks.assign(like.masks.size(), 0xdeadbeef);
  made.offsets.assign(like.offsets.size(), 77);
  made.values.assign(like.values.size(), std::byte{0xa5});
  engine.repack_rows(rows, made.masks.data(), made.offsets.data(), made.values.data());
  return made;
}

TEST_P(StripContract, RepacksRowsAndBack) {
  for (const Matrix& matrix : matrices()) {
    SCOPED_TRACE(matrix.name);
    const sparse::Packed packed = pack_by(ReferenceSparse{}, matrix.view());
    const PackedMatrix view = packed.view();
    Rows found(view), expected(view), plain(view);
    engine().repack_rows(view, found.view(view));
    ReferenceSparse{}.repack_rows(view, expected.view(view));
    std::fill(plain.bitmask.begin(), plain.bitmask.end(), std::uint8_t{0});  // by hand, element by element
    std::size_t size = size_of(matrix.type), next = 0;
    for (std::int64_t row = 0; row < matrix.rows; ++row) {
      plain.offsets[static_cast<std::size_t>(row)] = static_cast<std::int64_t>(next / size);
      for (std::int64_t c = 0; c < matrix.columns; ++c) {
        const std::byte* const at = matrix.bytes.data() + static_cast<std::size_t>(row * matrix.columns + c) * size;
        if (std::all_of(at, at + size, [](std::byte b) { return b == std::byte{0}; })) continue;
        plain.bitmask[static_cast<std::size_t>(row * ((matrix.columns + 7) / 8) + c / 8)] |=
            static_cast<std::uint8_t>(1u << c % 8);
        std::copy(at, at + size, plain.values.begin() + static_cast<std::ptrdiff_t>(next));
        next += size;
      }
    }
    EXPECT_TRUE(plain == expected);
    EXPECT_TRUE(plain == found);
    EXPECT_NO_THROW(sparse::check(found.view(view), view.live()));
    for (const sparse::Packed& back :
         {repack_by(engine(), found.view(view), packed), repack_by(ReferenceSparse{}, found.view(view), packed)}) {
      EXPECT_EQ(back.masks, packed.masks);
      EXPECT_EQ(back.offsets, packed.offsets);
      EXPECT_EQ(back.values, packed.values);  // nothing is written behind the last value
    }
  }
}

TEST(Strips, RowsThatDoNotFitAreRefused) {
  const sparse::Packed packed = sparse::pack(random_matrix(DType::bf16, 40, 50, 0.5, 4).view());
  const PackedMatrix view = packed.view();
  Rows good(view);
  sparse::to_rows(view, good.view(view));
  sparse::Packed made = packed;
  const auto refused = [&](auto change, std::int64_t more = 0) {
    Rows bad = good;
    change(bad);
    const RowMatrix rows = bad.view(view);
    EXPECT_THROW(sparse::check(rows, view.live() + more), LayoutError);
    EXPECT_THROW(
        sparse::from_rows(rows, view.live() + more, made.masks.data(), made.offsets.data(), made.values.data()),
        LayoutError);
  };
  refused([](Rows& rows) { rows.bitmask[3] ^= 4; });
  refused([](Rows& rows) { rows.bitmask[6] |= 128; });  // beyond the 50 columns
  refused([](Rows& rows) { ++rows.offsets[0]; });
  refused([](Rows& rows) { rows.offsets[39] = -5; });
  refused([](Rows&) {}, 1);
  refused([](Rows&) {}, -1);
  EXPECT_EQ(made.masks, packed.masks);
  EXPECT_EQ(made.values, packed.values);
  RowMatrix rows = good.view(view);
  EXPECT_NO_THROW(sparse::from_rows(rows, view.live(), made.masks.data(), made.offsets.data(), made.values.data()));
  EXPECT_THROW(sparse::from_rows(rows, view.live(), nullptr, made.offsets.data(), made.values.data()), LayoutError);
  EXPECT_THROW(sparse::from_rows(rows, view.live(), made.masks.data(), nullptr, made.values.data()), LayoutError);
  EXPECT_THROW(sparse::from_rows(rows, view.live(), made.masks.data(), made.offsets.data(), nullptr), LayoutError);
  rows.values.dtype = DType::f16;
  EXPECT_THROW(sparse::to_rows(view, rows), DTypeError);
  rows = good.view(view);
  rows.rows = 39;
  EXPECT_THROW(sparse::to_rows(view, rows), ShapeError);
  rows = good.view(view);
  rows.bitmask = nullptr;
  EXPECT_THROW(sparse::to_rows(view, rows), LayoutError);
}

// ---- products ----

template <class E>
std::vector<std::byte> multiply_by(E&& engine, const sparse::Packed& packed, const Vectors& x, std::int64_t batch,
                                   DType out, const Vectors* bias = nullptr) {
  std::vector<std::byte> y(static_cast<std::size_t>(batch * packed.rows) * size_of(out), std::byte{0x77});
  Workspace workspace;
  engine.multiply_strips(
      packed.view(), {.x = x.view(), .y = {y.data(), out}, .batch = batch, .bias = bias ? bias->view() : TensorView{}},
      workspace);
  return y;
}

TEST_P(StripContract, MultipliesWithTheReferencesBits) {
  for (const Matrix& matrix : matrices()) {
    SCOPED_TRACE(matrix.name);
    const sparse::Packed packed = pack_by(ReferenceSparse{}, matrix.view());
    for (const std::int64_t batch : {1, 2, 3, 8, 9, 21}) {
      const Vectors x = random_vectors(matrix.type, batch * matrix.columns, 17);
      const Vectors bias = random_vectors(matrix.type, matrix.rows, 18);
      EXPECT_EQ(multiply_by(ReferenceSparse{}, packed, x, batch, matrix.type),
                multiply_by(engine(), packed, x, batch, matrix.type));
      EXPECT_EQ(multiply_by(ReferenceSparse{}, packed, x, batch, DType::f32, &bias),
                multiply_by(engine(), packed, x, batch, DType::f32, &bias));
    }
  }
}

TEST_P(StripContract, TypesOfXYAndBiasAreTheirOwn) {
  for (const DType w : types)
    for (const DType in : types)
      for (const DType out : types) {
        const sparse::Packed packed = pack_by(ReferenceSparse{}, random_matrix(w, 35, 75, 0.5, 2).view());
        const Vectors x = random_vectors(in, 3 * 75, 4), bias = random_vectors(out, 35, 6);
        EXPECT_EQ(multiply_by(ReferenceSparse{}, packed, x, 3, out, &bias),
                  multiply_by(engine(), packed, x, 3, out, &bias));
      }
}

// Underflow and overflow inside of products, where multiply-then-add would give other bits.
TEST_P(StripContract, ExtremeScalesGiveTheReferencesBits) {
  for (const double scale : {1e-38, 1e-25, 1e19, 3e37}) {
    Generator random(8);
    const Matrix matrix = matrix_of("extreme", DType::bf16, 20, 130, [&](auto, auto) {
      return bits_of(static_cast<float>(random.normal() * scale), DType::bf16);
    });
    const sparse::Packed packed = pack_by(ReferenceSparse{}, matrix.view());
    const Vectors x = random_vectors(DType::bf16, 2 * 130, 9, scale < 1 ? 1e-10 : 10.0);
    EXPECT_EQ(multiply_by(ReferenceSparse{}, packed, x, 2, DType::f32),
              multiply_by(engine(), packed, x, 2, DType::f32));
  }
}

// In another order where that is faster, and for pairs of bf16 and a matrix unit with denormals as 0.
TEST_P(StripContract, UnorderedSumsAreNearDoubleToo) {
  const std::pair<std::int64_t, std::int64_t> shapes[] = {{1, 1}, {16, 32}, {33, 65}, {150, 517}, {64, 640}, {300, 70}};
  for (const auto& [rows, columns] : shapes)
    for (const DType type : types)
      for (const std::int64_t batch : {1, 2, 3, 8, 9, 15, 16, 17, 32, 33, 47, 48, 49, 64, 65, 113, 600}) {
        if (batch == 600 && rows > 64) continue;
        const Matrix matrix = random_matrix(type, rows, columns, 0.5, 11);
        const sparse::Packed packed = pack_by(ReferenceSparse{}, matrix.view());
        const Vectors x = random_vectors(type, batch * columns, 12), bias = random_vectors(type, rows, 13);
        std::vector<float> y(static_cast<std::size_t>(batch * rows), not_a_number);
        Workspace workspace;
        engine().multiply_strips(
            packed.view(),
            {.x = x.view(), .y = view(y.data()), .batch = batch, .bias = bias.view(), .reproducible = false},
            workspace);
        for (std::int64_t b = 0; b < batch; ++b)
          for (std::int64_t row = 0; row < rows; ++row) {
            double sum = bias[row], magnitude = std::fabs(bias[row]);
            for (std::int64_t c = 0; c < columns; ++c) {
              const double product = static_cast<double>(matrix.at(row, c)) * x[b * columns + c];
              sum += product;
              magnitude += std::fabs(product);
            }
            const double bound = static_cast<double>(columns + 6) * 0x1p-24 * magnitude;
            ASSERT_LE(std::fabs(y[static_cast<std::size_t>(b * rows + row)] - sum), bound)
                << name_of(type) << " " << rows << " x " << columns << ", column " << b << " of " << batch << ", row "
                << row;
          }
      }
}

// Each type on its own; a row with an infinity is infinite, one with a NaN is NaN, and no other row is.
TEST_P(StripContract, UnorderedProductsOfAnyTypesKeepNanAndInfinity) {
  for (const DType w : types)
    for (const DType in : types)
      for (const DType out : types)
        for (const std::int64_t batch : {3, 40}) {
          const float infinity = std::numeric_limits<float>::infinity();
          const Matrix matrix = matrix_of("special", w, 35, 75, [&](std::int64_t row, std::int64_t column) {
            const float x = row == 3 && column == 70 ? not_a_number : row == 20 && column == 2 ? infinity : 0.5f;
            return (row + column) % 3 == 0 ? 0u : bits_of(x, w);
          });
          const sparse::Packed packed = pack_by(ReferenceSparse{}, matrix.view());
          const Vectors x = random_vectors(in, batch * 75, 4);
          const Vectors bias = random_vectors(out, 35, 6);
          std::vector<std::byte> y(static_cast<std::size_t>(batch) * 35 * size_of(out));
          Workspace workspace;
          engine().multiply_strips(
              packed.view(),
              {.x = x.view(), .y = {y.data(), out}, .batch = batch, .bias = bias.view(), .reproducible = false},
              workspace);
          const std::vector<std::byte> expected = multiply_by(ReferenceSparse{}, packed, x, batch, out, &bias);
          for (std::int64_t i = 0; i < batch * 35; ++i) {
            const float a = load_as_float(expected.data(), out, i), b = load_as_float(y.data(), out, i);
            EXPECT_EQ(std::isnan(b), i % 35 == 3);
            EXPECT_TRUE(a == b || std::isnan(a) || std::fabs(a - b) <= (std::fabs(a) + 1) * 0x1p-7f) << a << " " << b;
          }
        }
}

// What an order of one's own may not do: give other bits for other threads, or on another run.
TEST_P(StripContract, UnorderedSumsDoNotDependOnTheThreads) {
  for (const DType type : types)
    for (const std::int64_t batch : {2, 8, 40, 100}) {
      const sparse::Packed packed = pack_by(ReferenceSparse{}, random_matrix(type, 200, 700, 0.5, 2).view());
      const Vectors x = random_vectors(type, batch * 700, 3);
      std::vector<std::byte> found[2];
      for (const int threads : {1, 4}) {
        std::vector<std::byte>& y = found[threads == 4];
        y.resize(static_cast<std::size_t>(batch * 200) * 4);
        Workspace workspace;
        CpuSparse(GetParam().name, threads)
            .multiply_strips(packed.view(),
                             {.x = x.view(), .y = {y.data(), DType::f32}, .batch = batch, .reproducible = false},
                             workspace);
      }
      EXPECT_EQ(found[0], found[1]) << name_of(type) << ", batch " << batch;
    }
}

TEST(Strips, SumsAreWithinTheStatedBoundOfDouble) {
  for (const Matrix& matrix : matrices()) {
    if (matrix.name.starts_with("nasty")) continue;
    SCOPED_TRACE(matrix.name);
    const sparse::Packed packed = sparse::pack(matrix.view());
    const Vectors x = random_vectors(matrix.type, matrix.columns, 21),
                  bias = random_vectors(DType::f32, matrix.rows, 22);
    std::vector<float> y(static_cast<std::size_t>(matrix.rows));
    Workspace workspace;
    sparse::multiply(packed.view(), {.x = x.view(), .y = view(y.data()), .batch = 1, .bias = bias.view()}, workspace);
    for (std::int64_t row = 0; row < matrix.rows; ++row) {
      double sum = bias[row], magnitude = std::fabs(bias[row]);
      for (std::int64_t c = 0; c < matrix.columns; ++c) {
        const double product = static_cast<double>(matrix.at(row, c)) * x[c];
        sum += product;
        magnitude += std::fabs(product);
      }
      const double bound = static_cast<double>(matrix.columns) / 16 + 6;
      EXPECT_LE(std::fabs(y[static_cast<std::size_t>(row)] - sum), bound * 0x1p-24 * magnitude) << row;
    }
  }
}

TEST(Strips, TheBatchDoesNotShowInAColumn) {
  const sparse::Packed packed = sparse::pack(random_matrix(DType::bf16, 70, 333, 0.5, 2).view());
  const Vectors x = random_vectors(DType::bf16, 64 * 333, 3);
  const std::vector<std::byte> all = multiply_by(CpuSparse{}, packed, x, 64, DType::f32);
  for (std::int64_t b = 0; b < 64; ++b) {
    const Vectors one{DType::bf16, {x.bytes.begin() + b * 333 * 2, x.bytes.begin() + (b + 1) * 333 * 2}};
    const std::vector<std::byte> y = multiply_by(CpuSparse{}, packed, one, 1, DType::f32);
    EXPECT_TRUE(std::equal(y.begin(), y.end(), all.begin() + b * 70 * 4)) << b;
  }
}

#if defined(__SSE__)
TEST(Strips, DenormalsSurviveACallerThatFlushesThem) {
  const Matrix matrix =
      matrix_of("tiny", DType::f32, 300, 2000, [](auto, auto) { return bits_of(1e-30f, DType::f32); });
  const sparse::Packed packed = sparse::pack(matrix.view());
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

TEST(Strips, BytesAreAsStated) {
  const sparse::Packed packed = sparse::pack(random_matrix(DType::bf16, 512, 1024, 0.5, 4).view());
  const double elements = 512.0 * 1024.0, live = static_cast<double>(packed.view().live());
  EXPECT_LE(static_cast<double>(packed.view().bytes()) / elements, live * 2 / elements + 0.125 + 0.002);
  EXPECT_EQ(packed.view().bytes() + strips::slack * 2,
            static_cast<std::int64_t>(packed.masks.size() * 4 + packed.offsets.size() * 8 + packed.values.size()));
}

TEST(Strips, RefusesWhatDoesNotFit) {
  const Matrix matrix = random_matrix(DType::f32, 40, 50, 0.5, 4);
  const sparse::Packed packed = sparse::pack(matrix.view());
  const std::vector<std::uint64_t> nothing(static_cast<std::size_t>(bits::words(2000)));
  EXPECT_THROW(sparse::pack(matrix.view(), nothing.data()), ArgumentError);
  EXPECT_THROW(sparse::pack(DenseMatrix{{nullptr, DType::f32}, 2, 2}), LayoutError);
  EXPECT_THROW(sparse::pack(DenseMatrix{{}, 2, 2}), DTypeError);
  EXPECT_THROW(sparse::pack(DenseMatrix{matrix.view().elements, -1, 2}), ShapeError);
  std::vector<float> out(2000), y(40), x(50);
  EXPECT_THROW(sparse::unpack(packed.view(), 8, 16, out.data()), ShapeError);
  EXPECT_THROW(sparse::unpack(packed.view(), 0, 20, out.data()), ShapeError);
  EXPECT_THROW(sparse::unpack(packed.view(), 32, 16, out.data()), ShapeError);
  EXPECT_NO_THROW(sparse::unpack(packed.view(), 32, 8, out.data()));
  EXPECT_THROW(sparse::unpack(packed.view(), 0, 16, nullptr), LayoutError);
  Workspace workspace;
  EXPECT_THROW(sparse::multiply(packed.view(), {.x = view(x.data())}, workspace), DTypeError);
  EXPECT_THROW(sparse::multiply(packed.view(), {.x = view(x.data()), .y = {nullptr, DType::f32}}, workspace),
               LayoutError);
  EXPECT_THROW(sparse::multiply(packed.view(), {.x = view(x.data()), .y = view(y.data()), .batch = -1}, workspace),
               ShapeError);
}

TEST(Strips, CheckFindsEveryKindOfDamage) {
  const sparse::Packed good = sparse::pack(random_matrix(DType::bf16, 40, 50, 0.5, 4).view());
  const auto damaged = [&](auto change) {
    sparse::Packed bad = good;
    change(bad);
    return bad;
  };
  const std::int64_t live = good.view().live();
  EXPECT_NO_THROW(sparse::check(good.view(), live));
  EXPECT_THROW(sparse::check(good.view(), live + 1), LayoutError);
  EXPECT_THROW(sparse::check(good.view(), live - 1), LayoutError);
  for (const auto& bad : {damaged([](auto& p) { p.masks[3] ^= 1u; }), damaged([](auto& p) { p.masks[16] |= 1u << 31; }),
                          damaged([](auto& p) { p.masks[2 * 32 + 9] |= 1u; }), damaged([](auto& p) { ++p.offsets[0]; }),
                          damaged([](auto& p) { ++p.offsets[1]; }), damaged([](auto& p) { p.offsets[2] = ~0ull; }),
                          damaged([](auto& p) { --p.offsets[3]; })})
    EXPECT_THROW(sparse::check(bad.view(), live), LayoutError);
}

}  // namespace
}  // namespace bittersweet::test
