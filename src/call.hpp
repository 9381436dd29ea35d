// What a public call on host memory sets up and takes down again, and the engine that it runs on.
#pragma once

#include "bittersweet/engine/cpu.hpp"
#include "cpu/parallel.hpp"
#include "fp_environment.hpp"
#include "nvtx_range.hpp"

namespace bittersweet {

struct Call {
  explicit Call(const char* name) : range(name) {}
  NvtxRange range;
  FpEnvironment environment;
  cpu::Team team;
};

inline CpuEngine& cpu_engine() {
  static CpuEngine engine;
  return engine;
}

}  // namespace bittersweet
