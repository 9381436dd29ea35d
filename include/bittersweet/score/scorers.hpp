// THE LIST of scorers. A new one is a file beside this one, its type in `Scorer`, and (if it has another published
// name) a row in `scorer_aliases`. Names, bindings, tests, benches and docs follow from here.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "bittersweet/error.hpp"
#include "bittersweet/score/adam_variance.hpp"
#include "bittersweet/score/bitter0.hpp"
#include "bittersweet/score/bitter10z.hpp"
#include "bittersweet/score/bitter3.hpp"
#include "bittersweet/score/bitter5.hpp"
#include "bittersweet/score/bitter5_published.hpp"
#include "bittersweet/score/bitter6.hpp"
#include "bittersweet/score/bitter7.hpp"
#include "bittersweet/score/bitter8.hpp"
#include "bittersweet/score/bitter8_bias_corrected.hpp"
#include "bittersweet/score/bitter8_published.hpp"
#include "bittersweet/score/bitter9_hybrid.hpp"
#include "bittersweet/score/bitter9_hybrid_published.hpp"
#include "bittersweet/score/gradient.hpp"
#include "bittersweet/score/identity.hpp"
#include "bittersweet/score/magnitude.hpp"
#include "bittersweet/score/random.hpp"
#include "bittersweet/score/taylor.hpp"
#include "bittersweet/score/wanda.hpp"

namespace bittersweet {

using Scorer = std::variant<Magnitude, Bitter0, Bitter3, Bitter5, Bitter6, Bitter7, Bitter8, Bitter8BiasCorrected,
                            Bitter9Hybrid, Bitter10z, Bitter5Published, Bitter8Published, Bitter9HybridPublished,
                            AdamVariance, Wanda, Gradient, Taylor, Random, Identity>;

struct ScorerAlias {
  std::string_view name;
  std::string_view of;
};

inline constexpr std::array<ScorerAlias, 4> scorer_aliases{
    {{"bitter1", "magnitude"}, {"bitter2", "magnitude"}, {"bitter4", "bitter3"}, {"bitter9", "bitter8"}}};

// Scorers with a memory: the formula of another scorer, on what a tracker (track.hpp) brings. Their names are known
// wherever scorers are; make_scorer gives the formula.
struct TrackedScorer {
  ScorerInfo info;
  std::string_view formula_of;
};

inline constexpr std::array<TrackedScorer, 4> tracked_scorers{
    {{{"bitter10", "bitter3 * coherence of its tensor", reads::weight | reads::exp_avg | reads::modifier, 1e-12f},
      "bitter3"},
     {{"bitter10s", "bitter3 * coherence of a sample of its tensor", reads::weight | reads::exp_avg | reads::modifier,
       1e-12f},
      "bitter3"},
     {{"bitter10c", "bitter3 * coherence since a snapshot", reads::weight | reads::exp_avg | reads::modifier, 1e-12f},
      "bitter3"},
     {{"movement", "accumulated -sum(lr * g * w)", reads::scores, -1.0f, false}, "identity"}}};

inline ScorerInfo info_of(const Scorer& scorer) {
  return std::visit([](const auto& s) { return s.info; }, scorer);
}

// Calls f with a default-constructed scorer of every type in the list, in its order.
template <class F>
void for_each_scorer(F&& f) {
  [&]<std::size_t... I>(std::index_sequence<I...>) {
    (f(std::variant_alternative_t<I, Scorer>{}), ...);
  }(std::make_index_sequence<std::variant_size_v<Scorer>>{});
}

inline std::string scorer_names() {
  std::string names;
  for_each_scorer([&](const auto& s) { names += (names.empty() ? "" : ", ") + std::string(s.info.name); });
  for (const auto& tracked : tracked_scorers) names += ", " + std::string(tracked.info.name);
  for (const auto& alias : scorer_aliases) names += ", " + std::string(alias.name);
  return names;
}

// The scorer called `name` (or an alias of it) with its default parameters; of a tracked one, its formula. Throws
// ArgumentError that lists the names.
inline Scorer make_scorer(std::string_view name) {
  for (const auto& alias : scorer_aliases)
    if (alias.name == name) name = alias.of;
  float eps = -1.0f;
  for (const auto& tracked : tracked_scorers)
    if (tracked.info.name == name) {
      name = tracked.formula_of;
      eps = tracked.info.default_eps;
    }
  std::optional<Scorer> found;
  for_each_scorer([&](auto s) {
    if (s.info.name != name) return;
    if constexpr (requires { s.eps; })
      if (eps >= 0.0f) s.eps = eps;
    found = s;
  });
  if (!found)
    throw ArgumentError("scorer: no scorer is called '" + std::string(name) + "'; known are " + scorer_names());
  return *found;
}

}  // namespace bittersweet
