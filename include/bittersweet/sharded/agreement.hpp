// What all ranks must give alike, as text: only its digest travels, and the text names what differs.
#pragma once

#include <cstdio>
#include <string>

#include "bittersweet/prune.hpp"
#include "bittersweet/shard_map.hpp"
#include "bittersweet/version.hpp"

namespace bittersweet {

namespace detail {

inline std::string exact_number(double value) {  // no two numbers have one text
  char text[64];
  std::snprintf(text, sizeof text, "%a", value);
  return text;
}

template <class T>
std::string number_or_none(const std::optional<T>& value) {
  if (!value) return "none";
  if constexpr (std::is_floating_point_v<T>)
    return exact_number(static_cast<double>(*value));
  else
    return std::to_string(*value);
}

inline std::string describe(const Scorer& scorer) {
  return std::visit(
      [](const auto& s) {
        std::string text(s.info.name);
        if constexpr (requires { s.eps; }) text += " eps " + exact_number(static_cast<double>(s.eps));
        if constexpr (requires { s.roots; }) text += " roots " + std::to_string(s.roots);
        if constexpr (requires { s.seed; }) text += " seed " + std::to_string(s.seed);
        return text;
      },
      scorer);
}

inline std::string describe(const Exact& exact) {
  std::string text(Exact::name);
  if (exact.guess)
    text += " from " + exact_number(static_cast<double>(exact.guess->low)) + " to " +
            exact_number(static_cast<double>(exact.guess->high)) + (exact.guess->heavy_ends ? " heavy" : "");
  return text;
}

}  // namespace detail

// One line a field, "name: value". The caller's own lines come first.
inline std::string agreement_text(std::string text, const ShardMap& map, std::span<const std::string> names,
                                  const Scorer& scorer, const Budget& budget, const PruneOptions& options, bool masks) {
  if (!text.empty() && text.back() != '\n') text += '\n';
  const auto line = [&](const char* name, const std::string& value) {
    text += std::string(name) + ": " + value + "\n";
  };
  line("version", BITTERSWEET_VERSION_STRING);
  line("what", masks ? "masks" : "threshold");
  line("scorer", detail::describe(scorer));
  line("sparsity", detail::number_or_none(budget.sparsity));
  line("k", detail::number_or_none(budget.k));
  line("selector", detail::describe(std::get<Exact>(options.selector)));
  line("ties", options.ties ? std::to_string(static_cast<int>(*options.ties)) : "none");
  line("nonfinite", options.nonfinite == NonFinite::error ? "error" : "keep");
  line("seed", std::to_string(options.seed));
  line("regrow", options.regrow ? "yes" : "no");
  line("scope", std::to_string(options.scope.kind) + " " + std::to_string(options.scope.keep) + ":" +
                    std::to_string(options.scope.of));
  line("distribution", options.distribution ? std::to_string(static_cast<int>(*options.distribution)) : "none");
  line("rounding", options.rounding == Rounding::nearest ? "nearest" : "floor");
  line("remainder", options.remainder == Remainder::error ? "error" : "keep");
  line("max_tensor_sparsity", detail::number_or_none(options.max_tensor_sparsity));
  std::string ranges;
  for (const CountRange& range : options.tensor_sparsity)
    ranges += std::to_string(range.least) + "-" + std::to_string(range.most) + " ";
  line("tensor_sparsity", ranges);
  line("shards", std::to_string(map.digest()[0]) + " " + std::to_string(map.digest()[1]));
  std::string all;
  for (const std::string& name : names) all += name + '\n';
  const auto digest_of_names = digest(all);
  line("names", std::to_string(digest_of_names[0]) + " " + std::to_string(digest_of_names[1]));
  return text;
}

}  // namespace bittersweet
