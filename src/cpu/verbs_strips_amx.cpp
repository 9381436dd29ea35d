#include "cpu/verbs/strip_table.hpp"
#include "cpu/verbs/strip_tiles.hpp"

const bittersweet::cpu::StripKernels& bittersweet::cpu::strip_kernels_amx() {
  static constexpr StripKernels table = make_strip_kernels("amx", &tile_kernels);
  return table;
}
