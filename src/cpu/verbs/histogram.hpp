// One digit of the radix search over a tile of scores. Zeros, half of a pruned model, are counted in a register, and
// neighbours in two tables by turns: increments of one bin wait for each other.
#pragma once

#include "bittersweet/radix_key.hpp"
#include "cpu/verbs/scored.hpp"
#include "cpu/verbs/signed_key.hpp"

namespace bittersweet {
namespace {

BITTERSWEET_INLINE KeyVector unsigned_key(Vec s) {
  const KeyVector key = reinterpret_cast<KeyVector>(signed_key(s)) ^ key_of_zero;
  return s.x == s.x ? key : KeyVector{} + key_of_nan;
}

// `bins` are two tables of 2^digit_bits counts.
template <class S, std::size_t St>
void histogram_tile(const Scorer& scorer, const cpu::TileInput& in, const std::uint64_t* live, std::int64_t count,
                    const Digit& digit, std::uint32_t* bins) {
  std::uint32_t* const odd = bins + (std::size_t{1} << digit.digit_bits);
  const std::uint32_t last_bin = (1u << digit.digit_bits) - 1;
  std::uint32_t zeros = 0;
  for_each_scored_word<S, StoredType<St>>(
      scorer, in, live, count, [&](std::uint64_t live_bits, const WordOfScores& scores) {
        std::uint32_t bin[bits::per_word];
        Mask zero[vectors_per_word], within[vectors_per_word];
        for (int v = 0; v < vectors_per_word; ++v) {
          const Vec s = scores[v];
          const KeyVector key = unsigned_key(s), own = (key >> digit.shift()) & last_bin;
          std::memcpy(bin + v * lanes, &own, sizeof own);
          zero[v] = equal(s, splat(0.0f));
          const KeyVector rest = digit.prefix_bits == 0 ? key ^ key : (key >> (32 - digit.prefix_bits)) ^ digit.prefix;
          within[v] = equal(reinterpret_cast<IntVector>(rest), IntVector{});
        }
        const std::uint64_t none = pack(zero) & live_bits;
        zeros += static_cast<std::uint32_t>(bits::count(none));
        std::uint64_t left = live_bits & ~none & pack(within);
        if (left == ~std::uint64_t{0})
          for (int i = 0; i < bits::per_word; i += 2) ++bins[bin[i]], ++odd[bin[i + 1]];
        else
          for (; left != 0; left = bits::without_lowest(left)) ++bins[bin[bits::lowest_or_width(left)]];
      });
  if (digit.matches(key_of_zero)) bins[digit.bin(key_of_zero)] += zeros;
}

}  // namespace
}  // namespace bittersweet
