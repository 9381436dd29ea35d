// The verb group_mask: which groups are taken row by row (rows.hpp), and which 64 at a time (lanes.hpp).
#include <algorithm>
#include <atomic>
#include <optional>

#include "bittersweet/engine/cpu.hpp"
#include "cpu/lanes.hpp"
#include "cpu/parallel.hpp"
#include "cpu/rows.hpp"

namespace bittersweet {

using namespace cpu;

namespace {

// Rows as `groups` says they lie.
std::int64_t mask_rows(const Kernels& kernels, const ScoreView& view, std::size_t t, const GroupRule& rule,
                       const Groups& groups, int most, std::uint64_t* mask) {
  // 64 rows share no mask word with others, unless rows interleave at a stride that 64 does not divide. Rows that
  // interleave are taken block by block.
  const Geometry& g = groups.memory.geometry;
  const bool runs = groups.runs();
  if (!runs && (groups.memory.kind != RowLayout::strided || g.input_stride % bits::per_word != 0)) most = 1;
  const std::int64_t piece = groups.own_words()
                                 ? std::clamp(std::int64_t{Chunk::size} / g.row_size() / std::int64_t{RowTile::most} *
                                                  std::int64_t{RowTile::most},
                                              std::int64_t{RowTile::most}, bits::per_word)
                                 : bits::per_word;
  const std::int64_t together = runs ? RowTile::most : piece;
  const std::int64_t run = runs ? g.rows : g.rows_per_block(), pieces = (run + piece - 1) / piece;
  std::vector<std::optional<Rows>> rows(static_cast<std::size_t>(most));
  std::atomic<std::int64_t> nan{0};
  parallel_for(most, g.rows / run * pieces, [&](int thread, std::int64_t at) {
    std::optional<Rows>& own = rows[static_cast<std::size_t>(thread)];
    if (!own) own.emplace(kernels, view, t, rule, groups, together);
    const std::int64_t begin = at / pieces * run;
    const std::int64_t end = begin + std::min(run, (at % pieces + 1) * piece);
    if (runs && !groups.own_words()) {  // 64 rows begin with a word of their own
      const std::int64_t word = g.first_of(begin + at % pieces * piece) / bits::per_word;
      std::fill_n(mask + word, bits::words(g.first_of(end - 1) + g.row_size()) - word, 0);
    }
    std::int64_t found = 0;
    for (std::int64_t row = begin + at % pieces * piece; row < end; row += together)
      found += own->run(row, std::min(together, end - row), mask);
    nan += found;
  });
  return nan;
}

// f(lanes of a thread, piece) for so many pieces, which may share words of the mask. Returns the sum of what it
// returns.
template <class F>
std::int64_t in_lanes(const Kernels& kernels, const ScoreView& view, std::size_t t, int most, std::int64_t pieces,
                      bool shared, F&& f) {
  std::vector<std::optional<Lanes>> lanes(static_cast<std::size_t>(most));
  std::atomic<std::int64_t> total{0};
  parallel_for(most, pieces, [&](int thread, std::int64_t piece) {
    std::optional<Lanes>& own = lanes[static_cast<std::size_t>(thread)];
    if (!own) own.emplace(kernels, view, t, shared && most > 1);
    total += f(*own, piece);
  });
  return total;
}

// Groups that lie one after another in memory, all but the `extra` first of them with the same share.
struct Runs {
  std::int64_t size = 0;  // elements of one; 0: the groups are not taken so
  std::int64_t count = 0, extra = 0;
};

// Are neighbours of such a group ranked in registers (group_ranks.hpp, group.hpp)?
bool ranked_in_registers(const Kernels& kernels, std::int64_t size) {
  return size == 2 || size == 4 || ((size == 8 || size == 16) && size <= kernels.lanes);
}

Runs runs_of(const Kernels& kernels, const Groups& groups, const GroupRule& rule) {
  // Rows from here on are taken one by one; those of groups that are not ranked in registers never.
  const std::int64_t shortest_alone = rule.group == 0                            ? 384
                                      : ranked_in_registers(kernels, rule.group) ? 2048
                                                                                 : groups.logical.row_size() + 1;
  const Geometry& m = groups.memory.geometry;
  const bool alike = groups.memory.kind == RowLayout::strided && groups.runs() && m.rows == groups.logical.rows;
  if (!alike || m.row_size() >= shortest_alone) return {};
  if (rule.group == 0) return {m.row_size(), m.rows, rule.extra};
  if (m.inner != 1 || m.inputs % rule.group != 0) return {};
  const std::int64_t of_row = m.inputs / rule.group;
  return {rule.group, m.rows * of_row, rule.extra * of_row};
}

// Rows that interleave, `m` in memory: at each input those of a block are neighbours. The mask's bits are clear.
std::int64_t mask_columns(const Kernels& kernels, const ScoreView& view, std::size_t t, const GroupRule& rule,
                          const Geometry& m, int most, std::uint64_t* mask) {
  const std::int64_t size = rule.group > 0 ? rule.group : m.inputs, levels = (m.inputs + size - 1) / size;
  const std::int64_t rows = m.rows_per_block(), width = rows * m.inner;
  const auto parts = [&](std::int64_t of) { return (width + of - 1) / of; };
  // Strips of much the same width, two for each thread at least.
  const std::int64_t fair = m.rows / rows * levels * width / (2 * most);
  const std::int64_t widest = std::clamp(fair, bits::per_word, Lanes::together(size));
  const std::int64_t together = bits::words(parts(parts(widest))) * bits::per_word;
  const std::int64_t strips = parts(together);
  // A thread goes down a strip, as it asks the memory ahead, for as much as a chunk.
  const std::int64_t deep = std::clamp(std::int64_t{Chunk::size} / (together * size), std::int64_t{1}, levels);
  const std::int64_t stretches = (levels + deep - 1) / deep;
  const auto cut = [&](Lanes& lanes, std::int64_t piece) {
    const std::int64_t block = piece / strips / stretches, top = piece / strips % stretches * deep;
    const std::int64_t lane = piece % strips * together, count = std::min(together, width - lane);
    const std::int64_t extra = std::clamp<std::int64_t>(rule.extra - block * rows, 0, rows) * m.inner;
    std::int64_t nan = 0;
    for (std::int64_t level = top; level < std::min(top + deep, levels); ++level) {
      const std::int64_t input = level * size;
      const std::int64_t start = block * width * m.inputs + input * m.input_stride + lane;
      if (input + size <= m.inputs) {
        nan += lanes.columns(start, m.input_stride, count, size, rule.base, extra - lane, mask);
        continue;
      }
      for (std::int64_t left = input; left < m.inputs; ++left)
        lanes.keep_live(start + (left - input) * m.input_stride, count, mask);
    }
    return nan;
  };
  const bool shared = m.input_stride % bits::per_word != 0;
  return in_lanes(kernels, view, t, most, m.rows / rows * stretches * strips, shared, cut);
}

}  // namespace

std::int64_t CpuEngine::group_mask(const ScoreView& view, std::size_t t, const GroupRule& rule, MaskTable masks) {
  const ScoreInputs& tensor = view.tensors[t];
  if (tensor.numel == 0) return 0;
  const Groups groups = groups_of(tensor, rule);
  const Geometry& m = groups.memory.geometry;
  const int most = threads(tensor.numel);
  std::uint64_t* const mask = masks[t];

  if (const Runs runs = runs_of(kernels_, groups, rule); runs.size > 0) {
    std::int64_t first = 0, nan = 0;
    if (runs.extra == 0 && ranked_in_registers(kernels_, runs.size)) {
      constexpr std::int64_t row = 4096;  // groups that are ranked in registers, in long rows of them
      const Geometry rows = matrix(tensor.numel / row, row);
      if (rows.rows > 0)
        nan =
            mask_rows(kernels_, view, t, {runs.size, rule.base, 0}, {rows, {RowLayout::strided, rows, 0}}, most, mask);
      first = rows.rows * row / runs.size;
    }
    // Neighbours are cut by one thread, so that its reads go on.
    const std::int64_t piece = std::max<std::int64_t>(1, Chunk::size / (runs.size * Lanes::width)) * Lanes::width;
    const auto cut = [&](Lanes& lanes, std::int64_t at) {
      std::int64_t found = 0;
      const std::int64_t begin = first + at * piece, end = std::min(runs.count, begin + piece);
      for (std::int64_t own = begin; own < end; own += Lanes::width)
        found += lanes.runs(own, std::min(Lanes::width, end - own), runs.size, rule.base, runs.extra, mask);
      return found;
    };
    return nan + in_lanes(kernels_, view, t, most, (runs.count - first + piece - 1) / piece, false, cut);
  }

  if (!groups.runs()) std::fill_n(mask, bits::words(tensor.numel), 0);
  const bool columns = groups.memory.kind == RowLayout::strided && !groups.runs() &&
                       (rule.group > 0 ? m.inner == groups.logical.inner : m.inner == 1);
  return columns ? mask_columns(kernels_, view, t, rule, m, most, mask)
                 : mask_rows(kernels_, view, t, rule, groups, most, mask);
}

}  // namespace bittersweet
