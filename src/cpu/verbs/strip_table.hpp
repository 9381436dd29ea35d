// The kernels of this unit for packed matrices, as the table that strip_isa.cpp chooses from.
#pragma once

#include "cpu/verbs/delta_move.hpp"
#include "cpu/verbs/delta_multiply.hpp"
#include "cpu/verbs/strip_move.hpp"
#include "cpu/verbs/strip_multiply.hpp"
#include "cpu/verbs/strip_panels.hpp"

namespace bittersweet {
namespace {

constexpr cpu::DeltaKernels delta_kernels{&count_panel_any, &pack_panel_any, &unpack_panel_any, &arrange_tables,
                                          &multiply_panel_any};

#if defined(__AVX512BF16__)
constexpr cpu::PairKernels pair_kernels{{strips::width / 2, &arrange_pairs, &multiply_strip_by_pairs},
                                        panel_kernels<PairWords>};
#endif

constexpr cpu::StripKernels make_strip_kernels(const char* name, const cpu::TileKernels* tiles = nullptr) {
  cpu::StripKernels made{.name = name,
                         .count = &count_any,
                         .pack = &pack_any,
                         .unpack = &unpack_any,
                         .lanes = {strips::width, &arrange_any, &multiply_strip_any},
                         .store = &store_any,
                         .tiles = tiles,
                         .panels = nullptr,
                         .pairs = nullptr,
                         .delta = delta_kernels};
#if BITTERSWEET_LANES > 4
  made.panels = &panel_kernels<FloatWords>;
#endif
#if defined(__AVX512BF16__)
  made.pairs = &pair_kernels;
#endif
  return made;
}

}  // namespace
}  // namespace bittersweet
