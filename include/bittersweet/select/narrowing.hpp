// From bins of a sample to a bracket: what guess.hpp does with the sample itself, where only its counts can be added
// up over ranks. Arithmetic on counts; nothing here decides an answer.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>

#include "bittersweet/engine/summaries.hpp"
#include "bittersweet/radix_key.hpp"
#include "bittersweet/select/limbs.hpp"
#include "bittersweet/select/threshold.hpp"

namespace bittersweet {

// Bins of 2^shift keys over low .. high, between one for what is below and one for what is above. Edges are multiples
// of the width, so that those of wide bins are numbers of few digits.
struct Narrowing {
  std::uint32_t low = key_of_minus_infinity;
  std::uint32_t high = key_of_infinity;
  int shift = 0;
  std::size_t bins = 0;

  Narrowing() = default;
  Narrowing(std::uint32_t from, std::uint32_t to, std::size_t count) : low(from), high(to), bins(count) {
    while (std::size_t{high >> shift} - (low >> shift) + 1 > bins - 2) ++shift;
  }

  std::size_t bin(std::uint32_t key) const noexcept {
    return key < low ? 0 : key > high ? bins - 1 : std::size_t{key >> shift} - (low >> shift) + 1;
  }
  // First key of bin b, and of the one after it, within the range.
  std::uint32_t first(std::size_t b) const noexcept {
    const std::uint64_t edge = (std::uint64_t{low >> shift} + b - 1) << shift;
    return static_cast<std::uint32_t>(std::clamp<std::uint64_t>(edge, low, high));
  }
  bool on_edge(std::uint32_t key) const noexcept { return (key & ((std::uint32_t{1} << shift) - 1)) == 0; }
};

// What a rank tells of its sample beside the bins.
struct SampleSpread {
  static constexpr std::size_t length = 4 * limbs;
  std::int64_t squares = 0;  // of the differences between neighbouring lines, times 256
  std::int64_t pairs = 0;
  std::int64_t lines = 0;
  std::int64_t between = 0;  // scores that lie on no edge of a bin

  void put(std::span<std::int32_t> to) const {
    LimbWriter out(to);
    for (const std::int64_t number : {squares, pairs, lines, between}) out.put(number);
  }
  static SampleSpread take(std::span<const std::int32_t> from) {
    LimbReader in(from);
    SampleSpread spread;
    for (std::int64_t* number : {&spread.squares, &spread.pairs, &spread.lines, &spread.between}) *number = in.count();
    return spread;
  }
};

struct Narrowed {
  std::uint32_t low = key_of_minus_infinity;  // ends of a bracket
  std::uint32_t high = key_of_infinity;
  bool heavy = false;
  bool finer = false;  // too much lies inside: another look at the sample, at `next`, is worth a round
  Narrowing next{};
};

// The bracket for the share-th part of the live scores, by the summed bins of a sample: four deviations either side.
// Another look would have `next_bins` bins.
inline Narrowed narrow(const Narrowing& range, std::span<const std::int32_t> sums, const SampleSpread& spread,
                       double share, bool non_negative, std::size_t next_bins) {
  const std::uint32_t least = non_negative ? key_of_zero + 1 : key_of_minus_infinity;
  Narrowed found{.low = least};
  double drawn = 0;
  for (const std::int32_t n : sums) drawn += n;
  if (drawn < 64) return found;
  const double wanted = share * drawn;
  const double measured = std::sqrt(static_cast<double>(spread.squares) / 512 * static_cast<double>(spread.lines) /
                                    static_cast<double>(std::max<std::int64_t>(spread.pairs, 1)));
  const double reach = 4 * std::max(measured, 0.7 * std::sqrt(drawn * share * (1 - share))) +
                       static_cast<double>(LineSample::width);  // a sorted model deviates by lines
  const double low = std::floor(wanted - reach), high = std::ceil(wanted + reach);
  const std::size_t last = sums.size() - 1;
  std::size_t from = 0, to = last;
  double below = 0;
  for (std::size_t b = 0; b <= last; ++b) {
    below += sums[b];
    if (low >= 1 && below < low) from = b + 1;
    if (below >= high) {
      to = b;
      break;
    }
  }
  const bool lower = low >= 1 && from > 0, upper = high <= drawn && to < last;
  // Scores on a grid (bf16 magnitudes), or bins of one key: the ends are numbers of the sample, perhaps of many.
  const bool grid = range.shift == 0 || 16.0 * static_cast<double>(spread.between) < drawn;
  if (lower) found.low = std::max(least, range.first(from));
  if (upper) found.high = grid ? range.first(to) : range.first(to + 1);
  found.low = key_of(score_of(found.low));
  found.high = std::max(found.low, key_of(score_of(found.high)));
  const auto often = [&](std::size_t b) { return sums[b] >= std::max(16.0, drawn / 2048); };
  found.heavy = grid && ((lower && often(from)) || (upper && often(to)));

  double inside = 0;
  for (std::size_t b = from; b <= to; ++b) {
    const bool is_end = grid && ((lower && b == from) || (upper && b == to));
    const bool zeros = non_negative && b == range.bin(key_of_zero);
    if (!is_end && !zeros) inside += sums[b];
  }
  found.finer = range.shift > 0 && lower + upper > 0 && inside > drawn / 64 && inside > 4 * reach;
  if (found.finer) {
    const std::uint32_t begin = lower ? range.first(from) : range.low;
    const std::uint32_t end = upper ? range.first(to + 1) : range.high;
    found.next = Narrowing(begin, std::max(begin, end), next_bins);
    found.finer = found.next.shift < range.shift;
  }
  return found;
}

}  // namespace bittersweet
