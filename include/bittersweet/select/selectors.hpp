// THE LIST of selectors. What each promises is in its file.
#pragma once

#include <string>
#include <string_view>
#include <variant>

#include "bittersweet/select/exact.hpp"
#include "bittersweet/select/histogram.hpp"
#include "bittersweet/select/kthvalue.hpp"
#include "bittersweet/select/sampling.hpp"
#include "bittersweet/select/streaming.hpp"

namespace bittersweet {

using Selector = std::variant<Exact, Histogram, KthValue, Sampling, Streaming>;

template <class F>
void for_each_selector(F&& f) {
  [&]<std::size_t... I>(std::index_sequence<I...>) {
    (f(std::variant_alternative_t<I, Selector>{}), ...);
  }(std::make_index_sequence<std::variant_size_v<Selector>>{});
}

inline bool is_approximate(const Selector& selector) {
  return std::visit([](const auto& s) { return s.approximate; }, selector);
}

inline std::string_view name_of(const Selector& selector) {
  return std::visit([](const auto& s) { return s.name; }, selector);
}

// The selector called `name` with its default parameters. Throws ArgumentError that lists the names.
inline Selector make_selector(std::string_view name) {
  Selector found;
  bool known = false;
  std::string names;
  for_each_selector([&](const auto& s) {
    names += (names.empty() ? "" : ", ") + std::string(s.name);
    if (s.name == name) {
      found = s;
      known = true;
    }
  });
  if (!known) throw ArgumentError("selector: no selector is called '" + std::string(name) + "'; known are " + names);
  return found;
}

}  // namespace bittersweet
