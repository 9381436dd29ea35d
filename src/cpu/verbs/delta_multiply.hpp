// The product of one panel with a few columns: a block at a time, which the first caches hold while each column of the
// batch passes over it.
#pragma once

#include "cpu/delta_kernels.hpp"
#include "cpu/verbs/delta_lookup.hpp"

namespace bittersweet {
namespace {

constexpr std::int64_t codes_ahead = 2048, values_ahead = 4096;  // bytes

// The sums of a block's rows, in sorted order, for N columns of the batch.
template <class T, class Table, int N>
BITTERSWEET_INLINE void multiply_block(const std::uint8_t* codes, const T* values, const std::uint64_t* offsets,
                                       std::int64_t groups, const Table (&x)[N], float (*sums)[delta::height]) {
  for (std::int64_t g = 0; g < groups; ++g) {
    GroupSums group[N];
    for (std::uint64_t steps = offsets[g + 1] - offsets[g]; steps > 0; --steps) {
      __builtin_prefetch(codes + codes_ahead);
      __builtin_prefetch(reinterpret_cast<const char*>(values) + values_ahead);
      if constexpr (sizeof(T) == 4) __builtin_prefetch(reinterpret_cast<const char*>(values) + values_ahead + 64);
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) add_step(codes, values, x[n], group[n]);
      codes += delta::group;
      values += delta::group;
    }
    for (int n = 0; n < N; ++n) store_sums(group[n], x[n], T{}, sums[n] + g * delta::group);
  }
}

template <class T, class X, class Table>
void multiply_panel(const cpu::DeltaPanel& panel, const float* x, std::int64_t batch, float* out) {
  const std::int64_t blocks = delta::blocks(panel.columns), rows = panel.groups * delta::group;
  const std::uint8_t* codes = panel.codes;
  const auto* values = static_cast<const T*>(panel.values);
  const std::uint64_t* offsets = panel.offsets;
  alignas(64) float sums[2][delta::height]{};
  std::memset(out, 0, static_cast<std::size_t>(batch * delta::height) * sizeof(float));
  for (std::int64_t block = 0; block < blocks; ++block, offsets += panel.groups) {
    const auto table = [&](std::int64_t b) {
      return Table(reinterpret_cast<const X*>(x + b * blocks * delta::entries) + block * delta::entries);
    };
    const auto add_sums = [&](std::int64_t b, const float* of) {
      const FloatTable sorted(of);
      for (std::int64_t row = 0; row < rows; row += strips::lanes) {
        float* const total = out + b * delta::height + row;
        store_lanes(total, add_lanes(load_lanes(total), sorted.find(codes + row)));
      }
    };
    std::int64_t b = 0;
    if constexpr (Table::fits_twice)
      for (; b + 1 < batch; b += 2) {
        multiply_block<T, Table, 2>(codes + rows, values, offsets, panel.groups, {table(b), table(b + 1)}, sums);
        add_sums(b, sums[0]);
        add_sums(b + 1, sums[1]);
      }
    for (; b < batch; ++b) {
      multiply_block<T, Table, 1>(codes + rows, values, offsets, panel.groups, {table(b)}, sums);
      add_sums(b, sums[0]);
    }
    const auto steps = static_cast<std::int64_t>(offsets[panel.groups] - offsets[0]);
    codes += rows + delta::group * steps;
    values += delta::group * steps;
  }
}

// Whether tables keep the 16 bits of x as they are.
inline bool as_words(DType type, DType from) { return BITTERSWEET_LANES == 16 && type == from && size_of(type) == 2; }

inline void multiply_panel_any(const cpu::DeltaPanel& panel, DType type, [[maybe_unused]] DType from, const float* x,
                               std::int64_t batch, float* out) {
#if BITTERSWEET_LANES == 16
  if (as_words(type, from))
    return type == DType::bf16 ? multiply_panel<Bf16, Bf16, WordTable>(panel, x, batch, out)
                               : multiply_panel<F16, F16, WordTable>(panel, x, batch, out);
#endif
  switch (type) {
    case DType::f32: return multiply_panel<float, float, FloatTable>(panel, x, batch, out);
    case DType::bf16: return multiply_panel<Bf16, float, FloatTable>(panel, x, batch, out);
    default: return multiply_panel<F16, float, FloatTable>(panel, x, batch, out);
  }
}

inline void arrange_tables(const TensorView& x, std::int64_t first, std::int64_t columns, DType type, float* out) {
  const bool words = as_words(type, x.dtype);
  const std::int64_t blocks = delta::blocks(columns), width = delta::width(columns);
  for (std::int64_t block = 0; block < blocks; ++block) {
    const std::int64_t at = first + block * width, here = delta::width_of(columns, block);
    if (words) {
      auto* const table = reinterpret_cast<std::uint16_t*>(out) + block * delta::entries;
      std::memset(table, 0, delta::entries * sizeof *table);
      std::memcpy(table + 1, static_cast<const std::uint16_t*>(x.data) + at,
                  static_cast<std::size_t>(here) * sizeof *table);
    } else {
      float* const table = out + block * delta::entries;
      std::memset(table, 0, delta::entries * sizeof *table);
      for (std::int64_t c = 0; c < here; ++c) table[1 + c] = load_as_float(x.data, x.dtype, at + c);
    }
  }
}

}  // namespace
}  // namespace bittersweet
