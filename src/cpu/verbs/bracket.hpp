// The hot pass: one tile against a bracket. Two comparisons a vector make two words per 64 elements, "surely below"
// and "undecided"; the few undecided positions are listed without a branch, gathered, scored exactly and classified.
#pragma once

#include <algorithm>
#include <limits>

#include "bittersweet/mask/bit_layout.hpp"
#include "cpu/verbs/score.hpp"

namespace bittersweet {
namespace {

struct Decided {  // one bit an element of a group of 64
  std::uint64_t below = 0;
  std::uint64_t equal_low = 0;
  std::uint64_t equal_high = 0;
  std::uint64_t undecided = 0;
};

template <cpu::Decide D, class S, class T>
BITTERSWEET_INLINE Decided decide(const S& scorer, const cpu::TileInput& in, std::int64_t index,
                                  const cpu::BracketPlan& plan) {
  constexpr std::uint32_t all = static_cast<std::uint32_t>((std::uint64_t{1} << lanes) - 1);
  Decided group;
  for (int k = 0; k < bits::per_word; k += lanes) {
    std::uint32_t below, above;
    if constexpr (D == cpu::Decide::by_score) {
      const Vec s = score_at<S, T>(scorer, in, index + k);
      below = less(s, splat(plan.bracket.low));
      above = less(splat(plan.bracket.high), s);
    } else if constexpr (D == cpu::Decide::by_score_heavy) {
      const Vec s = score_at<S, T>(scorer, in, index + k);
      const Vec low = splat(plan.bracket.low), high = splat(plan.bracket.high);
      below = less_equal(s, low);
      above = less_equal(high, s);
      group.equal_low |= static_cast<std::uint64_t>(equal(s, low)) << k;
      group.equal_high |= static_cast<std::uint64_t>(equal(s, high)) << k;
    } else {
      const Elements<Vec> x = elements_at<S, T>(in, index + k);
      const Vec p = scorer.powered(x);
      above = less_equal(splat(plan.power_high), p) & less_equal(p, splat(std::numeric_limits<float>::max()));
      if constexpr (D == cpu::Decide::by_power)
        below = less(p, splat(plan.power_low));
      else
        below = equal(p, splat(0.0f)) & equal(scorer.least_factor(x), splat(0.0f));
    }
    group.below |= static_cast<std::uint64_t>(below) << k;
    group.undecided |= static_cast<std::uint64_t>(all & ~(below | above)) << k;
  }
  if constexpr (D == cpu::Decide::by_score_heavy) {
    group.below &= ~group.equal_low;
    group.undecided &= ~group.equal_low;
    if (plan.bracket.low == plan.bracket.high) group.equal_high = 0;
  }
  return group;
}

// Exact scores of the listed positions of a tile, and what they mean.
template <class S, class T>
void classify(const S& scorer, const cpu::TileInput& in, const std::uint16_t* list, std::int64_t count,
              const cpu::BracketPlan& plan, const cpu::TilePlace& place, cpu::BracketState& state) {
  constexpr std::int64_t batch = 256;
  const float low = plan.bracket.low, high = plan.bracket.high;
  for (std::int64_t first = 0; first < count; first += batch, list += batch) {
    const std::int64_t n = std::min(batch, count - first);
    const std::int64_t padded = (n + lanes - 1) / lanes * lanes;
    const Padded<S, T, batch> gathered(in, n, padded, [&](const T* array, std::int64_t j) { return array[list[j]]; });
    float scores[batch];
    for (std::int64_t j = 0; j < padded; j += lanes) store(scores, j, score_at<S, T>(scorer, gathered.in, j));

    const bool room = state.stored + n <= state.capacity;
    std::int64_t below = 0, equal_low = 0, inside = 0, equal_high = 0, nan = 0;
    for (std::int64_t j = 0; j < n; ++j) {
      const float s = scores[j];
      const bool is_inside = s > low && s < high;
      below += s < low;
      equal_low += s == low;
      equal_high += s == high;
      nan += s != s;
      if (place.mask) bits::clear_if(place.mask, list[j], s <= low);
      if (room) {
        state.scores[state.stored + inside] = s;
        state.offsets[state.stored + inside] = static_cast<std::uint16_t>(place.offset + list[j]);
      }
      inside += is_inside;
    }
    if (low == high) equal_high = 0;
    state.counts += {below, equal_low, inside, equal_high, n - below - equal_low - inside - equal_high - nan, nan};
    if (room)
      state.stored += inside;
    else
      state.overflow |= inside > 0;
  }
}

template <cpu::Decide D, class S, class T>
void bracket_tile(const S& scorer, const cpu::TileInput& in, const cpu::BracketPlan& plan, const cpu::TilePlace& place,
                  cpu::BracketState& state) {
  constexpr std::int64_t ahead = 512;  // elements; a new page or stream is not left to the hardware prefetcher
  std::uint16_t list[cpu::tile_size + 4];
  std::int64_t listed = 0, below = 0, equal_low = 0, equal_high = 0, live_count = 0;
  const auto take = [&](Decided group, std::int64_t word, std::uint64_t live) {
    group.below &= live;
    group.undecided &= live;
    below += bits::count(group.below);
    std::uint64_t pruned = group.below;
    if constexpr (D == cpu::Decide::by_score_heavy) {
      group.equal_low &= live;
      equal_low += bits::count(group.equal_low);
      equal_high += bits::count(group.equal_high & live);
      pruned |= group.equal_low;
    }
    live_count += bits::count(live);
    if (place.mask) place.mask[word] = live & ~pruned;
    const std::int64_t base = word * bits::per_word;
    const std::int64_t found = bits::count(group.undecided);
    std::uint64_t left = group.undecided;
    for (int j = 0; j < 3; ++j) {  // three positions without a branch; more are rare
      list[listed + j] = static_cast<std::uint16_t>(base + bits::lowest_or_width(left));
      left = bits::without_lowest(left);
    }
    if (found > 3) [[unlikely]]
      for (std::int64_t j = 3; j < found; ++j) {
        list[listed + j] = static_cast<std::uint16_t>(base + bits::lowest_or_width(left));
        left = bits::without_lowest(left);
      }
    listed += found;
  };
  const std::int64_t whole = place.count / bits::per_word;
  for (std::int64_t word = 0; word < whole; ++word) {
    const std::int64_t index = word * bits::per_word;
    for_each_array<S>([&](auto member) {
      const char* const next = reinterpret_cast<const char*>(static_cast<const T*>(in.*member) + index + ahead);
      for (std::size_t line = 0; line < bits::per_word * sizeof(T); line += 64) __builtin_prefetch(next + line);
    });
    take(decide<D, S, T>(scorer, in, index, plan), word, place.live ? place.live[word] : ~std::uint64_t{0});
  }
  if (const std::int64_t rest = place.count % bits::per_word; rest > 0) {
    const std::int64_t index = whole * bits::per_word;
    const Padded<S, T, bits::per_word> tail(in, rest, bits::per_word,
                                            [&](const T* array, std::int64_t j) { return array[index + j]; });
    const std::uint64_t valid = bits::valid(place.count, whole);
    take(decide<D, S, T>(scorer, tail.in, 0, plan), whole, place.live ? place.live[whole] & valid : valid);
  }
  state.counts.below += below;
  state.counts.equal_low += equal_low;
  state.counts.equal_high += equal_high;
  state.counts.above += live_count - below - equal_low - equal_high - listed;
  classify<S, T>(scorer, in, list, listed, plan, place, state);
}

template <class S, std::size_t St>
void bracket_any(const Scorer& variant, const cpu::TileInput& in, const cpu::BracketPlan& plan,
                 const cpu::TilePlace& place, cpu::BracketState& state) {
  using T = StoredType<St>;
  using cpu::Decide;
  const S scorer = *std::get_if<S>(&variant);
  if constexpr (HasPower<S>) {
    if (plan.decide == Decide::by_power) return bracket_tile<Decide::by_power, S, T>(scorer, in, plan, place, state);
    if (plan.decide == Decide::by_power_above_zero)
      return bracket_tile<Decide::by_power_above_zero, S, T>(scorer, in, plan, place, state);
  }
  if (plan.decide == Decide::by_score_heavy)
    return bracket_tile<Decide::by_score_heavy, S, T>(scorer, in, plan, place, state);
  bracket_tile<Decide::by_score, S, T>(scorer, in, plan, place, state);
}

}  // namespace
}  // namespace bittersweet
