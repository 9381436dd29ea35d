// Where rows were cut so far: those of one matrix are much alike. What this remembers decides how long a row takes, and
// nothing else.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>

#include "bittersweet/engine/summaries.hpp"
#include "bittersweet/radix_key.hpp"
#include "cpu/kernels.hpp"

namespace bittersweet::cpu {

class LastCuts {
 public:
  // Do rows of so many elements differ so much that the mean of a part of each is worth knowing?
  bool differ(std::int64_t size) const {
    constexpr double alike = 20 << 16, long_row = 2048;
    return cut_.rows > 0 && cut_.deviation > alike * std::max(1.0, long_row / static_cast<double>(size));
  }

  // What a row is likely to be cut within, no wider than what is worth listing: around where those before it were cut,
  // or, if that tells more, as far from the mean of a part of it (0: unknown) as they were from theirs.
  std::optional<Bracket> bracket(double mean) const {
    constexpr double most = 40 << 16;
    if (cut_.rows == 0) return std::nullopt;
    const bool by_mean = mean > 0 && above_mean_.rows > 0 && above_mean_.deviation < cut_.deviation;
    const Average& known = by_mean ? above_mean_ : cut_;
    const double at = known.center + (by_mean ? signed_of(static_cast<float>(mean)) : 0);
    const double reach = std::min(3 * known.deviation, most);
    return bracket_at(at - reach, at + reach);
  }

  // Where to look for a row's k-th after a bracket that has `below` of its scores under it and `inside` in it, and not
  // the k-th: where it would be if all lay as densely as those inside, as far to both sides as chance and another
  // density may carry it. None if too few lie inside to tell, or all of them are equal.
  static std::optional<Bracket> after(const Bracket& missed, std::int64_t below, std::int64_t inside, std::int64_t k) {
    if (inside < 4 || missed.low == missed.high) return std::nullopt;
    const double low = signed_of(missed.low), high = signed_of(missed.high), seen = static_cast<double>(inside);
    const double rank = static_cast<double>(k - below) - 0.5, one = (high - low) / seen;
    const double off = rank < 0 ? -rank : rank - seen;
    const double reach = (2 + 2.5 * std::sqrt(off) + off * (0.125 + 1 / std::sqrt(seen))) * one;
    const double at = low + rank * one;
    return rank < 0 ? bracket_at(at - reach, std::min(at + reach, low))
                    : bracket_at(std::max(at - reach, high), at + reach);
  }

  void guess(RowSearch& search) const {
    search.guess = static_cast<int>(cut_.center / 0x10000);
    search.spread = std::max(2, static_cast<int>(cut_.deviation / 0x10000));
  }

  void remember(float threshold, double mean) {
    cut_.add(signed_of(threshold));
    if (mean > 0) above_mean_.add(signed_of(threshold) - signed_of(static_cast<float>(mean)));
  }

 private:
  // Of keys, that of zero being 0: their running mean, and how far they lie from it on average.
  struct Average {
    double rows = 0;  // seen so far, up to as many as count
    double center = 0;
    double deviation = 0x1p29;

    void add(double key) {
      constexpr double unknown = 64 << 16;
      const double off = key - center;
      center += rows == 0 ? off : off / 4;
      deviation = rows == 0 ? unknown : deviation + (std::min(std::abs(off), unknown) - deviation) / (rows + 1);
      rows = std::min(rows + 1, 15.0);
    }
  };

  static double signed_of(float score) { return static_cast<double>(key_of(score)) - key_of_zero; }
  static float score_at(double key) {
    key = std::clamp(key + key_of_zero, double{key_of_minus_infinity}, double{key_of_infinity});
    return score_of(static_cast<std::uint32_t>(key));
  }
  static Bracket bracket_at(double low, double high) { return {score_at(std::floor(low)), score_at(std::ceil(high))}; }

  Average cut_, above_mean_;
};

}  // namespace bittersweet::cpu
