// A flow over ranks with all that it borrows but the map and the workspace: what the composition roots put behind
// ShardedPrune.
#pragma once

#include <optional>

#include "bittersweet/sharded.hpp"
#include "bittersweet/sharded/flow.hpp"

namespace bittersweet::flow {

// What a rank hands in, as the constructor of ShardedPrune takes it.
struct ShardedArguments {
  const ShardMap& map;
  std::int64_t rank;
  std::span<const ScoreInputs> tensors;
  std::span<const std::int64_t> whole;
  std::span<const std::string> names;
  const Scorer& scorer;
  const Budget& budget;
  const PruneOptions& options;
  const std::string& agreement;
  std::optional<MaskTable> masks;
};

template <RankEngine E>
class OwnedRounds : public ShardedPrune::Rounds {
 public:
  std::span<std::int32_t> next(bool fault) override { return flow_->next(fault); }
  const PruneReport& report() const override { return flow_->report(); }
  std::int64_t rounds() const override { return flow_->rounds(); }
  std::int64_t bytes() const override { return flow_->bytes(); }
  const std::string& agreement() const override { return flow_->agreement(); }

 protected:
  explicit OwnedRounds(const ShardedArguments& given)
      : tensors_(given.tensors.begin(), given.tensors.end()),
        whole_(given.whole.begin(), given.whole.end()),
        names_(given.names.begin(), given.names.end()) {
    if (given.masks) masks_.assign(given.masks->begin(), given.masks->end());
  }

  void begin(E& engine, const ShardedArguments& given, Workspace& workspace) {
    flow_.emplace(engine,
                  ShardedInputs{.map = &given.map,
                                .rank = given.rank,
                                .tensors = tensors_,
                                .whole = whole_,
                                .names = names_,
                                .agreement = given.agreement,
                                .masks = masks_,
                                .threshold_only = !given.masks},
                  given.scorer, given.budget, given.options, workspace);
  }

 private:
  std::vector<ScoreInputs> tensors_;
  std::vector<std::int64_t> whole_;
  std::vector<std::string> names_;
  std::vector<std::uint64_t*> masks_;
  std::optional<Sharded<E>> flow_{};
};

}  // namespace bittersweet::flow
