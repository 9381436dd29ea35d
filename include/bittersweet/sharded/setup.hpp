// What a rank hands in for a pruning that several make together, checked before the first round.
#pragma once

#include "bittersweet/flow.hpp"
#include "bittersweet/shard_map.hpp"
#include "bittersweet/sharded/agreement.hpp"

namespace bittersweet::flow {

struct ShardedInputs {
  const ShardMap* map = nullptr;
  std::int64_t rank = 0;
  std::span<const ScoreInputs> tensors{};  // what this rank holds
  std::span<const std::int64_t> whole{};   // position of the tensor that each is, or is a part of
  std::span<const std::string> names{};    // of all tensors
  std::string agreement{};                 // what else must be alike on all ranks
  MaskTable masks{};
  bool threshold_only = false;                    // no masks; scope, distribution and caps do not matter
  std::size_t bins = std::size_t{1} << 17;        // of one vector
  static constexpr std::size_t fewest_bins = 64;  // of one selection, where several share a vector
};

inline void check_names(const ShardedInputs& in) {
  if (in.names.size() != in.map->tensors())
    throw ShapeError("names: " + std::to_string(in.names.size()) + " for " + std::to_string(in.map->tensors()) +
                     " tensors; one is needed for each");
}

// The parts that this rank's tensors are, in their order; null for those without elements.
inline std::vector<const ShardMap::Part*> match_parts(const ShardedInputs& in) {
  const ShardMap& map = *in.map;
  if (in.rank < 0 || in.rank >= map.ranks())
    throw ArgumentError("rank: " + std::to_string(in.rank) + "; accepted are 0 to " + std::to_string(map.ranks() - 1));
  check_names(in);
  if (in.whole.size() != in.tensors.size())
    throw ShapeError("tensors: positions of " + std::to_string(in.whole.size()) + " tensors for " +
                     std::to_string(in.tensors.size()) + "; one is needed for each");
  if (!in.threshold_only && in.masks.size() != in.tensors.size())
    throw ShapeError("masks: " + std::to_string(in.masks.size()) + " for " + std::to_string(in.tensors.size()) +
                     " tensors; one is needed for each");
  std::vector<const ShardMap::Part*> parts;
  std::vector<std::size_t> used(map.tensors());
  for (std::size_t i = 0; i < in.tensors.size(); ++i) {
    if (in.whole[i] < 0 || in.whole[i] >= static_cast<std::int64_t>(map.tensors()))
      throw ArgumentError("tensors: position " + std::to_string(in.whole[i]) + ", where there are " +
                          std::to_string(map.tensors()) + " tensors");
    const auto t = static_cast<std::size_t>(in.whole[i]);
    parts.push_back(nullptr);
    if (in.tensors[i].numel == 0) continue;
    const std::vector<std::size_t>& held = map.held(in.rank, t);
    if (used[t] == held.size())
      throw ShapeError("tensors: rank " + std::to_string(in.rank) + " brings more parts of '" + in.names[t] +
                       "' than the " + std::to_string(held.size()) + " that the map says");
    parts.back() = &map.parts()[held[used[t]++]];
    if (parts.back()->numel != in.tensors[i].numel)
      throw ShapeError("tensors: rank " + std::to_string(in.rank) + " brings " + std::to_string(in.tensors[i].numel) +
                       " elements of '" + in.names[t] + "' for a part of " + std::to_string(parts.back()->numel));
  }
  for (std::size_t t = 0; t < map.tensors(); ++t)
    if (used[t] != map.held(in.rank, t).size())
      throw ShapeError("tensors: rank " + std::to_string(in.rank) + " holds a part of '" + in.names[t] +
                       "' by the map, and does not bring it");
  return parts;
}

// What the map and the options say alike to all ranks.
inline void check_sharded(const ShardedInputs& in, const Scorer& scorer, const PruneOptions& options) {
  check_names(in);
  check(options);
  ties_of(options);
  if (!std::holds_alternative<Exact>(options.selector))
    throw ArgumentError("selector: '" + std::string(name_of(options.selector)) +
                        "' over ranks; 'exact' is accepted there");
  const ShardMap& map = *in.map;
  if (!options.tensor_sparsity.empty()) {
    std::vector<std::int64_t> numels(map.tensors());
    for (std::size_t t = 0; t < numels.size(); ++t) numels[t] = map.numel(t);
    check_ranges(options.tensor_sparsity, numels);
  }
  if (info_of(scorer).reads & reads::position)
    for (std::size_t t = 0; t < map.tensors(); ++t)
      if (map.boxed(t))
        throw ShapeError("scorer: 'random' numbers elements by their position, and the parts of '" + in.names[t] +
                         "' are split along an inner axis; split it along the first axis, or use another scorer");
  if (!options.scope.in_groups()) return;
  const bool rows = options.scope.kind == Scope::row;
  const std::string n_of_m = std::to_string(options.scope.keep) + ":" + std::to_string(options.scope.of);
  for (const ShardMap::Part& part : map.parts())
    if (rows ? !map.whole_rows(part) : !map.whole_groups(part, options.scope.of))
      throw ShapeError(
          "scope: '" + (rows ? std::string("row") : n_of_m) + "' needs " +
          (rows ? "whole output rows" : "whole groups of " + std::to_string(options.scope.of) + " inputs") +
          " on a rank, and those of '" + in.names[static_cast<std::size_t>(part.tensor)] +
          "' are split between ranks; split it along its output rows (Shard(0) of a Linear)" +
          (rows ? "" : " or at multiples of " + std::to_string(options.scope.of) + " inputs") +
          ", leave it out, or use scope 'global' or 'tensor'");
}

// The whole tensors as allocate() and group_rule() look at them: shapes and names.
inline std::vector<ScoreInputs> whole_tensors(const ShardMap& map, std::span<const std::string> names) {
  std::vector<ScoreInputs> whole(map.tensors());
  for (std::size_t t = 0; t < whole.size(); ++t) {
    whole[t].numel = map.numel(t);
    whole[t].geometry = map.geometry(t);
    whole[t].dimension_sum = std::accumulate(map.shape(t).begin(), map.shape(t).end(), std::int64_t{0});
    whole[t].name = names[t];
  }
  return whole;
}

}  // namespace bittersweet::flow
