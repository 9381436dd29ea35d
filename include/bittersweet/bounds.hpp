// How many elements of a tensor may go where one threshold decides for all, and which tensors leave the selection for
// it. Arithmetic on counts only.
//
// The masks under bounds are those of one cut through the order (score, tensor, flat index): of each tensor goes what
// lies below the cut, clamped to its bounds, and the cut lies where that sums to the budget. Moving the cut by one
// element moves the sum by one at most, so it is met wherever the bounds allow; and the sum never falls, so what is
// beyond a bound at a cut too low is beyond it at the right one too. Hence rounds: select, fix one side, select again
// among the others, at most once for each tensor.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "bittersweet/error.hpp"

namespace bittersweet {

// Of one tensor, dead elements included.
struct CountRange {
  std::int64_t least = 0;
  std::int64_t most = 0;

  bool operator==(const CountRange&) const = default;
};

// The greatest count that is no larger share of `numel` than `share`.
inline std::int64_t most_within(double share, std::int64_t numel) {
  const auto count = static_cast<std::int64_t>(std::floor(share * static_cast<double>(numel)));
  const double next = static_cast<double>(count + 1) / static_cast<double>(std::max<std::int64_t>(numel, 1));
  return count < numel && next <= share ? count + 1 : count;
}

// Bounds of every tensor: those given, or a cap for all. What is dead already cannot come back.
inline std::vector<CountRange> ranges_of(std::span<const CountRange> given, const std::optional<double>& cap,
                                         std::span<const std::int64_t> numels, std::span<const std::int64_t> dead) {
  std::vector<CountRange> ranges(numels.size());
  for (std::size_t t = 0; t < numels.size(); ++t) {
    ranges[t] = given.empty() ? CountRange{0, cap ? most_within(*cap, numels[t]) : numels[t]} : given[t];
    ranges[t] = {std::max(ranges[t].least, dead[t]), std::max(ranges[t].most, dead[t])};
  }
  return ranges;
}

inline void check_ranges(std::span<const CountRange> given, std::span<const std::int64_t> numels) {
  if (given.size() != numels.size())
    throw ArgumentError("tensor_sparsity: " + std::to_string(given.size()) + " ranges for " +
                        std::to_string(numels.size()) + " tensors; give one for each, or none at all");
  for (std::size_t t = 0; t < given.size(); ++t)
    if (given[t].least < 0 || given[t].least > given[t].most || given[t].most > numels[t])
      throw ArgumentError("tensor_sparsity: from " + std::to_string(given[t].least) + " to " +
                          std::to_string(given[t].most) + " of tensor " + std::to_string(t) + " with " +
                          std::to_string(numels[t]) + " elements; accepted are 0 <= least <= most <= elements");
}

// The budget `k` of `total` elements, of which `dead` are dead already, is not from `least` to `most`.
[[noreturn]] inline void raise_outside(std::int64_t least, std::int64_t most, std::int64_t k, std::int64_t dead,
                                       std::int64_t total) {
  const auto share = [&](std::int64_t count) {
    return std::to_string(count) + " (" +
           std::to_string(static_cast<double>(count) / static_cast<double>(std::max<std::int64_t>(total, 1))) + ")";
  };
  throw ArgumentError("tensor_sparsity: " + share(k) + " of " + std::to_string(total) +
                      " elements are to be pruned, and the ranges allow " + share(least) + " to " + share(most) +
                      (dead > 0 ? ", with " + std::to_string(dead) + " pruned already" : std::string()) +
                      "; ask for a sparsity that they allow, or widen them");
}

// Throws where no cut meets the budget `k` of `total` elements, of which `dead` are dead already.
inline void require_within(std::span<const CountRange> ranges, std::int64_t k, std::int64_t dead, std::int64_t total) {
  std::int64_t least = 0, most = 0;
  for (const CountRange& range : ranges) {
    least += range.least;
    most += range.most;
  }
  k = std::max(k, dead);
  if (k < least || k > most) raise_outside(least, most, k, dead, total);
}

// Where NaN scores are never pruned, no more than the numbers of a tensor can go.
inline void leave_nan(std::span<CountRange> ranges, std::span<const std::int64_t> numels,
                      std::span<const std::int64_t> nan) {
  for (std::size_t t = 0; t < ranges.size(); ++t)
    ranges[t] = {std::min(ranges[t].least, numels[t] - nan[t]), std::min(ranges[t].most, numels[t] - nan[t])};
}

// Tensors that leave a selection for a bound, by their places in it, and what each of them gives.
struct Fixed {
  std::vector<std::size_t> places{};
  std::vector<std::int64_t> counts{};
};

// `pruned`: what a selection that is to prune `budget` takes of each of its tensors. If they reach beyond both sides
// and only one can be told to stay there, it is that one; if what lies within sums to the budget, it is all of them,
// and the others stay as they are.
inline Fixed beyond(std::span<const std::int64_t> pruned, std::span<const CountRange> ranges, std::int64_t budget) {
  std::int64_t within = 0;
  bool over = false, under = false;
  for (std::size_t i = 0; i < pruned.size(); ++i) {
    over |= pruned[i] > ranges[i].most;
    under |= pruned[i] < ranges[i].least;
    within += std::clamp(pruned[i], ranges[i].least, ranges[i].most);
  }
  const bool fix_over = within <= budget || !under, fix_under = within >= budget || !over;
  Fixed fixed;
  for (std::size_t i = 0; i < pruned.size(); ++i) {
    const bool leaves = (fix_over && pruned[i] > ranges[i].most) || (fix_under && pruned[i] < ranges[i].least);
    if (!leaves) continue;
    fixed.places.push_back(i);
    fixed.counts.push_back(std::clamp(pruned[i], ranges[i].least, ranges[i].most));
  }
  return fixed;
}

}  // namespace bittersweet
