// Packed matrices: strips shared out to threads.
#include <atomic>
#include <cstring>
#include <utility>

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

constexpr std::int64_t block_columns = 16, block_words = 256;  // of a matrix unit: of the batch; a tile of x
constexpr std::int64_t few_blocks = 2;
constexpr std::int64_t most_strips_decoded = 8;  // at a time: they and two blocks of x fit the second cache
constexpr std::int64_t least_batch_of_tiles = 2;

constexpr std::int64_t most_strips_of_panels = 8;  // whose panels and sums share the second cache with a chunk of x
constexpr std::int64_t words_of_x_that_stay = 1 << 16;
constexpr std::int64_t most_columns_of_panels = 576;  // beyond, their sums leave it

// Columns first .. first + count of the batch, in vectors of width, as chunks that are as wide as each other.
struct Chunk {
  std::int64_t first, count, width;
};
std::vector<Chunk> chunks_of(std::int64_t first, std::int64_t count, std::int64_t step, std::int64_t most) {
  const std::int64_t steps = (count + step - 1) / step, pieces = (steps * step + most - 1) / most;
  std::vector<Chunk> made;
  for (std::int64_t piece = 0, end = first + count; piece < pieces; ++piece) {
    const std::int64_t width = step * (steps / pieces + (piece < steps % pieces));
    made.push_back({first, std::min(width, end - first), width});
    first += width;
  }
  return made;
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

void CpuSparse::repack_rows(const PackedMatrix& packed, const RowMatrix& rows) {
  const std::size_t size = size_of(packed.values.dtype);
  for_each_strip(threads(packed.rows * packed.columns), packed.strips(), [&](std::int64_t at) {
    const Strip strip = strip_at(packed, at);
    const std::int64_t first = at * strips::height, here = std::min(strips::height, packed.rows - first);
    std::int64_t next[strips::height]{};
    for (std::int64_t word = 0; word < strip.tiles * strips::height; ++word)
      next[word % strips::height] += strips::live(strip.masks[word]);
    auto begin = static_cast<std::int64_t>(packed.offsets[at]);
    for (std::int64_t i = 0; i < here; ++i) {
      rows.row_offsets[first + i] = begin;
      begin += std::exchange(next[i], begin);
    }
    const auto* from = static_cast<const char*>(strip.values);
    for (std::int64_t tile = 0; tile < strip.tiles; ++tile)
      for (std::int64_t i = 0; i < here; ++i) {
        const std::uint32_t mask = strip.masks[tile * strips::height + i];
        const auto live = static_cast<std::size_t>(strips::live(mask));
        rows.set_mask(first + i, tile, mask);
        std::memcpy(static_cast<char*>(rows.values.data) + static_cast<std::size_t>(next[i]) * size, from, live * size);
        next[i] += static_cast<std::int64_t>(live);
        from += live * size;
      }
  });
}

void CpuSparse::repack_rows(const RowMatrix& rows, std::uint32_t* masks, std::uint64_t* offsets, void* out) {
  const std::size_t size = size_of(rows.values.dtype);
  const std::int64_t tiles = strips::tiles(rows.columns), count = strips::count(rows.rows);
  offsets[count] = 0;
  for_each_strip(threads(rows.rows * rows.columns), count, [&](std::int64_t at) {
    const std::int64_t first = at * strips::height, here = std::min(strips::height, rows.rows - first);
    std::int64_t next[strips::height];
    std::copy_n(rows.row_offsets + first, here, next);
    const auto begin = static_cast<std::uint64_t>(next[0]);
    char* to = static_cast<char*>(out) + begin * size;
    std::uint32_t* mask = masks + at * strips::words_per_strip(rows.columns);
    for (std::int64_t tile = 0; tile < tiles; ++tile)
      for (std::int64_t i = 0; i < strips::height; ++i, ++mask) {
        *mask = i < here ? rows.mask(first + i, tile) : 0;
        if (*mask == 0) continue;
        const auto live = static_cast<std::size_t>(strips::live(*mask));
        std::memcpy(to, static_cast<const char*>(rows.values.data) + static_cast<std::size_t>(next[i]) * size,
                    live * size);
        next[i] += static_cast<std::int64_t>(live);
        to += live * size;
      }
    offsets[at] = begin;
    if (at == count - 1) offsets[count] = static_cast<std::uint64_t>(next[here - 1]);
  });
}

void CpuSparse::multiply_strips(const PackedMatrix& packed, const StripProduct& product, Workspace& workspace) {
  const bool bf16 = packed.values.dtype == DType::bf16 && product.x.dtype == DType::bf16;
  if (kernels_.tiles != nullptr && bf16 && !product.reproducible && product.batch >= least_batch_of_tiles)
    return multiply_by_tiles(packed, product, workspace);
  const bool by_pairs = kernels_.pairs != nullptr && bf16 && product.batch > 1 && !product.reproducible;
  const PanelKernels* const panels = by_pairs ? &kernels_.pairs->panels : kernels_.panels;
  if (panels != nullptr && !product.reproducible && product.batch >= panels->least_batch)
    return multiply_by_panels(*panels, packed, product, workspace);
  multiply_by_lanes(by_pairs ? kernels_.pairs->lanes : kernels_.lanes, packed, product, workspace);
}

void CpuSparse::multiply_by_lanes(const LaneKernels& kernels, const PackedMatrix& packed, const StripProduct& product,
                                  Workspace& workspace) {
  const std::int64_t words = packed.tiles() * kernels.words_per_tile;
  auto* const x = workspace.get<std::uint32_t>(0, static_cast<std::size_t>(product.batch * words));
  const auto columns_from = [&](std::int64_t b) {  // of the batch, that one pass over a strip takes
    return static_cast<int>(std::min<std::int64_t>(most_columns, product.batch - b));
  };
  for (std::int64_t b = 0; b < product.batch; b += most_columns)
    for (int i = 0, n = columns_from(b); i < n; ++i)
      kernels.arrange(product.x, (b + i) * packed.columns, packed.columns, packed.values.dtype,
                      n * kernels.words_per_tile, x + b * words + i * kernels.words_per_tile);
  for_each_strip(threads(packed.rows * packed.columns), packed.strips(), [&](std::int64_t at) {
    const Strip strip = strip_at(packed, at);
    float sums[most_columns * strips::height];
    for (std::int64_t b = 0; b < product.batch; b += most_columns) {
      const int n = columns_from(b);
      kernels.multiply(strip, packed.values.dtype, x + b * words, n, sums);
      kernels_.store(product, packed.rows, at, b, n, sums);
    }
  });
}

void CpuSparse::multiply_by_tiles(const PackedMatrix& packed, const StripProduct& product, Workspace& workspace) {
  const TileKernels& kernels = *kernels_.tiles;
  const std::int64_t tiles = packed.tiles(), block_size = tiles * block_words;
  const std::int64_t present = (product.batch + block_columns - 1) / block_columns;
  const std::int64_t blocks = present <= few_blocks ? present : (present + 1) / 2 * 2;  // pairs
  auto* const x = workspace.get<std::uint32_t>(0, static_cast<std::size_t>(blocks * block_size));
  const int workers = threads(packed.rows * packed.columns);
  const Team team;
  parallel_for(threads(product.batch * packed.columns), blocks, [&](int, std::int64_t u) {
    const std::int64_t first = u * block_columns, rows = std::min(block_columns, product.batch - first);
    kernels.arrange(static_cast<const std::uint16_t*>(product.x.data) + first * packed.columns, rows, packed.columns,
                    x + u * block_size);
  });
  const auto store = [&](std::int64_t strip, std::int64_t u, const float* sums) {
    const std::int64_t first = u * block_columns, count = std::min(block_columns, product.batch - first);
    if (count > 0) kernels_.store(product, packed.rows, strip, first, count, sums);
  };
  if (blocks <= few_blocks)
    return for_each_strip(workers, packed.strips(), [&](std::int64_t strip) {
      float sums[few_blocks * block_words];
      kernels.multiply_few(strip_at(packed, strip), x, static_cast<int>(blocks), sums);
      for (std::int64_t u = 0; u < blocks; ++u) store(strip, u, sums + u * block_words);
    });
  const std::int64_t share = packed.strips() / workers / 4 / 2 * 2;  // so that threads end together
  const std::int64_t at_once = std::clamp<std::int64_t>(share, 2, most_strips_decoded);
  const std::int64_t pieces = (packed.strips() + at_once - 1) / at_once;
  const std::int64_t room = at_once * tiles * strips::height * strips::width;
  auto* const decoded = workspace.get<std::uint16_t>(1, static_cast<std::size_t>(workers * room));
  parallel_for(workers, pieces, [&](int thread, std::int64_t piece) {
    const std::int64_t begin = piece * at_once, end = std::min(packed.strips(), begin + at_once);
    std::uint16_t* const own = decoded + thread * room;
    const auto at = [&](std::int64_t strip) { return own + (strip - begin) * tiles * strips::height * strips::width; };
    for (std::int64_t strip = begin; strip < end; ++strip) kernels.decode(strip_at(packed, strip), at(strip));
    for (std::int64_t u = 0; u < blocks; u += 2)
      for (std::int64_t strip = begin; strip < end; strip += 2) {
        const std::int64_t second = std::min(strip + 1, end - 1);
        float sums[4 * block_words];
        kernels.multiply_decoded(at(strip), at(second), tiles, x + u * block_size, sums);
        for (std::int64_t s = 0; s <= second - strip; ++s)
          for (std::int64_t v = 0; v < 2; ++v) store(strip + s, u + v, sums + (2 * s + v) * block_words);
      }
  });
}

void CpuSparse::multiply_by_panels(const PanelKernels& kernels, const PackedMatrix& packed, const StripProduct& product,
                                   Workspace& workspace) {
  const std::int64_t slabs = (product.batch + most_columns_of_panels - 1) / most_columns_of_panels;
  const std::int64_t most = (product.batch + slabs - 1) / slabs;
  const std::int64_t padded = (most + kernels.step - 1) / kernels.step * kernels.step;
  const std::int64_t tiles = packed.tiles(), x_words = tiles * kernels.words_per_tile;
  const int workers = threads(packed.rows * packed.columns * std::max<std::int64_t>(1, product.batch / 8));
  const std::int64_t share = packed.strips() / workers / 4;  // so that threads end together
  const std::int64_t wanted = x_words * padded / words_of_x_that_stay;
  const std::int64_t at_once = std::clamp<std::int64_t>(std::min(share, wanted), 1, most_strips_of_panels);
  const std::int64_t pieces = (packed.strips() + at_once - 1) / at_once;
  const std::int64_t sums_of_strip = strips::height * padded;
  const std::int64_t room = kernels.panel_words() + at_once * sums_of_strip;
  auto* const x = workspace.get<std::uint32_t>(0, static_cast<std::size_t>(x_words * padded));
  auto* const scratch = workspace.get<float>(1, static_cast<std::size_t>(workers * room));
  const Team team;
  for (std::int64_t begin = 0; begin < product.batch; begin += most) {
    const std::vector<Chunk> chunks =
        chunks_of(begin, std::min(most, product.batch - begin), kernels.step, kernels.most_width);
    const auto count = static_cast<std::int64_t>(chunks.size());
    parallel_for(workers, count, [&](int, std::int64_t u) {
      const Chunk& chunk = chunks[static_cast<std::size_t>(u)];
      kernels.arrange(product.x, chunk.first, chunk.count, packed.columns, packed.values.dtype, chunk.width,
                      x + (chunk.first - begin) * x_words);
    });
    parallel_for(workers, pieces, [&](int thread, std::int64_t piece) {
      const std::int64_t first = piece * at_once, here = std::min(at_once, packed.strips() - first);
      float* const panel = scratch + thread * room;
      float* const sums = panel + kernels.panel_words();
      std::fill_n(sums, here * sums_of_strip, 0.0f);
      const void* values[most_strips_of_panels];
      for (std::int64_t s = 0; s < here; ++s) values[s] = strip_at(packed, first + s).values;
      for (std::int64_t tile = 0; tile < tiles; tile += kernels.most_tiles)
        for (std::int64_t s = 0, n = std::min(kernels.most_tiles, tiles - tile); s < here; ++s) {
          kernels.decode(strip_at(packed, first + s).masks + tile * strips::height, packed.values.dtype, n, &values[s],
                         panel);
          for (const Chunk& chunk : chunks)
            kernels.multiply(panel, x + (chunk.first - begin) * x_words + tile * kernels.words_per_tile * chunk.width,
                             n, chunk.width, sums + s * sums_of_strip + (chunk.first - begin) * strips::height);
        }
      float turned[64 * strips::height];
      for (std::int64_t s = 0; s < here; ++s)
        for (const Chunk& chunk : chunks) {
          kernels.turn(sums + s * sums_of_strip + (chunk.first - begin) * strips::height, chunk.width, turned);
          kernels_.store(product, packed.rows, first + s, chunk.first, chunk.count, turned);
        }
    });
  }
}

}  // namespace bittersweet
