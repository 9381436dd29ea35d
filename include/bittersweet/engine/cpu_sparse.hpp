// The CPU engine of packed matrices: threads over strips, kernels per instruction set. Contracts: engine/sparse.hpp.
#pragma once

#include <string>

#include "bittersweet/engine/sparse.hpp"

namespace bittersweet {

namespace cpu {
struct LaneKernels;
struct PanelKernels;
struct StripKernels;
}  // namespace cpu

class CpuSparse {
 public:
  CpuSparse();  // the best that this machine runs and BITTERSWEET_CPU_ISA allows
  explicit CpuSparse(const std::string& isa, int threads = 0);  // this one; 0 threads: by the size of the work

  const char* isa() const noexcept;

  std::int64_t count_strips(const DenseMatrix& dense, const std::uint64_t* keep, std::uint32_t* masks,
                            std::span<std::uint64_t> counts);
  void pack_strips(const DenseMatrix& dense, const PackedMatrix& packed, void* out);
  void unpack_strips(const PackedMatrix& packed, std::int64_t first, std::int64_t count, void* out);
  void repack_rows(const PackedMatrix& packed, const RowMatrix& rows);
  void repack_rows(const RowMatrix& rows, std::uint32_t* masks, std::uint64_t* offsets, void* out);
  void multiply_strips(const PackedMatrix& packed, const StripProduct& product, Workspace& workspace);

 private:
  void multiply_by_lanes(const cpu::LaneKernels& kernels, const PackedMatrix& packed, const StripProduct& product,
                         Workspace& workspace);
  void multiply_by_tiles(const PackedMatrix& packed, const StripProduct& product, Workspace& workspace);
  void multiply_by_panels(const cpu::PanelKernels& kernels, const PackedMatrix& packed, const StripProduct& product,
                          Workspace& workspace);
  int threads(std::int64_t elements) const;

  const cpu::StripKernels& kernels_;
  int forced_threads_ = 0;
};

static_assert(SparseEngine<CpuSparse>);

}  // namespace bittersweet
