#include "cpu/verbs/strip_table.hpp"

const bittersweet::cpu::StripKernels& bittersweet::cpu::strip_kernels_v3() {
  static constexpr StripKernels table = make_strip_kernels("v3");
  return table;
}
