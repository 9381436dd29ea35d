// The budget that goes into a selection, and the threshold that comes out.
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>

#include "bittersweet/engine/summaries.hpp"
#include "bittersweet/error.hpp"

namespace bittersweet {

// How much to prune: a fraction of the eligible elements (dead ones included), or a number of them. Give one.
struct Budget {
  std::optional<double> sparsity{};
  std::optional<std::int64_t> k{};
};

// floor(sparsity * n + 0.5): 0.29 of 100 is 29. Throws ArgumentError outside 0..1 (or 0..n for k).
inline std::int64_t resolve(const Budget& budget, std::int64_t n) {
  if (budget.sparsity.has_value() == budget.k.has_value())
    throw ArgumentError(budget.k ? "sparsity, k: both were given; give one of them"
                                 : "sparsity, k: neither was given; give sparsity (0 to 1) or k (a count)");
  if (budget.k) {
    if (*budget.k < 0 || *budget.k > n)
      throw ArgumentError("k: " + std::to_string(*budget.k) + "; accepted are 0 to " + std::to_string(n) +
                          ", the number of eligible elements");
    return *budget.k;
  }
  const double s = *budget.sparsity;
  if (!(s >= 0.0 && s <= 1.0))
    throw ArgumentError("sparsity: " + std::to_string(s) + "; a fraction from 0 to 1 is accepted");
  const auto k = static_cast<std::int64_t>(std::floor(s * static_cast<double>(n) + 0.5));
  return k < n ? k : n;
}

enum class Ties { exact, at_or_below, below };

enum class NonFinite { error, keep };

// How the exact selector came to its answer; the tests assert each way.
enum class Place { nothing, zeros_below, at_low, inside, at_high, missed_low, missed_high };

constexpr const char* name_of(Place place) noexcept {
  switch (place) {
    case Place::nothing: return "";
    case Place::zeros_below: return "bracket: at zero";
    case Place::at_low: return "bracket: at its low end";
    case Place::inside: return "bracket: inside";
    case Place::at_high: return "bracket: at its high end";
    case Place::missed_low: return "bracket missed low, radix passes";
    case Place::missed_high: return "bracket missed high, radix passes";
  }
  return "";
}

inline constexpr float minus_infinity = -std::numeric_limits<float>::infinity();
inline constexpr float plus_infinity = std::numeric_limits<float>::infinity();
inline constexpr float smallest_positive = std::numeric_limits<float>::denorm_min();

// The answer to one selection over the live scores of a view.
struct Selection {
  float value = minus_infinity;  // the rank-th smallest live score (or an approximation of it)
  std::int64_t rank = 0;         // 1-based, after NaN were set aside; 0: nothing to prune
  std::int64_t below = 0;        // live scores under value; -1 where an approximate selector did not count
  std::int64_t equal = 0;        // live scores equal to value; -1 likewise
  std::int64_t nan = 0;
  double passes = 0;                       // reads of all the inputs
  std::int64_t extra_bytes = 0;            // workspace used
  bool converged = true;                   // streaming: within its tolerance
  std::optional<double> standard_error{};  // sampling: of the achieved sparsity
  Place place = Place::nothing;
  bool overflow = false;  // exact: more candidates than room, so radix passes followed
};

// Scores equal to the threshold that are to be pruned.
inline std::int64_t ties_wanted(Ties ties, const Selection& selection) {
  switch (ties) {
    case Ties::exact: return selection.rank - selection.below;
    case Ties::at_or_below: return selection.equal;
    case Ties::below: break;
  }
  return 0;
}

// What a selection may be told beside the rank.
struct SelectContext {
  std::uint64_t seed = 0;
  NonFinite nonfinite = NonFinite::error;
  std::int64_t live = 0;                      // live elements of the view
  std::function<void()> between_passes = {};  // may throw, to interrupt a long call
  void pass_done() const {
    if (between_passes) between_passes();
  }
};

}  // namespace bittersweet
