// The flow over ranks, once, for every engine: agree, select side by side, prove, report. sharded.hpp runs it on the
// CPU engine. Every rank walks through the same stages, since each follows from sums alone.
#pragma once

#include <exception>

#include "bittersweet/sharded/batch.hpp"
#include "bittersweet/sharded/proof.hpp"

namespace bittersweet::flow {

template <RankEngine E>
class Sharded {
 public:
  Sharded(E& engine, const ShardedInputs& in, const Scorer& scorer, const Budget& budget, const PruneOptions& options,
          Workspace& workspace)
      : model_(engine, in, scorer, budget, options, workspace), batch_(model_), proof_(model_) {
    const std::size_t tensors = model_.map.tensors();
    report_.total = model_.map.total();
    report_.k = model_.asked.k;
    if (!in.threshold_only) report_.tensor_threshold.resize(tensors);
    std::size_t most_parts = 0;
    for (std::size_t t = 0; t < tensors; ++t) most_parts = std::max(most_parts, model_.map.parts(t).size());
    const std::size_t most_selections =
        in.bins + (tensors + 1) * (SharedSelection::bracket_length + ShardedInputs::fewest_bins);
    buffer_.resize(1 + std::max({first_length(), most_selections, ShardedProof<E>::most_length(tensors),
                                 limbs * most_parts, 2 * limbs * tensors}));
    if (model_.options.scope.kind == Scope::global) batch_.begin_global();
  }
  Sharded(const Sharded&) = delete;
  Sharded& operator=(const Sharded&) = delete;

  // The next vector, to be summed over all ranks in place before the next call; empty when all is done. `fault`: this
  // rank cannot go on; then every rank throws after the sum.
  std::span<std::int32_t> next(bool fault) {
    if (stage_ == Stage::failed) throw Error("next: called again after it had thrown; make a new object for a new try");
    if (stage_ == Stage::done) return {};
    if (rounds_ > 0) {
      try {
        take();
      } catch (...) {
        stage_ = Stage::failed;
        throw;
      }
      if (stage_ == Stage::done) return {};
    }
    const std::span<std::int32_t> vector(buffer_.data(), 1 + length());
    std::fill(vector.begin(), vector.end(), 0);
    if (!fault) {
      try {
        put(vector.subspan(1));
      } catch (...) {  // the others must hear of it in this round
        error_ = std::current_exception();
        std::fill(vector.begin(), vector.end(), 0);
      }
    }
    vector[0] = fault || error_;
    sent_ = vector.size();
    ++rounds_;
    bytes_ += static_cast<std::int64_t>(vector.size_bytes());
    return vector;
  }

  const PruneReport& report() const { return report_; }
  const std::string& agreement() const noexcept { return model_.agreement; }
  std::int64_t rounds() const noexcept { return rounds_; }
  std::int64_t bytes() const noexcept { return bytes_; }

  // Fixed, since arguments may differ between ranks until this round has shown that they do not.
  static constexpr std::size_t first_bins = 65536;
  static constexpr std::size_t first_length() noexcept {
    return limbs * 3 + agreement_limbs + SampleSpread::length + first_bins;
  }

 private:
  enum class Stage { agree, live, select, bounds, nonfinite, first_nonfinite, prove, replicas, done, failed };

  // ---- the stages ----

  std::size_t length() const {
    switch (stage_) {
      case Stage::agree: return first_length();
      case Stage::select: return batch_.length();
      case Stage::first_nonfinite: return limbs * model_.map.parts(culprit_).size();
      case Stage::bounds: return (model_.ranged() ? 2 : 1) * limbs * model_.map.tensors();
      case Stage::prove: return proof_.length();
      case Stage::replicas: return proof_.length_of_prints();
      default: return limbs * model_.map.tensors();
    }
  }

  void put(std::span<std::int32_t> to) {
    LimbWriter out(to);
    switch (stage_) {
      case Stage::agree: return put_agreement_and_sample(to);
      case Stage::live: return put_per_tensor(model_.local_live(), out);
      case Stage::select: return batch_.put(to);
      case Stage::bounds: return put_live_under_new(out);
      case Stage::nonfinite: return put_per_tensor(batch_.nonfinite(), out);
      case Stage::first_nonfinite: return put_first_nonfinite(to);
      case Stage::prove:
        if (model_.options.scope.in_groups())
          nonfinite_ = model_.prune_groups(share_);
        else if (!model_.bounded() && !model_.in.threshold_only)
          batch_.complete();
        return proof_.put(out, nonfinite_);
      case Stage::replicas: return proof_.put_prints(out);
      default: return;
    }
  }

  void take() {
    const std::span<const std::int32_t> sums(buffer_.data() + 1, sent_ - 1);
    if (buffer_[0] > 0) {
      if (error_) std::rethrow_exception(error_);
      throw RankFailed("ranks: " + std::to_string(buffer_[0]) + " of " + std::to_string(model_.map.ranks()) +
                       " failed in round " + std::to_string(rounds_) +
                       "; nothing was pruned. Their own errors say why");
    }
    LimbReader in(sums);
    switch (stage_) {
      case Stage::agree: return take_agreement_and_sample(sums);
      case Stage::live: return take_live(in);
      case Stage::select:
        if (batch_.take(sums)) return go_on_if_selected();
        stage_ = Stage::nonfinite;
        return;
      case Stage::bounds: return take_bounds(in);
      case Stage::nonfinite: return name_culprit(take_per_tensor(in, model_.map.tensors()));
      case Stage::first_nonfinite: return raise_first_nonfinite(in);
      case Stage::prove: return take_proof(in);
      case Stage::replicas: return proof_.raise_replicas(in);
      default: return;
    }
  }

  // ---- agree ----

  void put_agreement_and_sample(std::span<std::int32_t> to) {
    std::int64_t live = 0, negative = 0;
    for (const std::int64_t n : model_.local_live()) live += n;
    for (const ScoreInputs& tensor : model_.competing) negative += !(tensor.modifier >= 0.0f);
    LimbWriter out(to);
    out.put(std::int64_t{1});
    out.put(live);
    out.put(negative);
    put_agreement(model_.agreement, out);
    if (!samples()) return;
    to = to.subspan(first_length() - first_bins - SampleSpread::length);
    double held = 0, k = static_cast<double>(report_.k) / static_cast<double>(std::max<std::int64_t>(report_.total, 1));
    for (std::size_t i = 0; i < model_.parts.size(); ++i)
      if (model_.counts(i)) held += static_cast<double>(model_.parts[i]->numel);
    const double dead = held - static_cast<double>(live);
    const double share = live > 0 ? std::clamp((k * held - dead) / static_cast<double>(live), 0.0, 1.0) : 0.0;
    batch_.runs()[0].part->look(model_.engine, first_narrowing(), model_.map.total(), share, to, model_.workspace);
  }

  // By the scorer alone: modifiers may differ between ranks.
  Narrowing first_narrowing() const { return widest(info_of(model_.scorer).non_negative, first_bins); }
  bool samples() const {
    return model_.options.scope.kind == Scope::global && report_.k > 0 && !model_.exact().guess &&
           model_.map.total() > Chunk::size / 2;
  }

  void take_agreement_and_sample(std::span<const std::int32_t> sums) {
    LimbReader in(sums);
    const std::uint64_t ranks = in.take();
    const std::int64_t live = in.count();
    model_.non_negative = in.count() == 0 && info_of(model_.scorer).non_negative;
    if (!take_agreement(in, ranks) || ranks != static_cast<std::uint64_t>(model_.map.ranks()))
      throw RanksDisagree("ranks: they were not given the same step, options, tensors or shards (" +
                          std::to_string(ranks) + " took part, of " + std::to_string(model_.map.ranks()) +
                          "); nothing was pruned. Compare what each was given");
    report_.dead = report_.total - live;
    const std::span<const std::int32_t> sample = sums.subspan(first_length() - first_bins - SampleSpread::length);
    if (model_.by_tensor()) {
      first_sample_.assign(sample.begin(), sample.end());
      stage_ = Stage::live;
      return;
    }
    select_globally(report_.k - report_.dead, sample);
  }

  void select_globally(std::int64_t rank, std::span<const std::int32_t> sample) {
    const std::int64_t live = report_.total - report_.dead;
    if (!samples()) sample = {};
    batch_.select_globally(std::clamp<std::int64_t>(rank, 0, live), live, first_narrowing(), sample);
    stage_ = Stage::select;
    go_on_if_selected();
  }

  void take_live(LimbReader& in) {
    dead_ = take_per_tensor(in, model_.map.tensors());
    for (std::size_t t = 0; t < dead_.size(); ++t) dead_[t] = model_.map.numel(t) - dead_[t];
    if (model_.bounded()) {
      fixed_.resize(dead_.size());
      numels_.resize(dead_.size());
      for (std::size_t t = 0; t < dead_.size(); ++t) numels_[t] = model_.map.numel(t);
      ranges_ = ranges_of(model_.options.tensor_sparsity, model_.options.max_tensor_sparsity, numels_, dead_);
      if (model_.ranged()) require_within(ranges_, report_.k, report_.dead, report_.total);
      budget_ = report_.k;
      return select_globally(budget_ - report_.dead, first_sample_);
    }
    const Distribution distribution = model_.options.distribution.value_or(Distribution::uniform);
    share_ = allocate(model_.tensors, dead_, distribution, report_.k, report_.total, model_.asked.sparsity,
                      model_.asked.most);
    report_.k = 0;
    if (model_.options.scope.in_groups()) {
      for (std::size_t t = 0; t < share_.size(); ++t)
        report_.k += pruned_by(model_.tensors[t].geometry, model_.rule_of(t, model_.uniform(), share_[t]));
      stage_ = Stage::prove;
      return;
    }
    report_.k = std::accumulate(share_.begin(), share_.end(), std::int64_t{0});
    batch_.begin_by_tensor(share_, dead_);
    stage_ = Stage::select;
    go_on_if_selected();
  }

  void go_on_if_selected() {
    if (!batch_.done()) return;
    stage_ = model_.bounded() ? Stage::bounds : Stage::prove;
    if (!model_.in.threshold_only || model_.moments()) return;
    report_selections();
    stage_ = Stage::done;
  }

  // ---- tensors beyond their bounds ----

  void put_live_under_new(LimbWriter& out) {
    batch_.complete();
    std::vector<std::int64_t> found(model_.map.tensors());
    for (const ShardedRun<E>& run : batch_.runs())
      for (const auto& [t, live] : model_.live_under_new(run.local)) found[t] += live;
    put_per_tensor(found, out);
    if (model_.ranged()) put_per_tensor(batch_.nonfinite(), out);
  }

  void take_bounds(LimbReader& in) {
    const std::vector<std::int64_t> live = take_per_tensor(in, model_.map.tensors());
    const ShardedRun<E>& free = batch_.runs().back();
    const auto passes_of = [&](const ShardedRun<E>& run) {
      const auto elements = static_cast<double>(run.shared->plan().elements);
      return run.part->passes() * elements / static_cast<double>(std::max<std::int64_t>(report_.total, 1));
    };
    Selection selection = free.selection();
    if (looked_) selection.passes = passes_of(free);
    report_.count_below = report_.count_equal = 0;
    if (model_.ranged() && !looked_ && selection.nan > 0)
      leave_nan(ranges_, numels_, take_per_tensor(in, model_.map.tensors()));
    const std::int64_t nan = looked_ ? report_.nonfinite : selection.nan;  // the first look saw them all
    for (const ShardedRun<E>& run : batch_.runs())
      if (&run != &free) report_.passes += passes_of(run);
    add(report_, selection);
    report_.nonfinite = nan;
    report_.value = selection.value;
    looked_ = true;
    std::fill(report_.tensor_threshold.begin(), report_.tensor_threshold.end(), std::nullopt);
    std::vector<std::int64_t> pruned;
    std::vector<CountRange> bounds;
    for (const std::size_t t : free.tensors) {
      report_.tensor_threshold[t] = report_.value;
      pruned.push_back(numels_[t] - live[t]);
      bounds.push_back(ranges_[t]);
    }
    stage_ = Stage::prove;
    const Fixed leaving = beyond(pruned, bounds, budget_);
    if (leaving.places.empty()) return;
    std::vector<std::size_t> fixed, rest;
    for (std::size_t j = 0; j < leaving.places.size(); ++j) {
      fixed.push_back(free.tensors[leaving.places[j]]);
      fixed_[fixed.back()] = true;
      budget_ -= leaving.counts[j];
    }
    for (std::size_t t = 0; t < fixed_.size(); ++t)
      if (!fixed_[t]) rest.push_back(t);
    batch_.begin_bounded(fixed, leaving.counts, std::move(rest), budget_, dead_);
    stage_ = Stage::select;
    go_on_if_selected();
  }

  // ---- NaN ----

  void name_culprit(const std::vector<std::int64_t>& found) {
    while (found[culprit_] == 0) ++culprit_;
    nonfinite_count_ = std::accumulate(found.begin(), found.end(), std::int64_t{0});
    stage_ = Stage::first_nonfinite;
  }

  void put_first_nonfinite(std::span<std::int32_t> to) {
    for (std::size_t i = 0; i < model_.competing.size(); ++i) {
      if (model_.whole(i) != culprit_ || !model_.counts(i)) continue;
      const auto slot = static_cast<std::size_t>(model_.parts[i] - model_.map.parts(culprit_).data());
      LimbWriter(to.subspan(limbs * slot, limbs)).put(1 + model_.first_nonfinite(i));
    }
  }

  [[noreturn]] void raise_first_nonfinite(LimbReader& in) const {
    std::int64_t first = 0;
    for (std::size_t p = 0; p < model_.map.parts(culprit_).size(); ++p)
      if (const std::int64_t at = in.count(); at > 0 && (first == 0 || at < first)) first = at;
    if (first == 0) throw Error("scores changed while they were read: a NaN was counted and is gone");
    throw NonFiniteScoreError(model_.in.names[culprit_], nonfinite_count_, first - 1);
  }

  // ---- prove, then report ----

  void take_proof(LimbReader& in) {
    const typename ShardedProof<E>::Proved proved = proof_.take(in);
    report_.nonfinite = std::accumulate(proved.nonfinite.begin(), proved.nonfinite.end(), report_.nonfinite);
    if (!proved.nonfinite.empty() && report_.nonfinite > 0 && model_.options.nonfinite == NonFinite::error)
      return name_culprit(proved.nonfinite);
    if (proved.copies_differ) {
      stage_ = Stage::replicas;
      return;
    }
    report_selections();
    if (!model_.in.threshold_only) {
      report_.tensor_pruned = proved.pruned;
      report_.pruned = std::accumulate(proved.pruned.begin(), proved.pruned.end(), std::int64_t{0});
      report_.churn = model_.options.regrow ? proved.churn : report_.pruned - report_.dead;
      report_.empty_rows = proved.rows_split ? -1 : proved.empty_rows;
    }
    if (model_.moments() && proved.second.live > 0) {
      const auto drawn = static_cast<double>(proved.second.live);
      report_.v_below_eps = static_cast<double>(proved.second.under) / drawn;
      report_.v_zero = static_cast<double>(proved.second.zero) / drawn;
    }
    stage_ = Stage::done;
  }

  void report_selections() {
    if (model_.options.scope.in_groups()) {
      report_.path = "groups";
      report_.passes = 1;
      return;
    }
    if (model_.bounded()) return;  // reported as they were made
    for (const ShardedRun<E>& run : batch_.runs()) {
      const Selection selection = run.selection();
      add(report_, selection);
      if (model_.options.scope.kind == Scope::global) report_.value = selection.value;
      if (model_.in.threshold_only)
        report_.pruned = report_.dead + selection.below + ties_wanted(run.shared->plan().ties, selection);
      else
        for (const std::size_t t : run.tensors) report_.tensor_threshold[t] = selection.value;
    }
    if (model_.options.scope.kind == Scope::tensor)
      report_.passes /= static_cast<double>(std::max<std::size_t>(model_.map.tensors(), 1));
  }

  ShardedModel<E> model_;
  ShardedBatch<E> batch_;
  ShardedProof<E> proof_;
  PruneReport report_{};

  Stage stage_ = Stage::agree;
  std::vector<std::int32_t> buffer_;  // never moves: callers may hold on to it
  std::size_t sent_ = 0;
  std::int64_t rounds_ = 0, bytes_ = 0;
  std::exception_ptr error_{};

  std::vector<std::int32_t> first_sample_;                       // until the dead of each tensor are known
  std::vector<std::int64_t> dead_, numels_, share_, nonfinite_;  // by tensor
  std::vector<CountRange> ranges_;
  std::vector<bool> fixed_;
  std::int64_t budget_ = 0;  // of what is not fixed
  bool looked_ = false;
  std::size_t culprit_ = 0;  // the tensor with the first NaN
  std::int64_t nonfinite_count_ = 0;
};

}  // namespace bittersweet::flow
