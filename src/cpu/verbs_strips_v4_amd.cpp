#define BITTERSWEET_EXPANDS_SLOWLY
#include "cpu/verbs/strip_table.hpp"

const bittersweet::cpu::StripKernels& bittersweet::cpu::strip_kernels_v4_amd() {
  static constexpr StripKernels table = make_strip_kernels("v4_amd");
  return table;
}
