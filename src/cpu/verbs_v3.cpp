#include "cpu/verbs/table.hpp"

const bittersweet::cpu::Kernels& bittersweet::cpu::kernels_v3() {
  static const Kernels table = make_kernels("v3");
  return table;
}
