// The kernels of this unit for packed matrices, as the table that strip_isa.cpp chooses from.
#pragma once

#include "cpu/verbs/delta_move.hpp"
#include "cpu/verbs/delta_multiply.hpp"
#include "cpu/verbs/strip_move.hpp"
#include "cpu/verbs/strip_multiply.hpp"

namespace bittersweet {
namespace {

constexpr cpu::DeltaKernels delta_kernels{&count_panel_any, &pack_panel_any, &unpack_panel_any, &arrange_tables,
                                          &multiply_panel_any};

constexpr cpu::StripKernels make_strip_kernels(const char* name, const cpu::TileKernels* tiles = nullptr) {
  return {name,       &count_any, &pack_any,    &unpack_any, &arrange_any, &multiply_strip_any,
          &store_any, tiles,      delta_kernels};
}

}  // namespace
}  // namespace bittersweet
