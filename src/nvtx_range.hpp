// A named range around a public call, for Nsight Systems. Nothing in a build without the CUDA Toolkit; with it, one
// test of a pointer while no profiler is attached (NVTX is header-only and loads the profiler's library itself).
#pragma once

#if BITTERSWEET_HAS_NVTX
#include <nvtx3/nvToolsExt.h>
#endif

namespace bittersweet {

class NvtxRange {
 public:
#if BITTERSWEET_HAS_NVTX
  explicit NvtxRange(const char* name) noexcept { nvtxRangePushA(name); }
  ~NvtxRange() { nvtxRangePop(); }
#else
  explicit NvtxRange(const char*) noexcept {}
  ~NvtxRange() {}
#endif
  NvtxRange(const NvtxRange&) = delete;
  NvtxRange& operator=(const NvtxRange&) = delete;
};

}  // namespace bittersweet
