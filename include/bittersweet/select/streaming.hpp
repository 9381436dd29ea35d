// streaming: no sample. Mean and spread of the scores place a first guess by the inverse normal CDF; every read then
// counts at a few thresholds at once, near where the counts so far place the k-th score, until the achieved share is
// within the tolerance, or the range holds one key (the answer is one heavily repeated value). Where the exact score is
// asked for and few are left in the range, the next read of the host's engines collects them and is the last: they are
// what memory it takes.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>

#include "bittersweet/engine/engine.hpp"
#include "bittersweet/radix_key.hpp"
#include "bittersweet/select/exact.hpp"
#include "bittersweet/select/threshold.hpp"

namespace bittersweet {

struct Streaming {
  static constexpr std::string_view name = "streaming";
  static constexpr bool approximate = true;
  double tolerance = 1e-3;  // of the achieved share of the live elements; 0: the exact k-th score
};

// ln x of a positive normal number, to 1e-8, by operations that every machine rounds alike.
BITTERSWEET_FORMULA double natural_log(double x) {
  const std::uint64_t bits = std::bit_cast<std::uint64_t>(x);
  double exponent = static_cast<double>(static_cast<std::int64_t>(bits >> 52) - 1023);
  double m = std::bit_cast<double>((bits & 0xfffffffffffffu) | 0x3ff0000000000000u);
  if (m > 1.4142135623730951) m *= 0.5, exponent += 1.0;
  const double z = (m - 1.0) / (m + 1.0), q = z * z;  // ln m = 2 atanh z
  return exponent * 0.6931471805599453 +
         2.0 * z * (1.0 + q * (1.0 / 3 + q * (1.0 / 5 + q * (1.0 / 7 + q * (1.0 / 9)))));
}

// x with P(N(0,1) <= x) = p, to 4.5e-4. Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.2.23.
BITTERSWEET_FORMULA double inverse_normal(double p) {
  if (p <= 0.0 || p >= 1.0) return p <= 0.0 ? -9.0 : 9.0;
  const double t = std::sqrt(-2.0 * natural_log(p < 0.5 ? p : 1.0 - p));
  const double x =
      t - (2.515517 + t * (0.802853 + t * 0.010328)) / (1.0 + t * (1.432788 + t * (0.189269 + t * 0.001308)));
  return p < 0.5 ? -x : x;
}

// Keys to count at in one read, in no order; some may be equal.
struct Cuts {
  static constexpr int most = 7;
  std::uint32_t key[most];
  std::int32_t count;
};

// The state of the search: the k-th score's key lies in (low, high], and so many scores lie at or below the two. Pure
// steps, driven by counts; the same text runs in kernels.
struct KeySearch {
  static constexpr double octave = 1 << 23;  // keys from a score to its double
  // An even read leaves a seventh of the range; another halves it at least, and one that leaves more than a quarter
  // is followed by an even one: so many reads are enough for any scores, that of the moments included.
  static constexpr int most_reads = 22;

  std::uint32_t low;
  std::uint32_t high;
  std::int64_t up_to_low;
  std::int64_t up_to_high;
  std::uint32_t even;  // the next read divides the range evenly

  BITTERSWEET_FORMULA std::uint32_t within(double key) const {
    const double least = static_cast<double>(low) + 1, most = static_cast<double>(high) - 1;
    return static_cast<std::uint32_t>(key < least || most < least ? least : key > most ? most : key);
  }

  // Where to count first: around a guess, by parts of an octave and by octaves, more of them below it, since heavy
  // tails lift mean and spread; and at zero, which half of a model may be.
  BITTERSWEET_FORMULA Cuts cuts_around(std::uint32_t guess) const {
    const double at = guess;
    return {{within(key_of_zero), within(at - 12 * octave), within(at - 3 * octave), within(at - 0.7 * octave),
             within(at - 0.125 * octave), within(at + 0.125 * octave), within(at + 0.7 * octave)},
            7};
  }

  // Where to count next. In a wide range at equal steps; else where the k-th would lie if the scores inside were spread
  // evenly over their keys, beside it as far as chance and their density may carry it, and in the middle.
  BITTERSWEET_FORMULA Cuts cuts(std::int64_t rank) const {
    const double from = low, width = high - low, inside = static_cast<double>(up_to_high - up_to_low);
    if (even != 0 || width > 2.5 * octave)
      return {{within(from + width / 7), within(from + width * 2 / 7), within(from + width * 3 / 7),
               within(from + width * 4 / 7), within(from + width * 5 / 7), within(from + width * 6 / 7), 0},
              6};
    const double at = from + width * (static_cast<double>(rank - up_to_low) - 0.5) / inside;
    const double chance = 2.5 / std::sqrt(inside);
    const double near = width * (chance < 0.01 ? 0.01 : chance > 0.0625 ? 0.0625 : chance);
    const double step = near > 1 ? near : 1, far = 4 * near > 2 ? 4 * near : 2;
    return {{within(at - far), within(at - step), within(at), within(at + step), within(at + far),
             within(from + width / 2), 0},
            6};
  }

  // Are so few of all scores left that one read can collect them, and where they lie: a bracket that holds the k-th.
  bool few_left(std::int64_t all) const noexcept { return up_to_high - up_to_low <= all / 64; }
  Bracket left() const noexcept { return {score_of(low + 1), score_of(high)}; }

  BITTERSWEET_FORMULA void narrow(std::uint32_t key, std::int64_t up_to_key, std::int64_t rank) {
    if (up_to_key < rank && key > low) low = key, up_to_low = up_to_key;
    if (up_to_key >= rank && key < high) high = key, up_to_high = up_to_key;
  }
};

// Between two reads.
struct StreamingState {
  KeySearch search;
  Cuts cuts;             // of the next read
  std::int64_t rank;     // 1-based, NaN set aside; 0: nothing to look for
  std::int64_t numbers;  // scores that are not NaN
  std::int32_t reads;    // so far
  std::uint32_t done;    // the answer is there:
  float value;
  std::int64_t below, equal;
};

BITTERSWEET_FORMULA StreamingState start_streaming(const Moments& moments, std::int64_t rank) {
  StreamingState state{};
  state.reads = 1;
  state.numbers = moments.total - moments.nan;
  state.rank = rank < state.numbers ? rank : state.numbers;
  state.search = {key_of_minus_infinity - 1, key_of_infinity, 0, state.numbers, 0};
  if (state.rank <= 0) {
    state.rank = 0;
    state.done = 1;
    state.value = minus_infinity;
    return state;
  }
  state.cuts = state.search.cuts(state.rank);
  if (moments.finite == 0) return state;
  const double count = static_cast<double>(moments.finite), mean = moments.sum / count;
  const double variance = moments.sum_of_squares / count - mean * mean;
  const double wanted = static_cast<double>(state.rank) / static_cast<double>(state.numbers);
  const float guess = static_cast<float>(mean + std::sqrt(variance > 0 ? variance : 0.0) * inverse_normal(wanted));
  if (guess == guess) state.cuts = state.search.cuts_around(key_of(guess));
  return state;
}

// `counts_at(i)`: the scores below and at the i-th of the state's cuts.
template <class CountsOf>
BITTERSWEET_FORMULA StreamingState next_streaming(StreamingState state, const CountsOf& counts_at, double tolerance) {
  const double wanted = static_cast<double>(state.rank) / static_cast<double>(state.numbers);
  const double width = state.search.high - state.search.low;
  const bool first = state.reads == 1;
  double least_error = tolerance > 0 ? tolerance : -1;
  ++state.reads;
  for (int i = 0; i < Cuts::most; ++i) {
    if (i >= state.cuts.count) continue;
    const CountsAt counts = counts_at(i);
    const std::int64_t reached = counts.below + counts.equal;
    const bool is_kth = counts.below < state.rank && state.rank <= reached;
    const double off = static_cast<double>(reached) / static_cast<double>(state.numbers) - wanted;
    const double error = off < 0 ? -off : off;
    state.search.narrow(state.cuts.key[i], reached, state.rank);
    if (!is_kth && error > least_error) continue;
    state.done = 1;
    least_error = is_kth ? -1 : error;
    state.value = score_of(state.cuts.key[i]);
    state.below = counts.below;
    state.equal = counts.equal;
  }
  if (state.done == 0 && state.search.high - state.search.low == 1) {  // one key is left
    state.done = 1;
    state.value = score_of(state.search.high);
    state.below = state.search.up_to_low;
    state.equal = state.search.up_to_high - state.search.up_to_low;
  }
  state.search.even = !first && state.search.even == 0 && state.search.high - state.search.low > width / 4;
  if (state.done == 0) state.cuts = state.search.cuts(state.rank);
  return state;
}

template <Engine E>
Selection select_kth(const Streaming& options, E& engine, const ScoreView& view, std::span<const Chunk> chunks,
                     std::int64_t rank, const SelectContext& context, Workspace& workspace) {
  const Moments moments = engine.moments(view, chunks);
  context.pass_done();
  StreamingState state = start_streaming(moments, rank);
  while (state.done == 0) {
    std::array<float, Cuts::most> thresholds{};
    std::array<CountsAt, Cuts::most> counts{};
    const auto count = static_cast<std::size_t>(state.cuts.count);
    for (std::size_t i = 0; i < count; ++i) thresholds[i] = score_of(state.cuts.key[i]);
    engine.count(view, chunks, std::span(thresholds).first(count), std::span(counts).first(count));
    state = next_streaming(state, [&](int i) { return counts[static_cast<std::size_t>(i)]; }, options.tolerance);
    context.pass_done();
    if (state.done != 0 || options.tolerance > 0 || !state.search.few_left(state.numbers)) continue;
    const Exact last{.guess = state.search.left()};
    Selection result = select_kth(last, engine, view, chunks, state.rank, context, workspace);
    result.passes += state.reads;
    result.place = Place::nothing;
    return result;
  }
  return {.value = state.value,
          .rank = state.rank,
          .below = state.below,
          .equal = state.equal,
          .nan = moments.nan,
          .passes = static_cast<double>(state.reads)};
}

}  // namespace bittersweet
