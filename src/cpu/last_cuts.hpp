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
  // What nearly all rows are cut within. None where the rows before were so different that too much would lie inside.
  std::optional<Bracket> bracket() const {
    constexpr double most = 24 << 16;
    const double reach = 3 * deviation_;
    if (rows_ == 0 || reach > most) return std::nullopt;
    return Bracket{score_at(std::floor(center_ - reach)), score_at(std::ceil(center_ + reach))};
  }

  void guess(RowSearch& search) const {
    search.guess = static_cast<int>(center_ / 0x10000);
    search.spread = std::max(2, static_cast<int>(deviation_ / 0x10000));
  }

  void remember(float threshold) {
    constexpr double unknown = 64 << 16;
    const double off = signed_of(threshold) - center_;
    center_ += rows_ == 0 ? off : off / 4;
    deviation_ = rows_ == 0 ? unknown : deviation_ + (std::min(std::abs(off), unknown) - deviation_) / (rows_ + 1);
    rows_ = std::min(rows_ + 1, 15.0);
  }

 private:
  static double signed_of(float score) { return static_cast<double>(key_of(score)) - key_of_zero; }
  static float score_at(double key) {
    key = std::clamp(key + key_of_zero, double{key_of_minus_infinity}, double{key_of_infinity});
    return score_of(static_cast<std::uint32_t>(key));
  }

  double rows_ = 0;    // seen so far, up to as many as count
  double center_ = 0;  // keys, that of zero being 0
  double deviation_ = 0x1p29;
};

}  // namespace bittersweet::cpu
