#include "cpu/verbs/table.hpp"

const bittersweet::cpu::Kernels& bittersweet::cpu::kernels_portable() {
  static const Kernels table = make_kernels("portable");
  return table;
}
