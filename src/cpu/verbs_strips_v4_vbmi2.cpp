#include "cpu/verbs/strip_table.hpp"

const bittersweet::cpu::StripKernels& bittersweet::cpu::strip_kernels_v4_vbmi2() {
  static constexpr StripKernels table = make_strip_kernels("v4_vbmi2");
  return table;
}
