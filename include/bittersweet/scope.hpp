// Who competes with whom (scope), and how much each tensor gives (distribution). Arithmetic on counts only.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "bittersweet/allocation.hpp"
#include "bittersweet/engine/summaries.hpp"
#include "bittersweet/error.hpp"
#include "bittersweet/select/threshold.hpp"
#include "bittersweet/tensor_view.hpp"

namespace bittersweet {

// global: one threshold over all tensors. tensor: one a tensor. row: one an output row (WANDA's comparison group).
// n_of_m: `keep` of every `of` consecutive inputs survive.
struct Scope {
  enum Kind { global, tensor, row, n_of_m } kind = global;
  std::int64_t keep = 0;
  std::int64_t of = 0;

  bool in_groups() const noexcept { return kind == row || kind == n_of_m; }
};

// The largest share of a tensor that a scope can prune.
BITTERSWEET_FORMULA double most_of(const Scope& scope) {
  if (scope.kind != Scope::n_of_m) return 1.0;
  return 1.0 - static_cast<double>(scope.keep) / static_cast<double>(scope.of);
}

// A budget as a scope takes it: N:M has one of its own, and an upper limit.
struct Asked {
  std::optional<double> sparsity{};
  std::int64_t k = 0;
  double most = 1.0;  // share of a tensor
};

inline Asked ask(const Budget& budget, const Scope& scope, std::int64_t total) {
  Asked asked{.sparsity = budget.sparsity};
  if (scope.kind != Scope::n_of_m) {
    asked.k = resolve(budget, total);
    return asked;
  }
  asked.most = most_of(scope);
  if (!budget.sparsity && !budget.k) asked.sparsity = asked.most;
  asked.k = resolve({asked.sparsity, budget.k}, total);
  if (static_cast<double>(asked.k) > asked.most * static_cast<double>(total) + 0.5)
    throw ArgumentError("sparsity: more than 1 - N/M = " + std::to_string(asked.most) + " of scope '" +
                        std::to_string(scope.keep) + ":" + std::to_string(scope.of) +
                        "'; give less, or omit it to prune M - N of each group");
  return asked;
}

// How many of a row's inputs are ranked with others: those behind the last whole N:M group stay, NaN or not.
inline std::int64_t ranked_inputs(const Geometry& g, const Scope& scope) noexcept {
  return scope.kind == Scope::n_of_m ? g.inputs - g.inputs % scope.of : g.inputs;
}

enum class Rounding { nearest, floor };  // of a row's share: floor(s * columns + 0.5), or int(s * columns)
enum class Remainder { error, keep };    // inputs that M does not divide: refuse, or leave the last ones dense

// "global", "tensor", "row" or "N:M". Throws ArgumentError.
inline Scope parse_scope(const std::string& text) {
  if (text == "global") return {Scope::global};
  if (text == "tensor") return {Scope::tensor};
  if (text == "row") return {Scope::row};
  const auto digits = [](const std::string& s) {
    return !s.empty() && s.size() <= 4 && std::all_of(s.begin(), s.end(), [](char c) { return c >= '0' && c <= '9'; });
  };
  if (const auto colon = text.find(':'); colon != std::string::npos) {
    const std::string n = text.substr(0, colon), m = text.substr(colon + 1);
    if (digits(n) && digits(m) && std::stoll(n) <= std::stoll(m) && std::stoll(m) > 0)
      return {Scope::n_of_m, std::stoll(n), std::stoll(m)};
  }
  throw ArgumentError("scope: '" + text +
                      "'; accepted are 'global', 'tensor', 'row' and 'N:M' with N of every M inputs kept, as in '2:4'");
}

// The sum of the sizes of a tensor's shape.
inline std::int64_t dimensions_of(const ScoreInputs& tensor) {
  return tensor.dimension_sum > 0 ? tensor.dimension_sum : tensor.geometry.rows + tensor.geometry.inputs;
}

// What each tensor gives to `k` of `total` elements (share_out of allocation.hpp).
inline std::vector<std::int64_t> allocate(std::span<const ScoreInputs> tensors, std::span<const std::int64_t> dead,
                                          Distribution distribution, std::int64_t k, std::int64_t total,
                                          std::optional<double> sparsity, double most = 1.0) {
  const double s = sparsity.value_or(total > 0 ? static_cast<double>(k) / static_cast<double>(total) : 0.0);
  const auto size_of = [&](std::int64_t i) {
    const auto t = static_cast<std::size_t>(i);
    return TensorSize{tensors[t].numel, dimensions_of(tensors[t]), dead[t]};
  };
  std::vector<std::int64_t> shares(tensors.size());
  share_out(OneThread{}, static_cast<std::int64_t>(tensors.size()), size_of, {distribution, k, total, s, most},
            shares.data());
  return shares;
}

// The share that scopes take of a budget: as it was asked for, or k of the total.
BITTERSWEET_FORMULA double share_asked(bool has_sparsity, double sparsity, std::int64_t k, std::int64_t total) {
  if (total <= 0) return 0.0;
  return has_sparsity ? sparsity : static_cast<double>(k) / static_cast<double>(total);
}

// How many a group of a tensor prunes. Uniform shares are taken row by row (or group by group); a tensor's own share
// `k` is spread over its rows, the first rows giving one more.
BITTERSWEET_FORMULA GroupRule rule_of(const Geometry& g, std::int64_t numel, const Scope& scope, Rounding rounding,
                                      bool uniform, double sparsity, std::int64_t k) {
  if (scope.kind == Scope::row) {
    if (!uniform) return {0, g.rows > 0 ? k / g.rows : 0, g.rows > 0 ? k % g.rows : 0};
    const double share = sparsity * static_cast<double>(g.row_size());
    return {0, static_cast<std::int64_t>(std::floor(rounding == Rounding::nearest ? share + 0.5 : share)), 0};
  }
  const double own = uniform || numel == 0 ? sparsity : static_cast<double>(k) / static_cast<double>(numel);
  const auto base = static_cast<std::int64_t>(std::floor(own * static_cast<double>(scope.of) + 0.5));
  return {scope.of, base < scope.of - scope.keep ? base : scope.of - scope.keep, 0};
}

inline void require_groups(const ScoreInputs& tensor, const Scope& scope, Remainder remainder) {
  const Geometry& g = tensor.geometry;
  if (scope.kind != Scope::n_of_m || g.inputs % scope.of == 0 || remainder == Remainder::keep) return;
  const std::string n = std::to_string(scope.keep), m = std::to_string(scope.of);
  throw ShapeError("scope: '" + n + ":" + m + "' does not divide the " + std::to_string(g.inputs) +
                   " inputs of tensor '" + std::string(tensor.name) + "'; leave the last " +
                   std::to_string(g.inputs % scope.of) + " of each row dense by remainder=\"keep\" (from Python " +
                   "scope=bs.NofM(" + n + ", " + m + ", remainder=\"keep\")), or leave this tensor out");
}

inline GroupRule group_rule(const ScoreInputs& tensor, const Scope& scope, Rounding rounding, Remainder remainder,
                            bool uniform, double sparsity, std::int64_t k) {
  require_groups(tensor, scope, remainder);
  return rule_of(tensor.geometry, tensor.numel, scope, rounding, uniform, sparsity, k);
}

// Elements that a rule prunes in one tensor, before NaN and dead elements are looked at.
BITTERSWEET_FORMULA std::int64_t pruned_by(const Geometry& g, const GroupRule& rule) {
  if (rule.group == 0) return g.rows * rule.base + rule.extra;
  return g.rows * g.inner * (g.inputs / rule.group) * rule.base;
}

}  // namespace bittersweet
