#include "cpu/verbs/table.hpp"

const bittersweet::cpu::Kernels& bittersweet::cpu::kernels_v2() {
  static const Kernels table = make_kernels("v2");
  return table;
}
