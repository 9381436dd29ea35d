// histogram: the exact k-th score by two passes over 16-bit digits of the order-preserving key, scores recomputed in
// each. Independent of the data, and mergeable: several devices or processes add their bins.
#pragma once

#include <span>

#include "bittersweet/engine/engine.hpp"
#include "bittersweet/radix_key.hpp"
#include "bittersweet/select/threshold.hpp"

namespace bittersweet {

struct Histogram {
  static constexpr std::string_view name = "histogram";
  static constexpr bool approximate = false;
};

// The state between digits: a pure step from (state, bins) to state, the same on every device and on merged bins.
struct RadixState {
  Digit digit;
  std::int64_t rank = 0;   // 1-based, within the current prefix
  std::int64_t below = 0;  // keys under the current prefix
  std::int64_t equal = 0;  // keys in the chosen bin
};

inline RadixState next_digit(RadixState state, std::span<const std::int64_t> bins) {
  std::size_t bin = 0;
  while (bin + 1 < bins.size() && state.rank > bins[bin]) {
    state.rank -= bins[bin];
    state.below += bins[bin];
    ++bin;
  }
  state.equal = bins[bin];
  state.digit.prefix = (state.digit.prefix << state.digit.digit_bits) | static_cast<std::uint32_t>(bin);
  state.digit.prefix_bits += state.digit.digit_bits;
  return state;
}

// NaN are counted (they fill the last bin of the first digit) and never chosen: rank is capped to the numbers.
template <Engine E>
Selection select_kth(const Histogram&, E& engine, const ScoreView& view, std::span<const Chunk> chunks,
                     std::int64_t rank, const SelectContext& context, Workspace& workspace) {
  constexpr std::size_t bins_per_digit = 1u << 16;
  Selection result;
  std::vector<std::int64_t> bins(bins_per_digit);
  RadixState state;
  for (int pass = 0; pass < 2; ++pass) {
    engine.histogram(view, chunks, state.digit, bins, workspace);
    if (pass == 0) {
      result.nan = bins.back();
      bins.back() = 0;
      result.rank = std::min(rank, context.live - result.nan);
      if (result.rank <= 0) return result;
      state.rank = result.rank;
    }
    state = next_digit(state, bins);
    ++result.passes;
    context.pass_done();
  }
  result.value = score_of(state.digit.prefix);
  result.below = state.below;
  result.equal = state.equal;
  result.extra_bytes = static_cast<std::int64_t>(bins_per_digit * sizeof(std::int64_t));
  return result;
}

}  // namespace bittersweet
