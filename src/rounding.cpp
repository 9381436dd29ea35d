// The public function of stochastic rounding: checks, then the verb of the engine.
#include "bittersweet/rounding.hpp"

#include "bittersweet/engine/cpu.hpp"
#include "nvtx_range.hpp"
#include "rounding_checks.hpp"

namespace bittersweet {

void stochastic_round(std::span<const RoundedArray> arrays) {
  const NvtxRange range("bittersweet::stochastic_round");
  for (std::size_t i = 0; i < arrays.size(); ++i) check_rounded(arrays[i], i);
  static CpuEngine engine;
  engine.stochastic_round(arrays);
}

}  // namespace bittersweet
