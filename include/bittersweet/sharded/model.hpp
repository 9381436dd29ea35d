// What one rank has of a model that several hold together, and numbers by tensor of it.
#pragma once

#include "bittersweet/sharded/setup.hpp"

namespace bittersweet::flow {

inline void put_per_tensor(std::span<const std::int64_t> numbers, LimbWriter& out) {
  for (const std::int64_t n : numbers) out.put(n);
}
inline std::vector<std::int64_t> take_per_tensor(LimbReader& in, std::size_t tensors) {
  std::vector<std::int64_t> numbers(tensors);
  for (std::int64_t& n : numbers) n = in.count();
  return numbers;
}

template <RankEngine E>
struct ShardedModel {
  E& engine;
  ShardedInputs in;
  const ShardMap& map;
  Scorer scorer;
  PruneOptions options;
  Workspace& workspace;
  Asked asked{};
  std::string agreement{};
  std::vector<ScoreInputs> competing{};        // what this rank holds, as it competes
  std::vector<const ShardMap::Part*> parts{};  // of what part it is; null: without elements
  ScoreView view{};
  std::vector<ScoreInputs> tensors{};  // the whole ones: shapes and names
  bool non_negative = true;            // known once the ranks have agreed

  // Throws what is wrong before any rank has sent anything.
  ShardedModel(E& with, const ShardedInputs& inputs, const Scorer& by, const Budget& budget, const PruneOptions& how,
               Workspace& scratch)
      : engine(with), in(inputs), map(*inputs.map), scorer(by), options(how), workspace(scratch) {
    if (in.threshold_only) {
      options.scope = {};
      options.distribution.reset();
      options.max_tensor_sparsity.reset();
      options.tensor_sparsity.clear();
    }
    parts = match_parts(in);
    check_sharded(in, scorer, options);
    asked = ask(budget, options.scope, map.total());
    competing = competitors(in.tensors, options.regrow);
    for (std::size_t i = 0; i < competing.size(); ++i)
      if (parts[i] != nullptr && parts[i]->stretch) competing[i].origin = map.position(whole(i)) + parts[i]->first;
    view = make_view(competing, scorer);
    tensors = whole_tensors(map, in.names);
    if (options.scope.in_groups())
      for (std::size_t t = 0; t < tensors.size(); ++t) rule_of(t, true, 0);  // throws where it cannot be
    agreement = agreement_text(in.agreement, map, in.names, scorer, budget, options, !in.threshold_only);
  }
  ShardedModel(const ShardedModel&) = delete;
  ShardedModel& operator=(const ShardedModel&) = delete;

  std::size_t whole(std::size_t local) const { return static_cast<std::size_t>(in.whole[local]); }
  bool counts(std::size_t local) const { return parts[local] != nullptr && parts[local]->rank == in.rank; }
  bool ranged() const { return !options.tensor_sparsity.empty(); }
  bool bounded() const { return options.max_tensor_sparsity || ranged(); }
  bool by_tensor() const { return options.scope.kind != Scope::global || bounded(); }
  bool moments() const { return info_of(scorer).reads & reads::exp_avg_sq; }
  bool uniform() const { return options.distribution.value_or(Distribution::uniform) == Distribution::uniform; }
  const Exact& exact() const { return std::get<Exact>(options.selector); }

  // ---- numbers of what this rank counts for, by whole tensor ----

  std::vector<std::int64_t> local_live() {
    std::vector<ScoreInputs> counted;
    std::vector<std::size_t> of;
    for (std::size_t i = 0; i < competing.size(); ++i)
      if (counts(i)) {
        counted.push_back(competing[i]);
        of.push_back(whole(i));
      }
    std::vector<std::int64_t> live(counted.size()), found(map.tensors());
    live_elements(engine, counted, live);
    for (std::size_t j = 0; j < live.size(); ++j) found[of[j]] += live[j];
    return found;
  }

  std::vector<std::pair<std::size_t, std::int64_t>> live_under_new(std::span<const std::size_t> local) {
    std::vector<ScoreInputs> counted;
    std::vector<const std::uint64_t*> fresh;
    std::vector<std::pair<std::size_t, std::int64_t>> found;
    for (const std::size_t i : local)
      if (counts(i)) {
        counted.push_back(competing[i]);
        fresh.push_back(in.masks[i]);
        found.emplace_back(whole(i), 0);
      }
    std::vector<std::int64_t> live(counted.size());
    engine.popcount(counted, fresh, live);
    for (std::size_t j = 0; j < live.size(); ++j) found[j].second = live[j];
    return found;
  }

  // ---- rows and groups ----

  GroupRule rule_of(std::size_t t, bool evenly, std::int64_t share) const {
    const double s =
        map.total() > 0 ? asked.sparsity.value_or(static_cast<double>(asked.k) / static_cast<double>(map.total())) : 0;
    return group_rule(tensors[t], options.scope, options.rounding, options.remainder, evenly, s, share);
  }

  // Writes the masks, of which each tensor prunes `share`; returns the NaN that were met.
  std::vector<std::int64_t> prune_groups(std::span<const std::int64_t> share) {
    std::vector<std::int64_t> nonfinite(map.tensors());
    for (std::size_t i = 0; i < competing.size(); ++i) {
      if (parts[i] == nullptr) continue;
      const std::size_t t = whole(i);
      GroupRule rule = rule_of(t, uniform(), share[t]);
      if (rule.extra > 0) rule.extra = map.rows_among_first(*parts[i], competing[i].geometry, rule.extra);
      const std::int64_t nan = engine.group_mask(view, i, rule, in.masks);
      if (counts(i)) nonfinite[t] += nan;
      if (options.between_passes) options.between_passes();
    }
    return nonfinite;
  }

  // Flat index of the first NaN in the whole tensor; -1: there is none. Only on the way to an error.
  std::int64_t first_nonfinite(std::size_t i) {
    const std::int64_t local = engine.first_nonfinite(view, i, ranked_inputs(view.tensors[i].geometry, options.scope));
    return local < 0 ? -1 : map.global_index(*parts[i], local);
  }
};

}  // namespace bittersweet::flow
