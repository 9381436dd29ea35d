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

// `found`: the bin that holds the rank-th key, and what lies before it.
BITTERSWEET_FORMULA RadixState next_digit(RadixState state, const Found& found) {
  state.rank -= static_cast<std::int64_t>(found.below);
  state.below += static_cast<std::int64_t>(found.below);
  state.equal = static_cast<std::int64_t>(found.count);
  state.digit.prefix = (state.digit.prefix << state.digit.digit_bits) | static_cast<std::uint32_t>(found.bin);
  state.digit.prefix_bits += state.digit.digit_bits;
  return state;
}

inline Found find_order(std::span<const std::int64_t> bins, std::int64_t order) {
  Found found;
  while (found.bin + 1 < bins.size() &&
         order > static_cast<std::int64_t>(found.below) + bins[static_cast<std::size_t>(found.bin)])
    found.below += static_cast<std::uint64_t>(bins[static_cast<std::size_t>(found.bin++)]);
  found.count = static_cast<std::uint64_t>(bins[static_cast<std::size_t>(found.bin)]);
  return found;
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
    state = next_digit(state, find_order(bins, state.rank));
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
