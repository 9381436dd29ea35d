// Packed matrices: strips shared out to threads.
#include <atomic>
#include <cmath>
#include <limits>

#include "bittersweet/engine/cpu_sparse.hpp"
#include "cpu/parallel.hpp"
#include "cpu/strip_kernels.hpp"

namespace bittersweet {

using namespace cpu;

namespace {

constexpr std::int64_t strips_per_piece = 4;  // enough pieces to level strips of unequal bytes

Strip strip_at(const PackedMatrix& packed, std::int64_t strip) {
  const std::int64_t words = strips::words_per_strip(packed.columns);
  const auto* const values = static_cast<const char*>(packed.values.data);
  const std::size_t size = size_of(packed.values.dtype);
  return {packed.masks + strip * words, values + packed.offsets[strip] * size, packed.tiles()};
}

// f(strip) for strips first, first + 1, ...
template <class F>
void for_each_strip(int threads, std::int64_t count, F&& f) {
  const std::int64_t pieces = (count + strips_per_piece - 1) / strips_per_piece;
  parallel_for(threads, pieces, [&](int, std::int64_t piece) {
    const std::int64_t end = std::min(count, (piece + 1) * strips_per_piece);
    for (std::int64_t strip = piece * strips_per_piece; strip < end; ++strip) f(strip);
  });
}

// The sums of a strip's rows for `batch` columns of y from the first on, with the bias, as y stores them.
void store_sums(const PackedMatrix& packed, const StripProduct& product, std::int64_t strip, std::int64_t first,
                int batch, const float* sums) {
  const std::int64_t begin = strip * strips::height, rows = std::min(strips::height, packed.rows - begin);
  for (int b = 0; b < batch; ++b)
    for (std::int64_t i = 0; i < rows; ++i) {
      float sum = sums[b * strips::height + i];
      if (product.bias.data != nullptr) sum += load_as_float(product.bias.data, product.bias.dtype, begin + i);
      if (std::isnan(sum)) sum = std::numeric_limits<float>::quiet_NaN();
      store_from_float(product.y.data, product.y.dtype, (first + b) * packed.rows + begin + i, sum);
    }
}

}  // namespace

CpuSparse::CpuSparse() : kernels_(strip_kernels()) {}
CpuSparse::CpuSparse(const std::string& isa, int threads) : kernels_(strip_kernels_of(isa)), forced_threads_(threads) {}

const char* CpuSparse::isa() const noexcept { return kernels_.name; }

int CpuSparse::threads(std::int64_t elements) const {
  return forced_threads_ > 0 ? forced_threads_ : threads_for(elements);
}

std::int64_t CpuSparse::count_strips(const DenseMatrix& dense, const std::uint64_t* keep, std::uint32_t* masks,
                                     std::span<std::uint64_t> counts) {
  std::atomic<std::int64_t> lost{0};
  for_each_strip(threads(dense.rows * dense.columns), strips::count(dense.rows), [&](std::int64_t strip) {
    const CountedStrip found =
        kernels_.count(dense, keep, strip, masks + strip * strips::words_per_strip(dense.columns));
    counts[static_cast<std::size_t>(strip)] = found.live;
    if (found.lost != 0) lost += found.lost;
  });
  return lost;
}

void CpuSparse::pack_strips(const DenseMatrix& dense, const PackedMatrix& packed, void* out) {
  const std::size_t size = size_of(dense.elements.dtype);
  for_each_strip(threads(dense.rows * dense.columns), packed.strips(), [&](std::int64_t strip) {
    const std::uint64_t begin = packed.offsets[strip];
    kernels_.pack(dense, strip, packed.masks + strip * strips::words_per_strip(packed.columns),
                  static_cast<char*>(out) + begin * size, static_cast<std::int64_t>(packed.offsets[strip + 1] - begin));
  });
}

void CpuSparse::unpack_strips(const PackedMatrix& packed, std::int64_t first, std::int64_t count, void* out) {
  const auto row_bytes = static_cast<std::size_t>(packed.columns) * size_of(packed.values.dtype);
  for_each_strip(threads(count * strips::height * packed.columns), count, [&](std::int64_t at) {
    const std::int64_t strip = first + at;
    kernels_.unpack(strip_at(packed, strip), packed.values.dtype,
                    std::min(strips::height, packed.rows - strip * strips::height), packed.columns,
                    static_cast<char*>(out) + static_cast<std::size_t>(at * strips::height) * row_bytes);
  });
}

void CpuSparse::multiply_strips(const PackedMatrix& packed, const StripProduct& product, Workspace& workspace) {
  const std::int64_t tile_floats = packed.tiles() * strips::width;
  float* const x = workspace.get<float>(0, static_cast<std::size_t>(product.batch * tile_floats));
  const auto columns_from = [&](std::int64_t b) {  // of the batch, that one pass over a strip takes
    return static_cast<int>(std::min<std::int64_t>(most_columns, product.batch - b));
  };
  for (std::int64_t b = 0; b < product.batch; b += most_columns)
    for (int i = 0, n = columns_from(b); i < n; ++i)
      kernels_.arrange(product.x, (b + i) * packed.columns, packed.columns, packed.values.dtype, n * strips::width,
                       x + b * tile_floats + i * strips::width);
  for_each_strip(threads(packed.rows * packed.columns), packed.strips(), [&](std::int64_t at) {
    const Strip strip = strip_at(packed, at);
    float sums[most_columns * strips::height];
    for (std::int64_t b = 0; b < product.batch; b += most_columns) {
      const int n = columns_from(b);
      kernels_.multiply(strip, packed.values.dtype, x + b * tile_floats, n, sums);
      store_sums(packed, product, at, b, n, sums);
    }
  });
}

}  // namespace bittersweet
