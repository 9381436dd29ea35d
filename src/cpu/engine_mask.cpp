// The verbs over masks: bits of collected candidates, zeros under a mask, verification, counts.
#include "bittersweet/engine/cpu.hpp"
#include "bittersweet/mask/rows.hpp"
#include "cpu/parallel.hpp"
#include "cpu/tiles.hpp"

namespace bittersweet {

using namespace cpu;

namespace {

// Dead elements that are not zero (of either sign), by their bits.
template <class T>
std::int64_t violations(const T* data, const std::uint64_t* mask, std::int64_t first, std::int64_t count) {
  constexpr T magnitude = std::numeric_limits<T>::max() >> 1;
  std::int64_t found = 0;
  for (std::int64_t i = first; i < first + count; i += bits::per_word) {
    const std::int64_t n = std::min(bits::per_word, first + count - i);
    const std::uint64_t dead = ~mask[i / bits::per_word] & bits::valid(n, 0);
    T any = 0;  // most words hold zeros alone, seen without a look at each element
    T judged[bits::per_word];
    bits::spread(dead, judged);
    for (std::int64_t j = 0; j < n; ++j) any |= static_cast<T>(data[i + j] & magnitude & judged[j]);
    if (any == 0) continue;
    for (std::int64_t j = 0; j < n; ++j) found += (data[i + j] & magnitude & judged[j]) != 0;
  }
  return found;
}

void add_chunks(std::span<const Chunk> chunks, const std::vector<std::int64_t>& found,
                std::span<std::int64_t> per_tensor) {
  std::fill(per_tensor.begin(), per_tensor.end(), 0);
  for (std::size_t c = 0; c < chunks.size(); ++c) per_tensor[chunks[c].tensor] += found[c];
}

// Clears the bits of a chunk's candidates below the threshold, and of its first `ties` at it; how many.
std::int64_t settle_chunk(const Kernels& kernels, const Candidates& found, float threshold, std::int64_t ties,
                          std::uint64_t* mask) {
  std::int64_t cleared = 0;
  for (std::int64_t first = 0; first < found.count; first += bits::per_word) {
    const std::int64_t n = std::min<std::int64_t>(bits::per_word, found.count - first);
    const float* scores = found.scores + first;
    alignas(64) float rest[bits::per_word];
    if (n < bits::per_word) {
      std::fill(std::copy_n(scores, n, rest), std::end(rest), 0.0f);
      scores = rest;
    }
    std::uint64_t pruned = 0, equal = 0;
    kernels.compare_listed(scores, n, threshold, &pruned, &equal);
    for (; equal != 0 && ties > 0; --ties, equal = bits::without_lowest(equal))
      bits::set(&pruned, bits::lowest_or_width(equal));
    cleared += bits::count(pruned);
    for (; pruned != 0; pruned = bits::without_lowest(pruned))
      bits::clear(mask, found.offsets[first + bits::lowest_or_width(pruned)]);
  }
  return cleared;
}

// Live elements by tensor, and rows that became empty. live(c) prepares a chunk's words and counts their live bits;
// rows of which other chunks have words too are looked at when all are prepared.
template <class F>
std::int64_t survey_after(int threads, std::span<const ScoreInputs> tensors, std::span<const Chunk> chunks,
                          std::span<const std::uint64_t* const> masks, std::span<std::int64_t> per_tensor, F&& live) {
  std::vector<std::int64_t> counts(chunks.size());
  std::atomic<std::int64_t> emptied{0};
  const auto look = [&](const Chunk& chunk, std::int64_t first, std::int64_t last, const RowLayout& rows) {
    if (const std::int64_t found = emptied_rows(tensors[chunk.tensor], rows, masks[chunk.tensor], first, last))
      emptied += found;
  };
  struct Rows {  // from `shared` to `last` begin in this chunk and do not end there; all that interleave in the first
    std::int64_t shared = 0, last = 0;
  };
  std::vector<Rows> others(chunks.size());
  parallel_for(threads, std::ssize(chunks), [&](int, std::int64_t at) {
    const auto c = static_cast<std::size_t>(at);
    counts[c] = live(c);
    const Chunk& chunk = chunks[c];
    const ScoreInputs& tensor = tensors[chunk.tensor];
    const RowLayout rows = rows_in_memory(tensor.geometry, tensor.order);
    const Geometry& g = rows.geometry;
    if (rows.kind == RowLayout::scattered || !g.rows_are_contiguous()) {
      if (chunk.first == 0) others[c] = {0, g.rows};
      return;
    }
    const std::int64_t size = g.row_size(), end = chunk.first + chunk.count, first = (chunk.first + size - 1) / size;
    others[c] = {std::max(first, end / size), (end + size - 1) / size};
    look(chunk, first, others[c].shared, rows);
  });
  const auto has_others = [](const Rows& rows) { return rows.shared < rows.last; };
  if (std::ranges::any_of(others, has_others))
    parallel_for(threads, std::ssize(chunks), [&](int, std::int64_t at) {
      const auto c = static_cast<std::size_t>(at);
      const ScoreInputs& tensor = tensors[chunks[c].tensor];
      if (has_others(others[c]))
        look(chunks[c], others[c].shared, others[c].last, rows_in_memory(tensor.geometry, tensor.order));
    });
  add_chunks(chunks, counts, per_tensor);
  return emptied;
}

}  // namespace

void CpuEngine::settle(std::span<const Chunk> chunks, std::span<const Candidates> candidates, float threshold,
                       std::span<const std::int64_t> ties, MaskTable masks) {
  std::int64_t total = 0;
  for (const Candidates& c : candidates) total += c.count;
  parallel_for(threads(total * 8), std::ssize(chunks), [&](int, std::int64_t at) {
    const auto c = static_cast<std::size_t>(at);
    settle_chunk(kernels_, candidates[c], threshold, ties[c],
                 masks[chunks[c].tensor] + chunks[c].first / bits::per_word);
  });
}

void CpuEngine::apply_mask(std::span<const ScoreInputs> tensors, std::span<const Chunk> chunks,
                           std::span<const std::uint64_t* const> masks, std::uint32_t which) {
  std::int64_t total = 0;
  for (const Chunk& chunk : chunks) total += chunk.count;
  parallel_for(threads(total), static_cast<std::int64_t>(chunks.size()), [&](int, std::int64_t c) {
    const Chunk& chunk = chunks[chunks.size() - 1 - static_cast<std::size_t>(c)];  // what was read last is still cached
    if (masks[chunk.tensor] == nullptr) return;
    ApplyArrays arrays;
    std::size_t used = 0;
    for (const std::uint32_t role : roles::all) {
      const TensorView& array = roles::of(tensors[chunk.tensor], role);
      if (!(which & role) || array.data == nullptr) continue;
      arrays.data[used] = static_cast<char*>(array.data) + static_cast<std::size_t>(chunk.first) * size_of(array.dtype);
      arrays.narrow[used++] = array.dtype != DType::f32;
    }
    kernels_.apply_mask(arrays, masks[chunk.tensor] + chunk.first / bits::per_word, chunk.count);
  });
}

void CpuEngine::verify_mask(std::span<const ScoreInputs> tensors, std::span<const Chunk> chunks,
                            std::span<const std::uint64_t* const> masks, std::uint32_t which,
                            std::span<std::int64_t> per_tensor) {
  std::vector<std::int64_t> found(chunks.size());
  std::int64_t total = 0;
  for (const Chunk& chunk : chunks) total += chunk.count;
  parallel_for(threads(total), static_cast<std::int64_t>(chunks.size()), [&](int, std::int64_t c) {
    const Chunk& chunk = chunks[static_cast<std::size_t>(c)];
    if (masks[chunk.tensor] == nullptr) return;
    for (const std::uint32_t role : roles::all) {
      const TensorView& array = roles::of(tensors[chunk.tensor], role);
      if (!(which & role) || array.data == nullptr) continue;
      found[static_cast<std::size_t>(c)] +=
          array.dtype == DType::f32
              ? violations(static_cast<const std::uint32_t*>(array.data), masks[chunk.tensor], chunk.first, chunk.count)
              : violations(static_cast<const std::uint16_t*>(array.data), masks[chunk.tensor], chunk.first,
                           chunk.count);
    }
  });
  add_chunks(chunks, found, per_tensor);
}

void CpuEngine::popcount(std::span<const ScoreInputs> tensors, std::span<const std::uint64_t* const> masks,
                         std::span<std::int64_t> per_tensor) {
  const std::vector<Chunk> chunks = make_chunks(tensors);
  std::vector<std::int64_t> live(chunks.size());
  std::int64_t masked = 0;
  for (std::size_t t = 0; t < tensors.size(); ++t) masked += masks[t] ? tensors[t].numel : 0;
  parallel_for(threads(masked / 16), std::ssize(chunks), [&](int, std::int64_t at) {
    const auto c = static_cast<std::size_t>(at);
    const Chunk& chunk = chunks[c];
    const std::uint64_t* const mask = masks[chunk.tensor];
    live[c] = mask ? kernels_.popcount(mask + chunk.first / bits::per_word, bits::words(chunk.count)) : chunk.count;
  });
  add_chunks(chunks, live, per_tensor);
}

std::int64_t CpuEngine::survey(std::span<const ScoreInputs> tensors, std::span<const Chunk> chunks,
                               std::span<const std::uint64_t* const> masks, std::span<std::int64_t> per_tensor) {
  return survey_after(threads(std::ssize(chunks) * Chunk::size / 16), tensors, chunks, masks, per_tensor,
                      [&](std::size_t c) {
                        return kernels_.popcount(masks[chunks[c].tensor] + chunks[c].first / bits::per_word,
                                                 bits::words(chunks[c].count));
                      });
}

std::int64_t CpuEngine::settle_and_survey(std::span<const ScoreInputs> tensors, std::span<const Chunk> chunks,
                                          const Unsettled& unsettled, MaskTable masks,
                                          std::span<std::int64_t> per_tensor) {
  const std::vector<const std::uint64_t*> settled(masks.begin(), masks.end());
  return survey_after(
      threads(std::ssize(chunks) * Chunk::size / 16), tensors, chunks, settled, per_tensor, [&](std::size_t c) {
        std::uint64_t* const words = masks[chunks[c].tensor] + chunks[c].first / bits::per_word;
        const std::int64_t cleared =
            unsettled.candidates.empty()
                ? 0
                : settle_chunk(kernels_, unsettled.candidates[c], unsettled.threshold, unsettled.ties[c], words);
        return unsettled.live[c] < 0 ? kernels_.popcount(words, bits::words(chunks[c].count))
                                     : unsettled.live[c] - cleared;
      });
}

}  // namespace bittersweet
