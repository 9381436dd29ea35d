// The verbs over masks: bits of collected candidates, zeros under a mask, verification, counts.
#include <numeric>

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

}  // namespace

void CpuEngine::settle(std::span<const Chunk> chunks, std::span<const Candidates> candidates, float threshold,
                       std::span<const std::int64_t> ties, MaskTable masks) {
  std::int64_t total = 0;
  for (const Candidates& c : candidates) total += c.count;
  parallel_for(threads(total * 8), static_cast<std::int64_t>(chunks.size()), [&](int, std::int64_t c) {
    const auto at = static_cast<std::size_t>(c);
    const Candidates& found = candidates[at];
    std::uint64_t* const mask = masks[chunks[at].tensor] + chunks[at].first / bits::per_word;
    std::int64_t left = ties[at];
    for (std::uint32_t i = 0; i < found.count; ++i) {
      const bool tie = found.scores[i] == threshold && left > 0;
      left -= tie;
      bits::clear_if(mask, found.offsets[i], found.scores[i] < threshold || tie);
    }
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
  std::vector<std::int64_t> live(chunks.size());
  std::atomic<std::int64_t> emptied{0};
  parallel_for(threads(std::ssize(chunks) * Chunk::size / 16), std::ssize(chunks), [&](int, std::int64_t at) {
    const auto c = static_cast<std::size_t>(at);
    const Chunk& chunk = chunks[c];
    const ScoreInputs& tensor = tensors[chunk.tensor];
    const RowLayout rows = rows_in_memory(tensor.geometry, tensor.order);
    const Geometry& g = rows.geometry;
    const std::uint64_t* const mask = masks[chunk.tensor];
    live[c] = kernels_.popcount(mask + chunk.first / bits::per_word, bits::words(chunk.count));
    std::int64_t first = chunk.first == 0 ? 0 : g.rows, last = g.rows;   // interleaved rows fall to the first chunk
    if (rows.kind != RowLayout::scattered && g.rows_are_contiguous()) {  // else those that begin in this one
      first = (chunk.first + g.row_size() - 1) / g.row_size();
      last = (chunk.first + chunk.count + g.row_size() - 1) / g.row_size();
    }
    if (const std::int64_t found = emptied_rows(tensor, rows, mask, first, last); found > 0) emptied += found;
  });
  add_chunks(chunks, live, per_tensor);
  return emptied;
}

}  // namespace bittersweet
