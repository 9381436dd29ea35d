// Keys of 64 groups side by side, a lane each, in 16-bit halves.
#pragma once

#include "cpu/verbs/lane_cuts.hpp"
#include "cpu/verbs/scored.hpp"

namespace bittersweet {
namespace {

template <int... I>
BITTERSWEET_INLINE ShortVector even_ones(ShortVector a, ShortVector b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, (2 * I)...);
}

constexpr auto all_shorts = std::make_integer_sequence<int, short_lanes>{};

// The halves of 64 keys, a vector of them `step` behind the other.
BITTERSWEET_INLINE void store_upper(std::int16_t* to, std::int64_t step, const IntVector (&keys)[vectors_per_word]) {
  for (int v = 0; v < shorts_per_word; ++v) {
    const ShortVector halves = odd_ones(reinterpret_cast<ShortVector>(keys[2 * v]),
                                        reinterpret_cast<ShortVector>(keys[2 * v + 1]), all_shorts);
    std::memcpy(to + v * step, &halves, sizeof halves);
  }
}
BITTERSWEET_INLINE void store_lower(std::int16_t* to, std::int64_t step, const IntVector (&keys)[vectors_per_word]) {
  for (int v = 0; v < shorts_per_word; ++v) {
    const ShortVector halves = even_ones(reinterpret_cast<ShortVector>(keys[2 * v]),
                                         reinterpret_cast<ShortVector>(keys[2 * v + 1]), all_shorts);
    std::memcpy(to + v * step, &halves, sizeof halves);
  }
}

// The upper halves of `count` groups that lie side by side, and their live bits, 64 lanes at a time: of up to
// RowTile::most inputs from the `first` of `size` on. One input, of one, leaves the halves as its elements lie. Returns
// the live NaN.
template <class S, std::size_t St>
std::int64_t split_columns(const Scorer& scorer, std::span<const cpu::RowTile> inputs, std::int64_t count,
                           std::int64_t first, std::int64_t size, std::int16_t* upper, std::uint64_t* keep) {
  cpu::TileInput in[cpu::RowTile::most];
  const std::uint64_t* live[cpu::RowTile::most];
  for (std::size_t i = 0; i < inputs.size(); ++i) in[i] = inputs[i].in, live[i] = inputs[i].live;
  const SideBySide all[] = {
      {in, live, static_cast<std::int64_t>(inputs.size()), count, bits::words(count) * bits::per_word, inputs[0].gap}};
  std::int64_t nans = 0;
  for_each_scored_word<S, StoredType<St>>(
      scorer, all,
      [&](std::size_t, std::int64_t input, std::int64_t word, std::uint64_t alive, const WordOfScores& scores) {
        const std::int64_t at = first + input;
        std::int16_t* const to = upper + word * size * bits::per_word + at * short_lanes;
        keep[word * size + at] = alive;
        if (alive == ~std::uint64_t{0} && are_keys(scores)) [[likely]] {
          IntVector keys[vectors_per_word];
          for (int v = 0; v < vectors_per_word; ++v) keys[v] = as_bits(scores[v]);
          store_upper(to, size * short_lanes, keys);
          return;
        }
        const KeyedWord own = keyed(scores, alive);
        store_upper(to, size * short_lanes, own.keys);
        nans += bits::count(own.nan);
      });
  return nans;
}

// The lower halves, which few need: of the j-th of `size` inputs of 64 groups.
inline void lower_halves(const float* scores, std::int64_t j, std::int64_t size, std::int16_t* lower) {
  WordOfScores own;
  for (int v = 0; v < vectors_per_word; ++v) own[v] = load(scores, v * lanes);
  store_lower(lower + j * short_lanes, size * short_lanes, keyed(own, ~std::uint64_t{0}).keys);
}

}  // namespace
}  // namespace bittersweet
