// The verbs of engine.hpp that only ask where memory is, for engines whose tensors and masks lie in the host's.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "bittersweet/engine/summaries.hpp"
#include "bittersweet/mask/bit_layout.hpp"

namespace bittersweet {

inline void fill_chunk(const ScoreInputs& tensor, const Chunk& chunk, std::uint64_t* mask, bool keep) {
  const std::int64_t first = chunk.first / bits::per_word;
  for (std::int64_t word = first; word < first + bits::words(chunk.count); ++word)
    mask[word] = keep ? bits::live(tensor.mask, tensor.numel, word) : 0;
}

// Bits of `mask` that differ from the tensor's current mask.
inline std::int64_t differing(const ScoreInputs& tensor, const std::uint64_t* mask) {
  std::int64_t count = 0;
  for (std::int64_t word = 0; word < bits::words(tensor.numel); ++word)
    count += bits::count(mask[word] ^ bits::live(tensor.mask, tensor.numel, word));
  return count;
}

// Logical index of the first NaN score of a tensor from `begin` on, of a row's first `inputs` ones; -1: there is none.
// Slow, and only on the way to an error.
inline std::int64_t next_nonfinite(const ScoreView& view, std::size_t t, std::int64_t inputs, std::int64_t begin) {
  const ScoreInputs& tensor = view.tensors[t];
  return std::visit(
      [&](const auto& formula) -> std::int64_t {
        for (std::int64_t i = begin; i < tensor.numel; ++i)
          if (const std::int64_t at = tensor.order.memory_of(i); tensor.geometry.input_of(i) < inputs &&
                                                                 is_live(tensor, at) &&
                                                                 std::isnan(score_element(formula, view, t, at)))
            return i;
        return -1;
      },
      view.scorer);
}

struct HostMemory {
  void fill_mask(std::span<const ScoreInputs> tensors, std::span<const Chunk> chunks, std::span<const ChunkFill> fills,
                 std::span<std::uint64_t* const> masks) {
    for (const ChunkFill& fill : fills) {
      const Chunk& chunk = chunks[fill.chunk];
      fill_chunk(tensors[chunk.tensor], chunk, masks[chunk.tensor], fill.keep);
    }
  }

  std::int64_t differing(std::span<const ScoreInputs> tensors, std::span<const std::uint64_t* const> masks) {
    std::int64_t count = 0;
    for (std::size_t t = 0; t < tensors.size(); ++t) count += bittersweet::differing(tensors[t], masks[t]);
    return count;
  }

  std::int64_t first_nonfinite(const ScoreView& view, std::size_t t, std::int64_t inputs) {
    return next_nonfinite(view, t, inputs, 0);
  }

  const std::uint64_t* words(const std::uint64_t* mask, std::int64_t, std::vector<std::uint64_t>&) { return mask; }

  std::uint64_t* scratch(std::vector<std::uint64_t>& words) { return words.data(); }

  void clear_bits(std::uint64_t* mask, std::span<const std::uint64_t> words) {
    for (std::size_t word = 0; word < words.size(); ++word) mask[word] &= ~words[word];
  }
};

}  // namespace bittersweet
