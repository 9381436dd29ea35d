#include "cpu/verbs/table.hpp"

const bittersweet::cpu::Kernels& bittersweet::cpu::kernels_neon() {
  static const Kernels table = make_kernels("neon");
  return table;
}
