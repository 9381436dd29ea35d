#include "cpu/verbs/strip_table.hpp"

const bittersweet::cpu::StripKernels& bittersweet::cpu::strip_kernels_v4_bf16() {
  static constexpr StripKernels table = make_strip_kernels("v4_bf16");
  return table;
}
