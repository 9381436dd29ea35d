// The hot pass: one tile against a bracket. Two comparisons a vector make two words per 64 elements, "surely below"
// and "undecided"; the few undecided positions are listed without a branch, gathered, scored exactly and classified.
#pragma once

#include <algorithm>
#include <limits>

#include "bittersweet/mask/bit_layout.hpp"
#include "cpu/verbs/scored.hpp"

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
  const Vec low = splat(plan.bracket.low), high = splat(plan.bracket.high);
  Mask below[vectors_per_word], above[vectors_per_word];
  if constexpr (D == cpu::Decide::by_score) {
    for (int k = 0; k < vectors_per_word; ++k) {
      const Vec s = scorer(elements_at<S, T>(in, index + k * lanes));
      below[k] = less(s, low);
      above[k] = less(high, s);
    }
  } else if constexpr (D == cpu::Decide::by_score_heavy) {
    Mask equal_low[vectors_per_word], equal_high[vectors_per_word];
    for (int k = 0; k < vectors_per_word; ++k) {
      const Vec s = score_at<S, T>(scorer, in, index + k * lanes);
      below[k] = less(s, low);
      above[k] = less(high, s);
      equal_low[k] = equal(s, low);
      equal_high[k] = equal(s, high);
    }
    Decided group{pack(below), pack(equal_low), pack(equal_high)};
    group.undecided = ~(group.below | pack(above) | group.equal_low | group.equal_high);
    if (plan.bracket.low == plan.bracket.high) group.equal_high = 0;
    return group;
  } else {
    for (int k = 0; k < vectors_per_word; ++k) {
      const Elements<Vec> x = elements_at<S, T>(in, index + k * lanes);
      Elements<Vec> scaled = x;
      scaled.w = x.w * plan.scale;
      const Vec p = scorer.powered(scaled);
      above[k] = less_equal(splat(plan.power_high), p);
      if constexpr (D == cpu::Decide::by_power)
        below[k] = less(p, splat(plan.power_low));
      else
        below[k] = both(equal(p, splat(0.0f)), equal(scorer.least_factor(x), splat(0.0f)));
    }
  }
  const std::uint64_t surely_below = pack(below);
  return {.below = surely_below, .undecided = ~(surely_below | pack(above))};
}

// Scores that are the magnitude of one bf16 array, by its bits: they order like the floats, with NaN above infinity.
template <cpu::Decide D, class S>
BITTERSWEET_INLINE Decided decide_bits(const cpu::TileInput& in, std::int64_t index, const cpu::BracketPlan& plan) {
  const std::uint16_t* data = nullptr;
  for_each_array<S>([&](auto member) { data = static_cast<const std::uint16_t*>(in.*member) + index; });
  const auto all = [](int value) { return ShortVector{} + static_cast<std::int16_t>(value); };
  const ShortVector low = all(plan.bits_low), high = all(plan.bits_high), infinity = all(0x7f80);
  ShortMask below[shorts_per_word], not_above[shorts_per_word], equal_low[shorts_per_word], equal_high[shorts_per_word],
      nan[shorts_per_word];
  for (int k = 0; k < shorts_per_word; ++k) {
    ShortVector a;
    std::memcpy(&a, data + k * short_lanes, sizeof a);
    a &= 0x7fff;
    below[k] = less(a, low);
    not_above[k] = less(a, high);
    nan[k] = less(infinity, a);
    if constexpr (D == cpu::Decide::by_score_heavy) {
      equal_low[k] = equal(a, low);
      equal_high[k] = equal(a, high - 1);
    }
  }
  Decided group{.below = pack(below)};
  group.undecided = (pack(not_above) & ~group.below) | pack(nan);
  if constexpr (D == cpu::Decide::by_score_heavy) {
    group.equal_low = plan.bits_hold_low ? pack(equal_low) : 0;
    group.equal_high = plan.bits_hold_high && plan.bracket.low != plan.bracket.high ? pack(equal_high) : 0;
    group.undecided &= ~(group.equal_low | group.equal_high);
  }
  return group;
}

// Up to 64 exact scores against the bracket, as words.
BITTERSWEET_INLINE Decided compare_ends(const float* scores, const Bracket& bracket) {
  const Vec low = splat(bracket.low), high = splat(bracket.high);
  Mask below[vectors_per_word], above[vectors_per_word], equal_low[vectors_per_word], equal_high[vectors_per_word];
  for (int k = 0; k < vectors_per_word; ++k) {
    const Vec s = load(scores, k * lanes);
    below[k] = less(s, low);
    above[k] = less(high, s);
    equal_low[k] = equal(s, low);
    equal_high[k] = equal(s, high);
  }
  Decided word{pack(below), pack(equal_low), bracket.low == bracket.high ? 0 : pack(equal_high)};
  word.undecided = ~(word.below | word.equal_low | word.equal_high | pack(above) | compare(scores, 0.0f).nan);
  return word;
}

// Exact scores of the listed positions of a tile, and what they mean. Nearly all lie inside, so whole words are copied.
template <class S, class T>
void classify(const S& scorer, const cpu::TileInput in, const std::uint16_t* list, std::int64_t count,
              const cpu::BracketPlan plan, const cpu::TilePlace place, cpu::BracketState& state) {
  constexpr std::int64_t batch = bits::per_word;
  const auto collect = [&](const float* score, const std::uint16_t* at, std::int64_t n) {
    std::memcpy(state.scores + state.stored, score, static_cast<std::size_t>(n) * sizeof(float));
    for (std::int64_t j = 0; j < n; ++j)
      state.offsets[state.stored + j] = static_cast<std::uint16_t>(place.offset + at[j]);
    state.stored += n;
  };
  for (std::int64_t first = 0; first < count; first += batch, list += batch) {
    const std::int64_t n = std::min(batch, count - first);
    const Padded<S, T, batch> gathered(in, n, batch, [&](const T* array, std::int64_t j) { return array[list[j]]; });
    float scores[batch];
    for (std::int64_t j = 0; j < batch; j += lanes) store(scores, j, score_at<S, T>(scorer, gathered.in, j));

    const std::uint64_t valid = bits::valid(n, 0);
    const Decided word = compare_ends(scores, plan.bracket);
    const std::uint64_t inside = word.undecided & valid, nan = compare(scores, 0.0f).nan & valid;
    const BracketCounts found{bits::count(word.below & valid),
                              bits::count(word.equal_low & valid),
                              bits::count(inside),
                              bits::count(word.equal_high & valid),
                              0,
                              bits::count(nan)};
    state.counts += found;
    state.counts.above += n - found.total();
    if (place.mask)
      for (std::uint64_t left = (word.below | word.equal_low) & valid; left != 0; left = bits::without_lowest(left))
        bits::clear(place.mask, list[bits::lowest_or_width(left)]);
    if (state.stored + n > state.capacity) {
      state.overflow |= inside != 0;
    } else if (inside == valid) {
      collect(scores, list, n);
    } else {
      for (std::uint64_t left = inside; left != 0; left = bits::without_lowest(left))
        collect(scores + bits::lowest_or_width(left), list + bits::lowest_or_width(left), 1);
    }
  }
}

// Listed positions of one part of a tile, in order.
struct Listed {
  std::uint16_t* at;
  std::int64_t count = 0;
};

template <cpu::Decide D, class S, class T, bool Bits = false>
void bracket_tile(const S& scorer, const cpu::TileInput& tile, const cpu::BracketPlan& how, const cpu::TilePlace& where,
                  cpu::BracketState& state) {
  const cpu::TileInput in = tile;  // which what is written could change
  const cpu::BracketPlan plan = how;
  const cpu::TilePlace place = where;
  constexpr std::int64_t parts = parts_of<S>();
  constexpr std::int64_t slack = 4;  // what is listed without a branch may be nothing
  std::uint16_t list[Chunk::size + parts * slack];
  std::int64_t below = 0, equal_low = 0, equal_high = 0, undecided = 0;
  std::int64_t live_count = place.live ? 0 : place.count;
  const auto take = [&](Decided group, std::int64_t word, std::uint64_t live, Listed& listed) {
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
    if (place.live) live_count += bits::count(live);
    if (place.mask) place.mask[word] = live & ~pruned;
    const std::int64_t base = word * bits::per_word, found = bits::count(group.undecided);
    std::uint64_t left = group.undecided;
    const auto add = [&](std::int64_t j) {
      listed.at[listed.count + j] = static_cast<std::uint16_t>(base + bits::lowest_or_width(left));
      left = bits::without_lowest(left);
    };
    add(0);  // two positions without a branch; more are rare
    add(1);
    if (found > 2) [[unlikely]]
      for (std::int64_t j = 2; j < found; ++j) add(j);
    listed.count += found;
  };
  const auto decide_any = [&](const cpu::TileInput& group, std::int64_t index) {
    if constexpr (Bits)
      return decide_bits<D, S>(group, index, plan);
    else
      return decide<D, S, T>(scorer, group, index, plan);
  };
  const std::int64_t ahead = Bits ? cpu::far_ahead : cpu::asked_ahead();
  const auto whole_word = [&](std::int64_t word, Listed& listed) {
    const std::int64_t index = word * bits::per_word;
    prefetch_arrays<S, T>(in, index, ahead);
    take(decide_any(in, index), word, place.live ? place.live[word] : ~std::uint64_t{0}, listed);
  };
  const std::int64_t whole = place.count / bits::per_word, stride = whole / parts;
  Listed listed[parts];
  for (std::int64_t part = 0; part < parts; ++part) listed[part].at = list + part * (stride * bits::per_word + slack);
  for (std::int64_t word = 0; word < stride; ++word)
    for (std::int64_t part = 0; part < parts; ++part) whole_word(part * stride + word, listed[part]);
  Listed& last = listed[parts - 1];
  for (std::int64_t word = parts * stride; word < whole; ++word) whole_word(word, last);
  if (const std::int64_t rest = place.count % bits::per_word; rest > 0) {
    const std::int64_t index = whole * bits::per_word;
    const Padded<S, T, bits::per_word> tail(in, rest, bits::per_word,
                                            [&](const T* array, std::int64_t j) { return array[index + j]; });
    const std::uint64_t valid = bits::valid(place.count, whole);
    take(decide_any(tail.in, 0), whole, place.live ? place.live[whole] & valid : valid, last);
  }
  for (const Listed& part : listed) {
    classify<S, T>(scorer, in, part.at, part.count, plan, place, state);
    undecided += part.count;
  }
  state.counts.below += below;
  state.counts.equal_low += equal_low;
  state.counts.equal_high += equal_high;
  state.counts.above += live_count - below - equal_low - equal_high - undecided;
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
  if constexpr (IsMagnitude<S> && std::is_same_v<T, std::uint16_t>)
    if (in.modifier == 1.0f)
      return plan.decide == Decide::by_score_heavy
                 ? bracket_tile<Decide::by_score_heavy, S, T, true>(scorer, in, plan, place, state)
                 : bracket_tile<Decide::by_score, S, T, true>(scorer, in, plan, place, state);
  if (plan.decide == Decide::by_score_heavy)
    return bracket_tile<Decide::by_score_heavy, S, T>(scorer, in, plan, place, state);
  bracket_tile<Decide::by_score, S, T>(scorer, in, plan, place, state);
}

}  // namespace
}  // namespace bittersweet
