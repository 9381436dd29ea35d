#include "cpu/verbs/table.hpp"

const bittersweet::cpu::Kernels& bittersweet::cpu::kernels_v4() {
  static const Kernels table = make_kernels("v4");
  return table;
}
