// Delta matrices: panels shared out to threads, one by one, since some have more bytes than others.
#include <atomic>

#include "bittersweet/engine/cpu_delta.hpp"
#include "cpu/parallel.hpp"
#include "cpu/strip_kernels.hpp"

namespace bittersweet {

using namespace cpu;

namespace {

DeltaPanel panel_at(const DeltaMatrix& packed, std::int64_t panel) {
  const std::int64_t group = delta::first_group(packed.columns, panel);
  const auto step = static_cast<std::int64_t>(packed.offsets[group]);
  const auto* const values = static_cast<const char*>(packed.values.data);
  return {packed.codes + delta::group * (step + group),
          values + delta::group * step * static_cast<std::int64_t>(size_of(packed.values.dtype)),
          packed.offsets + group,
          packed.columns,
          delta::rows_of(packed.rows, panel),
          delta::groups_of(packed.rows, panel)};
}

}  // namespace

CpuDelta::CpuDelta() : kernels_(strip_kernels()) {}
CpuDelta::CpuDelta(const std::string& isa, int threads) : kernels_(strip_kernels_of(isa)), forced_threads_(threads) {}

int CpuDelta::threads(std::int64_t elements) const {
  return forced_threads_ > 0 ? forced_threads_ : threads_for(elements);
}

DeltaCount CpuDelta::count_delta(const DenseMatrix& dense, const std::uint64_t* keep, std::span<std::uint64_t> steps) {
  std::atomic<std::int64_t> live{0}, lost{0};
  parallel_for(threads(dense.rows * dense.columns), delta::panels(dense.rows), [&](int, std::int64_t panel) {
    const DeltaCount found =
        kernels_.delta.count(dense, keep, panel, steps.data() + delta::first_group(dense.columns, panel));
    live += found.live;
    lost += found.lost;
  });
  return {live, lost};
}

bool CpuDelta::pack_delta(const DenseMatrix& dense, const std::uint64_t* keep, const DeltaMatrix& packed,
                          std::uint8_t* codes, void* values) {
  std::atomic<bool> fits{true};
  const std::size_t size = size_of(dense.elements.dtype);
  parallel_for(threads(dense.rows * dense.columns), packed.panels(), [&](int, std::int64_t panel) {
    const std::int64_t group = delta::first_group(packed.columns, panel);
    const std::uint64_t step = packed.offsets[group];
    if (!kernels_.delta.pack(dense, keep, panel, packed.offsets + group,
                             codes + delta::group * (step + static_cast<std::uint64_t>(group)),
                             static_cast<char*>(values) + delta::group * step * size))
      fits = false;
  });
  return fits;
}

void CpuDelta::unpack_delta(const DeltaMatrix& packed, std::int64_t first, std::int64_t count, void* out) {
  const std::int64_t panel_bytes =
      delta::height * packed.columns * static_cast<std::int64_t>(size_of(packed.values.dtype));
  parallel_for(threads(count * delta::height * packed.columns), count, [&](int, std::int64_t at) {
    kernels_.delta.unpack(panel_at(packed, first + at), packed.values.dtype,
                          static_cast<char*>(out) + at * panel_bytes);
  });
}

void CpuDelta::multiply_delta(const DeltaMatrix& packed, const StripProduct& product, Workspace& workspace) {
  const DType type = packed.values.dtype, from = product.x.dtype;
  const std::int64_t floats = packed.blocks() * delta::entries;
  float* const x = workspace.get<float>(0, static_cast<std::size_t>(product.batch * floats));
  for (std::int64_t b = 0; b < product.batch; ++b)
    kernels_.delta.arrange(product.x, b * packed.columns, packed.columns, type, x + b * floats);
  parallel_for(threads(packed.steps() * delta::group * product.batch), packed.panels(), [&](int, std::int64_t at) {
    const DeltaPanel panel = panel_at(packed, at);
    const std::int64_t strip = at * delta::height / strips::height, here = strips::count(panel.rows);
    alignas(64) float sums[most_columns_of_panel * delta::height];
    for (std::int64_t b = 0; b < product.batch; b += most_columns_of_panel) {
      const std::int64_t n = std::min(most_columns_of_panel, product.batch - b);
      kernels_.delta.multiply(panel, type, from, x + b * floats, n, sums);
      for (std::int64_t i = 0; i < n; ++i)
        for (std::int64_t s = 0; s < here; ++s)
          kernels_.store(product, packed.rows, strip + s, b + i, 1, sums + i * delta::height + s * strips::height);
    }
  });
}

}  // namespace bittersweet
