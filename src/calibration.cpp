// The public function of calibration: checks, then the verb of the engine.
#include "bittersweet/calibration.hpp"

#include "bittersweet/engine/cpu_calibration.hpp"
#include "calibration_checks.hpp"
#include "fp_environment.hpp"
#include "nvtx_range.hpp"

namespace bittersweet {

void add_squares(const LayerInput& input, const SquareSums& to) {
  const NvtxRange range("bittersweet::add_squares");
  const FpEnvironment environment;
  check_squares(input, to);
  static CpuCalibration engine;
  engine.add_squares(input, to);
}

}  // namespace bittersweet
