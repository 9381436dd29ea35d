// Matrices, vectors and instruction sets for the tests of packed matrices.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>
#include <vector>

#include "bittersweet/sparse/packed_matrix.hpp"
#include "cpu/strip_kernels.hpp"
#include "support/inputs.hpp"

namespace bittersweet::test {

inline constexpr DType types[] = {DType::f32, DType::bf16, DType::f16};

struct Isa {
  std::string name;
  int threads;

  bool usable() const {
    const std::vector<std::string> all = cpu::usable_strip_isas();
    return std::find(all.begin(), all.end(), name) != all.end();
  }
};

inline std::vector<Isa> isas() {
  std::vector<Isa> all;
  for (const char* name : {"portable", "v3", "v4", "v4_vbmi2", "amx"})
    for (const int threads : {1, 3}) all.push_back({name, threads});
  return all;
}
inline std::string isa_name(const testing::TestParamInfo<Isa>& info) {
  return info.param.name + "_threads" + std::to_string(info.param.threads);
}

struct Matrix {
  std::string name;
  DType type;
  std::int64_t rows, columns;
  std::vector<std::byte> bytes;  // exactly as many as there are elements, so that sanitizers see reads beyond

  DenseMatrix view() const { return {{const_cast<std::byte*>(bytes.data()), type}, rows, columns}; }
  float at(std::int64_t row, std::int64_t column) const {
    return load_as_float(bytes.data(), type, row * columns + column);
  }
};

// f(row, column): the element's bits, of which the low half counts for 16-bit types.
template <class F>
Matrix matrix_of(std::string name, DType type, std::int64_t rows, std::int64_t columns, F&& f) {
  Matrix made{std::move(name), type, rows, columns, {}};
  made.bytes.resize(static_cast<std::size_t>(rows * columns) * size_of(type));
  for (std::int64_t i = 0; i < rows * columns; ++i) {
    const std::uint32_t bits = f(i / columns, i % columns);
    std::memcpy(made.bytes.data() + static_cast<std::size_t>(i) * size_of(type), &bits, size_of(type));
  }
  return made;
}

inline std::uint32_t bits_of(float x, DType type) {
  if (type == DType::f32) return std::bit_cast<std::uint32_t>(x);
  return type == DType::bf16 ? float_to_bf16(x) : float_to_f16(x);
}

inline Matrix random_matrix(DType type, std::int64_t rows, std::int64_t columns, double sparsity, std::uint64_t seed) {
  Generator random(seed);
  return matrix_of(std::string(name_of(type)) + " " + std::to_string(rows) + " x " + std::to_string(columns) + " at " +
                       std::to_string(sparsity),
                   type, rows, columns, [&](std::int64_t, std::int64_t) {
                     const double x = random.normal();
                     return random.uniform() < sparsity ? 0u : bits_of(static_cast<float>(x), type);
                   });
}

// Any bits: NaN of every payload, infinities, denormals, -0, and runs of zeros.
inline Matrix nasty_matrix(DType type, std::int64_t rows, std::int64_t columns) {
  Generator random(99);
  return matrix_of(std::string("nasty ") + name_of(type), type, rows, columns,
                   [&](std::int64_t row, std::int64_t column) -> std::uint32_t {
                     if (row % 7 == 3 || column % 45 < 20) return 0;
                     const std::uint32_t sign = size_of(type) == 2 ? 0x8000u : 0x80000000u;
                     return random.uniform() < 0.2 ? sign : static_cast<std::uint32_t>(random.bits());
                   });
}

struct Vectors {
  DType type;
  std::vector<std::byte> bytes;
  TensorView view() const { return {const_cast<std::byte*>(bytes.data()), type}; }
  float operator[](std::int64_t i) const { return load_as_float(bytes.data(), type, i); }
};

inline Vectors random_vectors(DType type, std::int64_t count, std::uint64_t seed, double scale = 1.0) {
  const Matrix made = matrix_of("x", type, 1, count, [&, random = Generator(seed)](auto, auto) mutable {
    return bits_of(static_cast<float>(random.normal() * scale), type);
  });
  return {type, made.bytes};
}

}  // namespace bittersweet::test
