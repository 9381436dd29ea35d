#include "cpu/verbs/strip_table.hpp"

const bittersweet::cpu::StripKernels& bittersweet::cpu::strip_kernels_portable() {
  static constexpr StripKernels table = make_strip_kernels("portable");
  return table;
}
