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
  // Where bin b begins. Of the first and the last, that is where all keys and where the range ends.
  std::uint32_t begin(std::size_t b) const noexcept {
    if (b == 0) return key_of_minus_infinity;
    const std::uint64_t edge = (std::uint64_t{low >> shift} + b - 1) << shift;
    return static_cast<std::uint32_t>(std::clamp<std::uint64_t>(edge, low, high));
  }
  std::uint32_t end(std::size_t b) const noexcept { return b + 1 < bins ? begin(b + 1) : key_of_infinity; }
  bool on_edge(std::uint32_t key) const noexcept { return (key & ((std::uint32_t{1} << shift) - 1)) == 0; }
};

// The first look at scores of which nothing is known. Where none is negative, 63 powers of two, 2^-48 to 2^15, get
// 1,024 bins each: nearly every threshold lies there, and one elsewhere takes a second look.
inline Narrowing widest(bool non_negative, std::size_t bins) {
  constexpr std::uint32_t low = 0x80000000u | (127u - 48u) << 23, high = (0x80000000u | (127u + 15u) << 23) - 1;
  return non_negative && bins >= 65536
             ? Narrowing(low, high, bins)
             : Narrowing(non_negative ? key_of_zero : key_of_minus_infinity, key_of_infinity, bins);
}

// What a rank tells of its sample beside the bins.
struct SampleSpread {
  static constexpr std::size_t length = 5 * limbs;
  std::int64_t squares = 0;  // of the differences between neighbouring lines, times 256
  std::int64_t pairs = 0;
  std::int64_t lines = 0;
  std::int64_t zeros = 0;
  std::int64_t between = 0;  // scores that lie on no edge of a bin

  void put(std::span<std::int32_t> to) const {
    LimbWriter out(to);
    for (const std::int64_t number : {squares, pairs, lines, zeros, between}) out.put(number);
  }
  static SampleSpread take(std::span<const std::int32_t> from) {
    LimbReader in(from);
    SampleSpread spread;
    for (std::int64_t* number : {&spread.squares, &spread.pairs, &spread.lines, &spread.zeros, &spread.between})
      *number = in.count();
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
  const bool lower = low >= 1, upper = high <= drawn;
  // Scores on a grid (bf16 magnitudes), or bins of one key: the ends are numbers of the sample, perhaps of many.
  const bool grid = range.shift == 0 || 16.0 * static_cast<double>(spread.between) < drawn;
  const bool at_low = grid && lower && from > 0 && from < last, at_high = grid && upper && to > 0 && to < last;
  if (lower) found.low = std::max(least, range.begin(from));
  if (upper) found.high = at_high ? range.begin(to) : range.end(to);
  found.low = key_of(score_of(found.low));
  found.high = std::max(found.low, key_of(score_of(found.high)));
  const auto often = [&](std::size_t b) { return is_heavy(sums[b], drawn); };
  found.heavy = (at_low && often(from)) || (at_high && often(to));

  double inside = 0;
  for (std::size_t b = from; b <= to; ++b) inside += sums[b];
  const std::size_t zeros = range.bin(key_of_zero);
  if (non_negative && from <= zeros && zeros <= to) inside -= static_cast<double>(spread.zeros);
  if (at_low) inside -= sums[from];
  if (at_high && to > from) inside -= sums[to];
  if (!(lower || upper) || inside <= drawn / 64 || inside <= 4 * reach) return found;
  const std::uint32_t first = lower ? std::max(range.begin(from), least) : least;
  found.next = Narrowing(first, upper ? std::max(range.end(to), first) : key_of_infinity, next_bins);
  found.finer =  // there is an end to it: ranges only shrink, but for one look outside the first
      range.shift > 0 && (found.next.shift < range.shift || found.next.low < range.low || found.next.high > range.high);
  return found;
}

}  // namespace bittersweet
