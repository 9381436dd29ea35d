// How much each tensor gives (distribution): one text for a loop of the host and for a block of threads.
//
// A Team has
//   each(count, f)   calls f(i) for i in 0..count-1;
//   sum<T>(count, f) adds up f(i), in this order: item i goes to lane i % team_lanes, a lane adds its own in order to
//                    0, and the lanes' sums are added in pairs, lane l and l + 128, then l and l + 64, ... l and l + 1.
// In a device's team a lane is a thread, the same for both: what each() wrote at i, sum() may read at i.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "bittersweet/config.hpp"

namespace bittersweet {

enum class Distribution { uniform, erk, layer_adaptive };

inline constexpr std::int64_t team_lanes = 256;

struct OneThread {  // constexpr, so that a text for both sides may name it where it never runs on a device
  template <class F>
  constexpr void each(std::int64_t count, const F& f) const {
    for (std::int64_t i = 0; i < count; ++i) f(i);
  }
  template <class T, class F>
  constexpr T sum(std::int64_t count, const F& f) const {
    T lane[team_lanes] = {};
    for (std::int64_t i = 0; i < count; ++i) lane[i % team_lanes] += f(i);
    for (std::int64_t half = team_lanes / 2; half > 0; half /= 2)
      for (std::int64_t l = 0; l < half; ++l) lane[l] += lane[l + half];
    return lane[0];
  }
};

// What a distribution looks at.
struct TensorSize {
  std::int64_t numel = 0;
  std::int64_t dimensions = 0;  // the sum of its shape's sizes
  std::int64_t dead = 0;
};

// What is to be shared out: `k` of `total` elements, as the share `sparsity`; of no tensor more than `most`.
struct Quota {
  Distribution distribution = Distribution::uniform;
  std::int64_t k = 0, total = 0;
  double sparsity = 0;
  double most = 1.0;
};

namespace detail {

template <class T>
BITTERSWEET_FORMULA T within(T x, T low, T high) {
  return x < low ? low : high < x ? high : x;
}

struct Counts {  // that one tensor may give
  std::int64_t low, high;
};

// The f at which within(f * weight(i), bounds(i)) sum to `target`.
template <class Team, class Filled>
BITTERSWEET_FORMULA double fill_level(const Team& team, std::int64_t count, double target, const Filled& filled) {
  const auto sum = [&](double f) {
    return team.template sum<double>(count, [&](std::int64_t i) { return filled(f, i); });
  };
  double under = 0, over = 1;
  for (int i = 0; i < 200 && sum(over) < target; ++i) over *= 2;
  for (int i = 0; i < 200 && under < over; ++i) {
    const double middle = under + (over - under) / 2;
    if (middle == under || middle == over) break;
    (sum(middle) < target ? under : over) = middle;
  }
  return over;
}

// The first `count_of_them` of the items that `may`, by larger remainder, then by lower place: those whose remainder is
// above `bits`, and of those that equal it the ones before `end`.
struct Chosen {
  std::uint64_t bits = 0;
  std::int64_t end = 0;
};

template <class Team, class May, class Rest>
BITTERSWEET_FORMULA Chosen choose(const Team& team, std::int64_t count, std::int64_t wanted, const May& may,
                                  const Rest& rest) {
  const auto number = [&](const auto& which) {
    return team.template sum<std::int64_t>(count,
                                           [&](std::int64_t i) { return std::int64_t{may(i) && which(i, rest(i))}; });
  };
  Chosen chosen;
  for (int bit = 61; bit >= 0; --bit) {  // remainders lie below 1
    const std::uint64_t higher = chosen.bits | std::uint64_t{1} << bit;
    if (number([&](std::int64_t, std::uint64_t r) { return r >= higher; }) >= wanted) chosen.bits = higher;
  }
  const std::uint64_t bits = chosen.bits;
  const std::int64_t ties = wanted - number([&](std::int64_t, std::uint64_t r) { return r > bits; });
  std::int64_t before = 0;
  chosen.end = count;
  while (before + 1 < chosen.end) {
    const std::int64_t middle = before + (chosen.end - before) / 2;
    const bool enough = number([&](std::int64_t i, std::uint64_t r) { return r == bits && i < middle; }) >= ties;
    (enough ? chosen.end : before) = middle;
  }
  return chosen;
}

// Integers near `wanted` that sum to `total`, each within its bounds: floors, then one more by largest remainder,
// ties to the lower position.
template <class Team, class Wanted, class Bounds>
BITTERSWEET_FORMULA void round_to_sum(const Team& team, std::int64_t count, std::int64_t total, const Wanted& wanted,
                                      const Bounds& bounds, std::int64_t* k) {
  team.each(count, [&](std::int64_t i) {
    const auto [low, high] = bounds(i);
    k[i] = within(static_cast<std::int64_t>(std::floor(wanted(i))), low, high);
  });
  std::int64_t left = total - team.template sum<std::int64_t>(count, [&](std::int64_t i) { return k[i]; });
  while (left != 0) {
    const std::int64_t step = left > 0 ? 1 : -1, needed = left * step;
    const auto may = [&](std::int64_t i) {
      const auto [low, high] = bounds(i);
      return k[i] + step >= low && k[i] + step <= high;
    };
    const auto rest = [&](std::int64_t i) {
      const double x = wanted(i);
      return std::bit_cast<std::uint64_t>(x - std::floor(x));
    };
    const auto there = team.template sum<std::int64_t>(count, [&](std::int64_t i) { return std::int64_t{may(i)}; });
    if (there == 0) return;
    const bool all = there <= needed;
    Chosen chosen;
    if (!all) chosen = choose(team, count, needed, may, rest);
    team.each(count, [&](std::int64_t i) {
      if (!may(i)) return;
      const std::uint64_t r = rest(i);
      if (all || r > chosen.bits || (r == chosen.bits && i < chosen.end)) k[i] += step;
    });
    left -= (all ? there : needed) * step;
  }
}

}  // namespace detail

// The number of elements each tensor gives, dead ones included and never fewer than those, into k[0 .. count-1].
//   uniform         floor(s * n_i + 0.5), each tensor on its own.
//   erk             kept share proportional to (sum of the shape) / n_i, at most 1. Source: Evci et al., RigL.
//   layer_adaptive  s scaled by 0.7 .. 1.3 over depth, at most max(0.95, s). Source: AdamWPrune's bitter4,
//                   renormalised by parameter counts so that the total is met.
// The last two sum to quota.k, brought within what the tensors can give.
template <class Team, class Sizes>
BITTERSWEET_FORMULA void share_out(const Team& team, std::int64_t count, const Sizes& size_of, const Quota& quota,
                                   std::int64_t* k) {
  const bool adaptive = quota.distribution == Distribution::layer_adaptive;
  const double s = quota.sparsity, floor_of_cap = s > 0.95 ? s : 0.95;
  const double cap = adaptive && floor_of_cap < quota.most ? floor_of_cap : quota.most;
  const auto bounds = [&](std::int64_t i) {
    const TensorSize size = size_of(i);
    const auto capped = static_cast<std::int64_t>(std::ceil(cap * static_cast<double>(size.numel)));
    const std::int64_t high = capped < size.numel ? capped : size.numel;
    return detail::Counts{size.dead, high < size.dead ? size.dead : high};
  };
  if (quota.distribution == Distribution::uniform) {
    team.each(count, [&](std::int64_t i) {
      const auto [low, high] = bounds(i);
      const double wanted = std::floor(s * static_cast<double>(size_of(i).numel) + 0.5);
      k[i] = detail::within(static_cast<std::int64_t>(wanted), low, high);
    });
    return;
  }
  const auto least = team.template sum<std::int64_t>(count, [&](std::int64_t i) { return bounds(i).low; });
  const auto most = team.template sum<std::int64_t>(count, [&](std::int64_t i) { return bounds(i).high; });
  const std::int64_t budget = detail::within(quota.k, least, most);
  // layer_adaptive fills what goes, erk what stays.
  const auto filled = [&](double f, std::int64_t i) {
    const TensorSize size = size_of(i);
    const auto [low, high] = bounds(i);
    if (!adaptive)
      return detail::within(f * static_cast<double>(size.dimensions), static_cast<double>(size.numel - high),
                            static_cast<double>(size.numel - low));
    const double depth = count > 1 ? static_cast<double>(i) / static_cast<double>(count - 1) : 0.5;
    const double weight = static_cast<double>(size.numel) * (0.7 + 0.6 * depth);
    return detail::within(f * weight, static_cast<double>(low), static_cast<double>(high));
  };
  const double target = static_cast<double>(adaptive ? budget : quota.total - budget);
  const double level = detail::fill_level(team, count, target, filled);
  const auto wanted = [&](std::int64_t i) {
    const double x = filled(level, i);
    return adaptive ? x : static_cast<double>(size_of(i).numel) - x;
  };
  detail::round_to_sum(team, count, budget, wanted, bounds, k);
}

}  // namespace bittersweet
