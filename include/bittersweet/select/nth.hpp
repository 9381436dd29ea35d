// The n-th smallest of values in memory, of many thousands some five times as fast as std::nth_element.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <span>

namespace bittersweet {

namespace detail {

// Brings the values below the pivot to the front, without a branch for each; how many they are.
inline std::size_t divide(std::span<float> values, float pivot) noexcept {
  std::size_t below = 0;
  for (float& place : values) {
    const float value = place;
    place = values[below];
    values[below] = value;
    below += value < pivot;
  }
  return below;
}

}  // namespace detail

// What std::nth_element does, for floats without NaN: afterwards values[at] is what a sort would put there, nothing
// before it is larger and nothing behind it smaller. While many are left they are divided by two of their own, which
// some of them say lie closely around the wanted one (Floyd and Rivest, 1975).
inline void put_nth(std::span<float> values, std::size_t at) {
  constexpr std::size_t drawn = 256, few = 8 * drawn;
  while (values.size() > few) {
    const std::size_t size = values.size();
    std::array<float, drawn> sample;
    for (std::size_t i = 0; i < drawn; ++i) sample[i] = values[i * (size / drawn)];
    const double share = static_cast<double>(at) / static_cast<double>(size);
    const double middle = share * drawn, reach = 3 * std::sqrt(middle * (1 - share)) + 1;
    const auto divide_at = [&](double order) {  // by the order-th of the sample, where there is one
      if (!(order >= 0 && order < drawn)) return;
      const auto place = sample.begin() + static_cast<std::ptrdiff_t>(order);
      std::nth_element(sample.begin(), place, sample.end());
      const std::size_t below = detail::divide(values, *place);
      values = at < below ? values.first(below) : values.subspan(below);
      at -= at < below ? 0 : below;
    };
    divide_at(middle + reach);
    divide_at(middle - reach);
    if (values.size() > size / 2) break;  // equal values
  }
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(at), values.end());
}

}  // namespace bittersweet
