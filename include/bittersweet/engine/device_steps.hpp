// The exact selector on a device: what lies in device memory between kernels, and the pure steps from one piece of it
// to the next. The same text runs in kernels and in host tests. No step has a loop over elements; integers decide, and
// floating point only proposes the bracket.
//
//   sample -> first, second digit -> spread -> both ends' digits -> place_bracket -> (bracket pass) -> prove
//   failed: range_after -> narrow x 3 -> bracket_of -> (bracket pass) -> prove, which then cannot fail
//   first_digits -> next_digits x 6 -> conclude
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "bittersweet/cuda.hpp"
#include "bittersweet/engine/summaries.hpp"
#include "bittersweet/radix_key.hpp"
#include "bittersweet/select/exact.hpp"
#include "bittersweet/select/threshold.hpp"

namespace bittersweet::device {

inline constexpr int digit_bits = 11;
inline constexpr int bins = 1 << digit_bits;
inline constexpr int position_bits = 33;  // of a candidate: its tile and place, over all tensors
inline constexpr std::uint64_t max_tiles = std::uint64_t{1} << (position_bits - 10);
inline constexpr std::uint64_t none = ~std::uint64_t{0};

// A candidate: (key - low key) in 31 bits above its position, so that order by (score, tensor, index) is order by this.
BITTERSWEET_FORMULA std::uint64_t candidate_of(std::uint32_t key, std::uint32_t low_key, std::uint64_t position) {
  return (std::uint64_t{key - low_key} << position_bits) | position;
}

using bittersweet::Found;

// ---- the budget ----

struct Rank {
  std::int64_t rank = 0;  // live elements to prune
  bool bad_k = false;
};

BITTERSWEET_FORMULA Rank rank_of(std::int64_t k, std::int64_t total, std::uint64_t live) {
  if (k < 0 || k > total) return {0, true};
  const std::int64_t rank = k - (total - static_cast<std::int64_t>(live));
  return {rank > 0 ? rank : 0, false};
}

// ---- the guess, from keys of sampled scores: runs of `sample_width` neighbours ----

inline constexpr int sample_width = 8;
inline constexpr std::int64_t most_lines = std::int64_t{1} << 18;

inline std::int64_t sample_lines(std::int64_t n) {
  const double lines = 65536.0 * std::sqrt(static_cast<double>(n) / 1e8);
  const std::int64_t wanted = static_cast<std::int64_t>(lines) < 2048 ? 2048 : static_cast<std::int64_t>(lines);
  const std::int64_t there = (n + sample_width - 1) / sample_width;
  const std::int64_t most = wanted < most_lines ? wanted : most_lines;
  return most < there ? most : there;
}

// An order statistic of the sample, approached digit by digit.
struct Order {
  std::uint32_t prefix = 0;
  std::uint64_t rest = 0;  // 1-based, among the keys with this prefix
  std::uint64_t below = 0;
  std::uint64_t count = 0;
};

BITTERSWEET_FORMULA Order refine(const Order& order, const Found& found, int width) {
  return {(order.prefix << width) | static_cast<std::uint32_t>(found.bin), order.rest - found.below,
          order.below + found.below, found.count};
}

struct Guess {
  std::uint64_t drawn = 0;    // numbers in the sample
  double share = 0;           // wanted rank over live elements
  Order middle{};             // two digits of the share-quantile
  std::uint32_t cut = 0;      // keys up to this one lie below the middle, in
  std::uint32_t portion = 0;  // so many of 65536
  Order low{}, high{};        // the bracket's ends; rest 0: open
};

BITTERSWEET_FORMULA std::uint64_t middle_order(double share, std::uint64_t drawn) {
  const double order = std::ceil(share * static_cast<double>(drawn));
  return order < 1 ? 1 : order > static_cast<double>(drawn) ? drawn : static_cast<std::uint64_t>(order);
}

// One line's part in the spread: its keys under the cut, less what its size lets expect, in 1/65536.
BITTERSWEET_FORMULA std::int64_t excess_of(int under, int drawn, std::uint32_t portion) {
  return static_cast<std::int64_t>(under) * 65536 - static_cast<std::int64_t>(drawn) * portion;
}

struct Ends {
  std::uint64_t low = 0, high = 0;  // orders in the sample; 0: open
};

// Five standard deviations to either side; fewer (not under two) where the inside would not fit the room for
// candidates. `spread` is the sum of squared differences of successive lines' excess: scores of one line share their
// row's scale, so they are not independent, but what separates tensors must not count.
BITTERSWEET_FORMULA Ends ends_of(const Guess& guess, std::uint64_t spread, std::uint64_t live, std::uint64_t capacity) {
  const double drawn = static_cast<double>(guess.drawn), wanted = guess.share * drawn;
  const double measured = std::sqrt(static_cast<double>(spread) / 2) / 65536;
  const double least = 0.7 * std::sqrt(drawn * guess.share * (1 - guess.share));
  const double deviation = measured > least ? measured : least;
  const double room = 0.4 * static_cast<double>(capacity) * drawn / static_cast<double>(live);
  double distance = 5 * deviation;
  if (distance > room) distance = room > 2 * deviation ? room : 2 * deviation;
  const double low = std::floor(wanted - distance) - 1, high = std::ceil(wanted + distance) + 1;
  return {low >= 1 ? static_cast<std::uint64_t>(low) : 0, high <= drawn ? static_cast<std::uint64_t>(high) : 0};
}

// ---- one read of the inputs against a bracket ----

struct Attempt {
  float low = 0, high = 0;
  std::uint32_t low_key = 0;
  std::uint32_t run = 0;
  std::uint32_t zero_end = 0;  // low is the smallest positive number and all that is below it is zero
  std::uint32_t pad = 0;
  std::uint64_t below, equal_low, inside, equal_high, nan;  // `inside` have been stored, as far as there was room
  std::uint64_t first_nan;                                  // position in the whole sequence; `none`
};

BITTERSWEET_FORMULA void set_ends(Attempt& attempt, float low, float high, bool zero_end) {
  attempt.low = low;
  attempt.high = high;
  attempt.low_key = key_of(low);
  attempt.zero_end = zero_end;
  attempt.first_nan = none;
  attempt.run = 1;
}

// The bracket from the ends' keys. Where scores cannot be negative an end at zero becomes the smallest positive number:
// zeros are counted below it at no cost. A bracket too wide for candidates is split at zero.
BITTERSWEET_FORMULA void place_bracket(Attempt& attempt, const Guess& guess, bool non_negative) {
  std::uint32_t low = guess.low.rest ? guess.low.prefix : non_negative ? key_of_zero : key_of_minus_infinity;
  std::uint32_t high = guess.high.rest ? guess.high.prefix : key_of_infinity;
  if (high < low) high = low;
  if (non_negative) {
    const bool zero_end = low <= key_of_zero;
    if (zero_end) low = key_of_zero + 1;
    if (high < low) high = low;
    return set_ends(attempt, score_of(low), score_of(high), zero_end);
  }
  if (high - low >= 0x80000000u) low = high = key_of_zero;
  set_ends(attempt, score_of(low), score_of(high), false);
}

// Where the rank lies by an attempt's counts, and whether the attempt settles it.
struct Proof {
  Place place = Place::nothing;
  std::int64_t rank = 0;  // NaN set aside
  bool settled = true;
  bool overflow = false;
};

BITTERSWEET_FORMULA Proof prove(const Attempt& attempt, std::int64_t rank, std::uint64_t live, std::uint64_t capacity) {
  Proof proof;
  if (!attempt.run) return proof;
  const auto numbers = static_cast<std::int64_t>(live - attempt.nan);
  proof.rank = rank < numbers ? rank : numbers;
  const BracketCounts counts{static_cast<std::int64_t>(attempt.below),
                             static_cast<std::int64_t>(attempt.equal_low),
                             static_cast<std::int64_t>(attempt.inside),
                             static_cast<std::int64_t>(attempt.equal_high),
                             0,
                             static_cast<std::int64_t>(attempt.nan)};
  proof.place = locate({attempt.low, attempt.high}, counts, proof.rank, attempt.zero_end != 0);
  const bool lost = attempt.inside > capacity;
  switch (proof.place) {
    case Place::missed_low:
    case Place::missed_high: proof.settled = false; break;
    case Place::at_low: proof.settled = !attempt.zero_end; break;  // its ties were not counted tile by tile
    case Place::inside:
    case Place::at_high:
      proof.overflow = lost;
      proof.settled = !lost;
      break;
    default: break;
  }
  return proof;
}

// ---- radix passes, when a bracket failed: a shrinking range of keys that holds the rank ----

struct Range {
  std::uint32_t low = 0, high = 0;  // keys, both inclusive
  std::uint64_t order = 0;          // of the wanted key among the range's
  std::uint64_t count = 0;
};

BITTERSWEET_FORMULA int shift_of(const Range& range) {
  const int width = 32 - std::countl_zero(range.high - range.low);
  return width > digit_bits ? width - digit_bits : 0;
}

BITTERSWEET_FORMULA bool is_narrow(const Range& range, std::uint64_t capacity) {
  return range.low == range.high || (range.count <= capacity && range.high - range.low < 0x80000000u);
}

BITTERSWEET_FORMULA Range range_after(const Attempt& attempt, const Proof& proof, std::uint64_t live,
                                      bool non_negative) {
  const auto rank = static_cast<std::uint64_t>(proof.rank);
  const std::uint64_t to_low = attempt.below + attempt.equal_low, to_inside = to_low + attempt.inside;
  const std::uint64_t to_high = to_inside + attempt.equal_high;
  const std::uint32_t low = attempt.low_key, high = key_of(attempt.high);
  switch (proof.place) {
    case Place::missed_low: return {non_negative ? key_of_zero : key_of_minus_infinity, low - 1, rank, attempt.below};
    case Place::at_low: return {low, low, rank - attempt.below, attempt.equal_low};
    case Place::inside: return {low + 1, high - 1, rank - to_low, attempt.inside};
    case Place::at_high: return {high, high, rank - to_inside, attempt.equal_high};
    default: return {high + 1, key_of_infinity, rank - to_high, live - attempt.nan - to_high};
  }
}

BITTERSWEET_FORMULA Range narrow(const Range& range, const Found& found) {
  const int shift = shift_of(range);
  const std::uint32_t low = range.low + (static_cast<std::uint32_t>(found.bin) << shift);
  const std::uint32_t width = (1u << shift) - 1;
  return {low, range.high - low < width ? range.high : low + width, range.order - found.below, found.count};
}

BITTERSWEET_FORMULA void bracket_of(Attempt& attempt, const Range& range) {
  set_ends(attempt, score_of(range.low), score_of(range.high), false);
}

// ---- the right one of the candidates: digits of the key's part, then, if ties are split, of the position ----

struct Digits {
  std::uint64_t prefix = 0;  // of the candidate, above `shift`
  std::uint64_t order = 0;   // among those with the prefix
  std::uint64_t count = 0;
  std::uint64_t under = 0;  // candidates of a smaller key
  std::uint64_t equal = 0;  // candidates of the same key
  std::int32_t shift = 0;
  std::int32_t next_shift = 0;  // equal to shift: nothing left to look at
};

inline constexpr int key_levels = 3, levels = 6;  // 31 bits, then 33

// Sets what the pass of `level` (from 1) has to look at.
BITTERSWEET_FORMULA Digits aim(Digits digits, int level, bool split_ties) {
  digits.next_shift = digits.shift;
  if (level <= key_levels)
    digits.next_shift = digits.shift - digit_bits > position_bits ? digits.shift - digit_bits : position_bits;
  else if (level <= levels && split_ties && digits.order < digits.equal)
    digits.next_shift = digits.shift > digit_bits ? digits.shift - digit_bits : 0;
  if (digits.count == 0) digits.next_shift = digits.shift;
  return digits;
}

BITTERSWEET_FORMULA Digits first_digits(const Attempt& attempt, const Proof& proof, bool split_ties) {
  Digits digits;
  if (proof.place != Place::inside || !proof.settled) return digits;
  digits.order = static_cast<std::uint64_t>(proof.rank) - attempt.below - attempt.equal_low;
  digits.count = digits.equal = attempt.inside;
  digits.shift = position_bits + 32 - std::countl_zero(key_of(attempt.high) - attempt.low_key);
  return aim(digits, 1, split_ties);
}

// After the pass of `level`.
BITTERSWEET_FORMULA Digits next_digits(Digits digits, const Found& found, int level, bool split_ties) {
  if (digits.next_shift < digits.shift) {
    digits.prefix = (digits.prefix << (digits.shift - digits.next_shift)) | found.bin;
    digits.order -= found.below;
    digits.count = found.count;
    digits.shift = digits.next_shift;
    if (level <= key_levels) {
      digits.under += found.below;
      digits.equal = found.count;
    }
  }
  return aim(digits, level + 1, split_ties);
}

// ---- the answer ----

enum class Tile : std::uint8_t { leave, fill, score, score_ties };  // what finishing does to a tile's words

struct Outcome {
  std::uint32_t failed = 0;
  std::uint32_t active = 0;  // finishing has something to do
  float value = 0;
  std::uint32_t attempt = 0;  // whose bracket it was
  std::uint64_t below = 0, equal = 0, ties = 0;
  std::uint64_t cut = 0;  // candidates up to this one are pruned
  std::uint32_t clear_candidates = 0;
  std::uint32_t split = 0;                         // the ties end within a tile
  std::uint32_t high_ties = 0;                     // which of the two counts of a tile they are
  Tile before = Tile::leave, after = Tile::leave;  // tiles before and after that one
  std::uint8_t pad[2] = {};
};

BITTERSWEET_FORMULA std::uint64_t ties_of(Ties rule, std::uint64_t rank_in_ties, std::uint64_t equal) {
  return rule == Ties::exact ? rank_in_ties : rule == Ties::at_or_below ? equal : 0;
}

// A bracket pass has written keep = live and not (score <= low). `digits` are the last ones.
BITTERSWEET_FORMULA Outcome conclude(const Attempt& attempt, const Proof& proof, const Digits& digits, Ties rule,
                                     bool failed) {
  Outcome out;
  out.value = minus_infinity;
  out.failed = failed;
  if (failed || proof.place == Place::nothing) {
    out.before = out.after = Tile::fill;
    out.active = 1;
    return out;
  }
  const auto rank = static_cast<std::uint64_t>(proof.rank);
  std::uint64_t none_pruned_here = 0;
  switch (proof.place) {
    case Place::zeros_below:
      out.value = 0;
      out.equal = attempt.below;
      out.before = attempt.equal_low > 0 ? Tile::score : Tile::leave;
      out.after = Tile::fill;
      break;
    case Place::at_low:
      out.value = attempt.low;
      out.below = attempt.below;
      out.equal = attempt.equal_low;
      out.after = attempt.below == 0 ? Tile::fill : Tile::score_ties;
      break;
    case Place::at_high:
      out.value = attempt.high;
      out.below = attempt.below + attempt.equal_low + attempt.inside;
      out.equal = attempt.equal_high;
      out.before = Tile::score_ties;
      out.high_ties = 1;
      out.clear_candidates = attempt.inside > 0;
      out.cut = none;
      break;
    default:
      out.value =
          score_of(attempt.low_key + static_cast<std::uint32_t>(digits.shift >= position_bits
                                                                    ? digits.prefix
                                                                    : digits.prefix >> (position_bits - digits.shift)));
      out.below = attempt.below + attempt.equal_low + digits.under;
      out.equal = digits.equal;
      none_pruned_here = 1;
      break;
  }
  if (out.value == 0) out.value = 0;  // the two zeros are one value: +0
  out.ties = ties_of(rule, rank - out.below, out.equal);
  if (none_pruned_here) {
    const std::uint64_t key = std::uint64_t{key_of(out.value) - attempt.low_key} << position_bits;
    const bool whole = out.ties == 0 || out.ties == out.equal;
    out.cut = !whole ? digits.prefix : out.ties == 0 ? key - 1 : key | ((std::uint64_t{1} << position_bits) - 1);
    out.clear_candidates = 1;
    return out;
  }
  out.split = out.ties > 0 && out.ties < out.equal;
  if (!out.split) (out.ties == 0 ? out.before : out.after) = out.ties == 0 ? out.after : out.before;
  out.active = out.split || out.before != Tile::leave;
  return out;
}

// ---- the last tie pruned, where it lies in a tensor whose memory is not row-major: by digits of its logical index
// ----

struct OrderedTies {
  std::uint64_t prefix = 0;  // of the index
  std::uint64_t order = 0;   // 1-based, among the ties with this prefix
  std::uint32_t row = 0;
  std::uint32_t active = 0;
};

inline constexpr std::uint32_t tie_levels = (position_bits + digit_bits - 1) / digit_bits;

// ---- everything of one step that lies in device memory, beside sample, candidates, tables and counts of ties ----

struct State {
  std::uint64_t live;  // elements that compete
  std::uint64_t spread;
  std::int64_t rank;
  std::uint32_t bad_k;
  std::uint32_t pad;
  Guess guess[4];      // with the middle's first digit, its second, the ends' first, their second
  Attempt attempt[2];  // the guessed bracket, and the one after radix passes
  Range range[4];
  Digits digits[levels + 1];
  Outcome outcome;
  OrderedTies ordered_ties[tie_levels];
  std::uint64_t nan_place;  // `none` less the first NaN's position, where it was looked for; else 0
  union {                   // one after another; who is the last to read one clears it for the next
    std::uint32_t sample_bins[6][bins];
    std::uint64_t range_bins[3][bins];  // ... or ties
    std::uint32_t candidate_bins[levels][bins];
  };
};
static_assert(sizeof(State::sample_bins) == sizeof(State::range_bins) &&
              sizeof(State::sample_bins) == sizeof(State::candidate_bins));

// The position of a NaN that is reported.
BITTERSWEET_FORMULA std::uint64_t first_nan_of(const State& state) {
  return state.nan_place != 0 ? none - state.nan_place : state.attempt[0].first_nan;
}

}  // namespace bittersweet::device
