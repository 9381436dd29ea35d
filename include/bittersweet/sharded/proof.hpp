// The last round: what shows that the masks of all ranks are right, and what the report has of the whole model.
#pragma once

#include "bittersweet/sharded/model.hpp"
#include "bittersweet/sharded/moments.hpp"

namespace bittersweet::flow {

template <RankEngine E>
class ShardedProof {
 public:
  explicit ShardedProof(ShardedModel<E>& model) : model_(model) {}

  std::size_t length() const {
    return limbs * (fixed + (model_.in.threshold_only ? 0 : model_.map.tensors()) +
                    (model_.options.scope.in_groups() ? model_.map.tensors() : 0));
  }
  std::size_t length_of_prints() const { return limbs * 2 * model_.map.tensors(); }
  static std::size_t most_length(std::size_t tensors) { return limbs * (fixed + 2 * tensors); }

  // The masks are complete. `nonfinite`: NaN met by tensor, in rows and groups.
  void put(LimbWriter& out, std::span<const std::int64_t> nonfinite) {
    own_.assign(model_.map.tensors(), 0);
    others_.assign(model_.map.tensors(), 0);
    std::vector<ScoreInputs> counted;
    std::vector<const std::uint64_t*> fresh;
    std::vector<std::size_t> of;
    std::vector<const ShardMap::Part*> mine(model_.parts.size());
    std::int64_t split_rows = 0;
    for (std::size_t i = 0; i < model_.parts.size(); ++i) {
      if (model_.parts[i] == nullptr) continue;
      const std::size_t t = model_.whole(i);
      if (model_.counts(i)) mine[i] = model_.parts[i];
      if (model_.in.threshold_only) continue;
      take_print(i, t);
      if (!model_.counts(i)) continue;
      const ScoreInputs& tensor = model_.in.tensors[i];
      counted.push_back(tensor);
      fresh.push_back(model_.in.masks[i]);
      of.push_back(t);
      split_rows +=
          !model_.map.whole_rows(*model_.parts[i]) || tensor.geometry.row_size() != model_.map.geometry(t).row_size();
    }
    std::vector<std::int64_t> live(counted.size()), pruned(model_.map.tensors());
    const std::int64_t churn = model_.options.regrow ? model_.engine.differing(counted, fresh) : 0;
    const std::int64_t empty = model_.engine.survey(counted, make_chunks(counted), fresh, live);
    for (std::size_t j = 0; j < live.size(); ++j) pruned[of[j]] += counted[j].numel - live[j];
    const SecondMoments second = count_second_moments(model_.engine, model_.view, mine, model_.map, model_.workspace);
    for (const std::int64_t n : {second.live, second.under, second.zero, churn, empty, split_rows}) out.put(n);
    for (const auto* const prints : {&own_, &others_})
      out.put(std::accumulate(prints->begin(), prints->end(), std::uint64_t{0}));
    if (!model_.in.threshold_only) put_per_tensor(pruned, out);
    if (model_.options.scope.in_groups()) put_per_tensor(nonfinite, out);
  }

  struct Proved {
    SecondMoments second{};
    std::int64_t churn = 0, empty_rows = 0;
    bool rows_split = false, copies_differ = false;
    std::vector<std::int64_t> pruned{}, nonfinite{};  // by tensor, where they were sent
  };
  Proved take(LimbReader& in) const {
    Proved proved;
    for (std::int64_t* const n :
         {&proved.second.live, &proved.second.under, &proved.second.zero, &proved.churn, &proved.empty_rows})
      *n = in.count();
    proved.rows_split = in.count() > 0;
    const std::uint64_t own = in.take(), others = in.take();
    proved.copies_differ = own != others;
    if (!model_.in.threshold_only) proved.pruned = take_per_tensor(in, model_.map.tensors());
    if (model_.options.scope.in_groups()) proved.nonfinite = take_per_tensor(in, model_.map.tensors());
    return proved;
  }

  // Copies differ: of which tensors?
  void put_prints(LimbWriter& out) const {
    for (std::size_t t = 0; t < own_.size(); ++t) {
      out.put(own_[t]);
      out.put(others_[t]);
    }
  }
  [[noreturn]] void raise_replicas(LimbReader& in) const {
    std::string names;
    for (std::size_t t = 0; t < model_.map.tensors(); ++t) {
      const std::uint64_t own = in.take(), others = in.take();
      if (own != others) names += (names.empty() ? "'" : ", '") + model_.in.names[t] + "'";
    }
    throw ReplicasDiffer("ranks: copies of " + names +
                         " would get different masks, because they, or their optimizer state, differ; nothing was "
                         "pruned. Bring the copies together (broadcast them from one rank), or, if they are different "
                         "tensors, give them different names");
  }

 private:
  static constexpr std::size_t fixed = 8;

  // Where the rank counts for a part with copies, as often as there are others: the sums of both kinds are equal if all
  // copies are.
  void take_print(std::size_t i, std::size_t t) {
    const ShardMap::Part& part = *model_.parts[i];
    if (part.copies == 1) return;
    const auto position = static_cast<std::size_t>(&part - model_.map.parts().data());
    const std::uint64_t print = fingerprint(model_.engine, model_.competing[i], model_.in.masks[i], position);
    if (model_.counts(i))
      own_[t] += print * static_cast<std::uint64_t>(part.copies - 1);
    else
      others_[t] += print;
  }

  ShardedModel<E>& model_;
  std::vector<std::uint64_t> own_, others_;  // prints by tensor
};

}  // namespace bittersweet::flow
