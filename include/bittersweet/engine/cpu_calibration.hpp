// The CPU engine of calibration: threads over bands of rows and tiles of columns. Contract: engine/calibration.hpp.
#pragma once

#include <string>

#include "bittersweet/engine/calibration.hpp"

namespace bittersweet {

namespace cpu {
struct Kernels;
}  // namespace cpu

class CpuCalibration {
 public:
  CpuCalibration();  // the best that this machine runs and BITTERSWEET_CPU_ISA allows
  explicit CpuCalibration(const std::string& isa, int threads = 0);  // this one; 0 threads: by the size of the work

  void add_squares(const LayerInput& input, const SquareSums& to);

 private:
  const cpu::Kernels& kernels_;
  int forced_threads_ = 0;
};

static_assert(CalibratingEngine<CpuCalibration>);

}  // namespace bittersweet
