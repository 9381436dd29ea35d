// The CPU engine of delta matrices: threads over panels, kernels per instruction set. Contracts: engine/sparse.hpp.
#pragma once

#include <string>

#include "bittersweet/engine/sparse.hpp"

namespace bittersweet {

namespace cpu {
struct StripKernels;
}  // namespace cpu

class CpuDelta {
 public:
  CpuDelta();  // the best that this machine runs and BITTERSWEET_CPU_ISA allows
  explicit CpuDelta(const std::string& isa, int threads = 0);  // this one; 0 threads: by the size of the work

  DeltaCount count_delta(const DenseMatrix& dense, const std::uint64_t* keep, std::span<std::uint64_t> steps);
  bool pack_delta(const DenseMatrix& dense, const std::uint64_t* keep, const DeltaMatrix& packed, std::uint8_t* codes,
                  void* values);
  void unpack_delta(const DeltaMatrix& packed, std::int64_t first, std::int64_t count, void* out);
  void multiply_delta(const DeltaMatrix& packed, const StripProduct& product, Workspace& workspace);

 private:
  int threads(std::int64_t elements) const;

  const cpu::StripKernels& kernels_;
  int forced_threads_ = 0;
};

static_assert(DeltaEngine<CpuDelta>);

}  // namespace bittersweet
