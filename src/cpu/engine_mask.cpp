// The verbs over masks: bits of collected candidates, groups, zeros under a mask, verification, counts.
#include <numeric>

#include "bittersweet/engine/cpu.hpp"
#include "bittersweet/mask/rows.hpp"
#include "bittersweet/radix_key.hpp"
#include "cpu/parallel.hpp"
#include "cpu/tiles.hpp"

namespace bittersweet {

using namespace cpu;

namespace {

// Prunes the k lowest of a group: marks[i] = keep. Ties to the lower place; NaN last. `order` is scratch.
void keep_highest(const float* scores, std::int64_t n, std::int64_t k, std::vector<std::uint32_t>& order,
                  std::vector<char>& marks) {
  std::fill_n(marks.begin(), n, char{1});
  if (k <= 0) return;
  for (std::int64_t i = 0; i < n; ++i) order[static_cast<std::size_t>(i)] = key_of(scores[i]);
  const auto kth = order.begin() + (k - 1);
  std::nth_element(order.begin(), kth, order.begin() + n);
  const std::uint32_t threshold = *kth;
  std::int64_t ties = k;
  for (auto key = order.begin(); key != order.begin() + n; ++key) ties -= *key < threshold;
  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint32_t key = key_of(scores[i]);
    if (key < threshold || (key == threshold && ties-- > 0)) marks[static_cast<std::size_t>(i)] = 0;
  }
}

// One thread's buffers for the groups of one tensor.
struct GroupScratch {
  Tiles tiles;
  std::vector<std::int64_t> indices, live;
  std::vector<float> scores, packed;
  std::vector<std::uint32_t> order;
  std::vector<char> marks;

  GroupScratch(const Kernels& kernels, const ScoreView& view, std::size_t t, std::int64_t size)
      : tiles(kernels, view, t),
        indices(static_cast<std::size_t>(size)),
        live(indices),
        scores(indices.size()),
        packed(indices.size()),
        order(indices.size()),
        marks(indices.size()) {}
};

// Scores of `n` elements at scratch.indices, into scratch.scores; consecutive ones straight from memory.
void score_indices(GroupScratch& scratch, std::int64_t n, bool consecutive) {
  for (std::int64_t first = 0; first < n; first += tile_size) {
    const std::int64_t count = std::min(tile_size, n - first);
    const std::int64_t* const at = scratch.indices.data() + first;
    scratch.tiles.score(consecutive ? scratch.tiles.at(*at, count) : scratch.tiles.at(at, count, 1), count,
                        scratch.scores.data() + first);
  }
}

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

std::int64_t CpuEngine::group_mask(const ScoreView& view, std::size_t t, const GroupRule& rule, MaskTable masks) {
  const ScoreInputs& tensor = view.tensors[t];
  const Geometry& g = tensor.geometry;
  std::uint64_t* const mask = masks[t];
  for (std::int64_t word = 0; word < bits::words(tensor.numel); ++word)
    mask[word] = bits::live(tensor.mask, tensor.numel, word);
  if (tensor.numel == 0) return 0;
  const bool whole_row = rule.group == 0;
  const std::int64_t inputs = whole_row ? g.inputs : rule.group;  // of one group
  const std::int64_t lanes = whole_row ? 1 : g.inner, inner = whole_row ? g.inner : 1;
  const std::int64_t size = inputs * inner;
  const bool consecutive = g.input_stride == g.inner && (whole_row || g.inner == 1);

  // 64 rows start on a mask word; where rows interleave in memory one thread takes them all.
  const std::int64_t rows = g.rows_are_contiguous() ? bits::per_word : g.rows;
  std::atomic<std::int64_t> nan{0};
  parallel_for(threads(tensor.numel), (g.rows + rows - 1) / rows, [&](int, std::int64_t block) {
    GroupScratch scratch(kernels_, view, t, size);
    for (std::int64_t row = block * rows; row < std::min(g.rows, (block + 1) * rows); ++row) {
      const std::int64_t share = rule.base + (row < rule.extra);
      for (std::int64_t begin = 0; begin + inputs <= g.inputs; begin += inputs)
        for (std::int64_t lane = 0; lane < lanes; ++lane) {
          std::int64_t n = 0;
          for (std::int64_t input = begin; input < begin + inputs; ++input)
            for (std::int64_t c = 0; c < inner; ++c)
              scratch.indices[static_cast<std::size_t>(n++)] = row * g.row_stride + input * g.input_stride + lane + c;
          score_indices(scratch, n, consecutive);
          std::int64_t live = 0, numbers = 0;
          for (std::int64_t i = 0; i < n; ++i) {
            const auto at = static_cast<std::size_t>(i);
            if (!is_live(tensor, scratch.indices[at])) continue;
            numbers += scratch.scores[at] == scratch.scores[at];
            scratch.packed[static_cast<std::size_t>(live)] = scratch.scores[at];
            scratch.live[static_cast<std::size_t>(live++)] = scratch.indices[at];
          }
          nan += live - numbers;
          const std::int64_t k = std::clamp<std::int64_t>(share - (n - live), 0, numbers);
          keep_highest(scratch.packed.data(), live, k, scratch.order, scratch.marks);
          for (std::int64_t i = 0; i < live; ++i)
            bits::clear_if(mask, scratch.live[static_cast<std::size_t>(i)],
                           !scratch.marks[static_cast<std::size_t>(i)]);
        }
    }
  });
  return nan;
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
  std::fill(per_tensor.begin(), per_tensor.end(), 0);
  for (std::size_t c = 0; c < chunks.size(); ++c) per_tensor[chunks[c].tensor] += found[c];
}

void CpuEngine::popcount(std::span<const ScoreInputs> tensors, std::span<const std::uint64_t* const> masks,
                         std::span<std::int64_t> per_tensor) {
  std::int64_t total = 0;
  for (std::size_t t = 0; t < tensors.size(); ++t) total += masks[t] ? tensors[t].numel : 0;
  parallel_for(threads(total / 16), static_cast<std::int64_t>(tensors.size()), [&](int, std::int64_t at) {
    const auto t = static_cast<std::size_t>(at);
    per_tensor[t] = masks[t] ? kernels_.popcount(masks[t], bits::words(tensors[t].numel)) : tensors[t].numel;
  });
}

std::int64_t CpuEngine::survey(std::span<const ScoreInputs> tensors, std::span<const Chunk> chunks,
                               std::span<const std::uint64_t* const> masks, std::span<std::int64_t> per_tensor) {
  std::vector<std::int64_t> live(chunks.size());
  std::atomic<std::int64_t> emptied{0};
  parallel_for(threads(std::ssize(chunks) * Chunk::size / 16), std::ssize(chunks), [&](int, std::int64_t at) {
    const auto c = static_cast<std::size_t>(at);
    const Chunk& chunk = chunks[c];
    const ScoreInputs& tensor = tensors[chunk.tensor];
    const Geometry& g = tensor.geometry;
    const std::uint64_t* const mask = masks[chunk.tensor];
    live[c] = kernels_.popcount(mask + chunk.first / bits::per_word, bits::words(chunk.count));
    std::int64_t first = chunk.first == 0 ? 0 : g.rows, last = g.rows;  // interleaved rows fall to the first chunk
    if (g.rows_are_contiguous()) {                                      // else those that begin in this one
      first = (chunk.first + g.row_size() - 1) / g.row_size();
      last = (chunk.first + chunk.count + g.row_size() - 1) / g.row_size();
    }
    if (const std::int64_t found = emptied_rows(tensor, mask, first, last); found > 0) emptied += found;
  });
  std::fill(per_tensor.begin(), per_tensor.end(), 0);
  for (std::size_t c = 0; c < chunks.size(); ++c) per_tensor[chunks[c].tensor] += live[c];
  return emptied;
}

}  // namespace bittersweet
