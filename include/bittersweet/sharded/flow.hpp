// The flow over ranks, once, for every engine: agree, select side by side, prove, report. sharded.hpp runs it on the
// CPU engine. Every rank walks through the same stages, since each follows from sums alone.
#pragma once

#include <exception>

#include "bittersweet/sharded/moments.hpp"
#include "bittersweet/sharded/setup.hpp"

namespace bittersweet::flow {

template <Engine E>
class Sharded {
 public:
  Sharded(E& engine, const ShardedInputs& in, const Scorer& scorer, const Budget& budget, const PruneOptions& options,
          Workspace& workspace)
      : engine_(engine), in_(in), map_(*in.map), scorer_(scorer), options_(options), workspace_(workspace) {
    if (in_.threshold_only) {
      options_.scope = {};
      options_.distribution.reset();
      options_.max_tensor_sparsity.reset();
    }
    parts_ = match_parts(in_);
    check_sharded(in_, scorer, options_);
    asked_ = ask(budget, options_.scope, map_.total());
    competing_ = competitors(in_.tensors, options_.regrow);
    for (std::size_t i = 0; i < competing_.size(); ++i)
      if (parts_[i] != nullptr && parts_[i]->stretch) competing_[i].origin = map_.position(whole(i)) + parts_[i]->first;
    view_ = make_view(competing_, scorer_);
    whole_ = whole_tensors(map_, in_.names);
    if (options_.scope.in_groups())
      for (std::size_t t = 0; t < whole_.size(); ++t) rule_of(t, true, 0);  // throws where it cannot be
    agreement_ = agreement_text(in_.agreement, map_, in_.names, scorer, budget, options_, !in_.threshold_only);
    report_.total = map_.total();
    report_.k = asked_.k;
    if (!in_.threshold_only) report_.tensor_threshold.resize(map_.tensors());
    std::size_t most_parts = 0;
    for (std::size_t t = 0; t < map_.tensors(); ++t) most_parts = std::max(most_parts, map_.parts(t).size());
    buffer_.resize(
        1 + std::max({first_length(),
                      in_.bins + (map_.tensors() + 1) * (SharedSelection::bracket_length + ShardedInputs::fewest_bins),
                      limbs * (fixed_proofs + 2 * map_.tensors()), limbs * most_parts}));
    if (options_.scope.kind == Scope::global) begin_global();
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
  const std::string& agreement() const noexcept { return agreement_; }
  std::int64_t rounds() const noexcept { return rounds_; }
  std::int64_t bytes() const noexcept { return bytes_; }

  // Fixed, since arguments may differ between ranks until this round has shown that they do not.
  static constexpr std::size_t first_bins = 65536;
  static constexpr std::size_t first_length() noexcept {
    return limbs * 3 + agreement_limbs + SampleSpread::length + first_bins;
  }

 private:
  enum class Stage { agree, live, select, caps, nonfinite, first_nonfinite, prove, replicas, done, failed };
  using Step = SharedSelection::Step;
  static constexpr std::size_t fixed_proofs = 8;

  std::size_t whole(std::size_t local) const { return static_cast<std::size_t>(in_.whole[local]); }
  bool counts(std::size_t local) const { return parts_[local] != nullptr && parts_[local]->rank == in_.rank; }
  bool capped() const { return options_.max_tensor_sparsity.has_value(); }
  bool by_tensor() const { return options_.scope.kind != Scope::global || capped(); }
  bool moments() const { return info_of(scorer_).reads & reads::exp_avg_sq; }

  // ---- the stages ----

  std::size_t length() const {
    switch (stage_) {
      case Stage::agree: return first_length();
      case Stage::select: {
        std::size_t all = 0;
        for (const ShardedRun<E>& run : batch_) all += run.shared->length();
        return all;
      }
      case Stage::first_nonfinite: return limbs * map_.parts(culprit_).size();
      case Stage::prove:
        return limbs * (fixed_proofs + (in_.threshold_only ? 0 : map_.tensors()) +
                        (options_.scope.in_groups() ? map_.tensors() : 0));
      case Stage::replicas: return limbs * 2 * map_.tensors();
      default: return limbs * map_.tensors();
    }
  }

  void put(std::span<std::int32_t> to) {
    LimbWriter out(to);
    switch (stage_) {
      case Stage::agree: return put_agreement_and_sample(to);
      case Stage::live: return put_per_tensor(local_live(), out);
      case Stage::select:
        for (ShardedRun<E>& run : batch_) {
          const std::size_t size = run.shared->length();
          run.part->put(engine_, *run.shared, to.first(size), share_of(run), batch_.size() > 1, workspace_);
          to = to.subspan(size);
        }
        return;
      case Stage::caps: return put_pruned(out);
      case Stage::nonfinite: return put_per_tensor(local_nonfinite(), out);
      case Stage::first_nonfinite: return put_first_nonfinite(to);
      case Stage::prove: return put_proof(out);
      case Stage::replicas:
        for (std::size_t t = 0; t < map_.tensors(); ++t) {
          out.put(own_prints_[t]);
          out.put(other_prints_[t]);
        }
        return;
      default: return;
    }
  }

  void take() {
    const std::span<const std::int32_t> sums(buffer_.data() + 1, sent_ - 1);
    if (buffer_[0] > 0) {
      if (error_) std::rethrow_exception(error_);
      throw RankFailed("ranks: " + std::to_string(buffer_[0]) + " of " + std::to_string(map_.ranks()) +
                       " failed in round " + std::to_string(rounds_) +
                       "; nothing was pruned. Their own errors say why");
    }
    LimbReader in(sums);
    switch (stage_) {
      case Stage::agree: return take_agreement_and_sample(sums);
      case Stage::live:
        dead_.resize(map_.tensors());
        for (std::size_t t = 0; t < dead_.size(); ++t) dead_[t] = map_.numel(t) - in.count();
        return begin_by_tensor();
      case Stage::select: return take_selections(sums);
      case Stage::caps: return take_caps(in);
      case Stage::nonfinite: return name_culprit(take_per_tensor(in), options_.scope.kind != Scope::global);
      case Stage::first_nonfinite: return raise_nonfinite_over_ranks(in);
      case Stage::prove: return take_proof(in);
      case Stage::replicas: return raise_replicas(in);
      default: return;
    }
  }

  // ---- agree ----

  void put_agreement_and_sample(std::span<std::int32_t> to) {
    std::int64_t live = 0, negative = 0;
    for (const std::int64_t n : local_live()) live += n;
    for (const ScoreInputs& tensor : competing_) negative += !(tensor.modifier >= 0.0f);
    LimbWriter out(to);
    out.put(std::int64_t{1});
    out.put(live);
    out.put(negative);
    put_agreement(agreement_, out);
    if (!samples()) return;
    to = to.subspan(first_length() - first_bins - SampleSpread::length);
    double held = 0, k = static_cast<double>(report_.k) / static_cast<double>(std::max<std::int64_t>(report_.total, 1));
    for (std::size_t i = 0; i < parts_.size(); ++i)
      if (counts(i)) held += static_cast<double>(parts_[i]->numel);
    const double dead = held - static_cast<double>(live);
    const double share = live > 0 ? std::clamp((k * held - dead) / static_cast<double>(live), 0.0, 1.0) : 0.0;
    batch_[0].part->look(engine_, first_narrowing(), map_.total(), share, to, workspace_);
  }

  // By the scorer alone: modifiers may differ between ranks.
  Narrowing first_narrowing() const { return widest(info_of(scorer_).non_negative, first_bins); }
  bool samples() const {
    return options_.scope.kind == Scope::global && report_.k > 0 && !std::get<Exact>(options_.selector).guess &&
           map_.total() > Chunk::size / 2;
  }

  void take_agreement_and_sample(std::span<const std::int32_t> sums) {
    LimbReader in(sums);
    const std::uint64_t ranks = in.take();
    const std::int64_t live = in.count();
    non_negative_ = in.count() == 0 && info_of(scorer_).non_negative;
    if (!take_agreement(in, ranks) || ranks != static_cast<std::uint64_t>(map_.ranks()))
      throw RanksDisagree("ranks: they were not given the same step, options, tensors or shards (" +
                          std::to_string(ranks) + " took part, of " + std::to_string(map_.ranks()) +
                          "); nothing was pruned. Compare what each was given");
    report_.dead = report_.total - live;
    const std::span<const std::int32_t> sample = sums.subspan(first_length() - first_bins - SampleSpread::length);
    if (by_tensor()) {
      first_sample_.assign(sample.begin(), sample.end());
      stage_ = Stage::live;
      return;
    }
    begin_first(std::max<std::int64_t>(0, report_.k - report_.dead), sample);
  }

  // ---- selections side by side ----

  void begin_global() {
    batch_.resize(1);
    batch_[0].tensors.resize(map_.tensors());
    std::iota(batch_[0].tensors.begin(), batch_[0].tensors.end(), std::size_t{0});
    make_part(batch_[0], std::get<Exact>(options_.selector).capacity);
  }

  void begin_first(std::int64_t rank, std::span<const std::int32_t> sample) {
    stage_ = Stage::select;
    SharedPlan plan = plan_of(batch_[0], rank, report_.total - report_.dead, in_.bins, options_.ties);
    plan.guess = std::get<Exact>(options_.selector).guess;
    batch_[0].shared = samples() ? std::make_unique<SharedSelection>(plan, first_narrowing(), sample)
                                 : std::make_unique<SharedSelection>(plan);
    skip_if_selected();
  }

  void begin_by_tensor() {
    if (options_.scope.in_groups()) {
      share_out();
      stage_ = Stage::prove;
      return;
    }
    if (options_.scope.kind == Scope::global) {
      capped_.resize(map_.tensors());
      budget_ = report_.k;
      return begin_first(std::clamp<std::int64_t>(budget_ - report_.dead, 0, report_.total - report_.dead),
                         first_sample_);
    }
    share_out();
    report_.k = 0;
    const Exact& exact = std::get<Exact>(options_.selector);
    batch_.resize(map_.tensors());
    for (std::size_t t = 0; t < batch_.size(); ++t) {
      batch_[t].tensors = {t};
      make_part(batch_[t], exact.capacity);
      SharedPlan plan =
          plan_of(batch_[t], share_[t] - dead_[t], map_.numel(t) - dead_[t], bins_of(batch_.size()), options_.ties);
      plan.guess = exact.guess;
      batch_[t].shared = std::make_unique<SharedSelection>(plan);
      report_.k += share_[t];
    }
    stage_ = Stage::select;
    skip_if_selected();
  }

  std::size_t bins_of(std::size_t selections) const {
    return std::max(in_.bins / selections, std::min(in_.bins, ShardedInputs::fewest_bins));
  }

  SharedPlan plan_of(const ShardedRun<E>& run, std::int64_t rank, std::int64_t live, std::size_t bins,
                     std::optional<Ties> ties) const {
    SharedPlan plan{.rank = rank,
                    .live = live,
                    .non_negative = non_negative_,
                    .ties = ties.value_or(Ties::exact),
                    .nonfinite = options_.nonfinite,
                    .masks = !in_.threshold_only,
                    .bins = bins,
                    .units = map_.units(),
                    .runs = map_.runs()};
    for (const std::size_t t : run.tensors) plan.elements += map_.numel(t);
    if (run.tensors.size() == 1) {
      plan.first_unit = map_.first_unit(run.tensors[0]);
      plan.units = map_.units(run.tensors[0]);
    }
    return plan;
  }

  void make_part(ShardedRun<E>& run, std::optional<std::int64_t> capacity) {
    std::vector<bool> chosen(map_.tensors());
    for (const std::size_t t : run.tensors) chosen[t] = true;
    std::vector<ScoreInputs> tensors;
    std::vector<LocalPart> parts;
    std::vector<std::uint64_t*> masks;
    for (std::size_t i = 0; i < competing_.size(); ++i) {
      if (!chosen[whole(i)] || parts_[i] == nullptr) continue;
      run.local.push_back(i);
      tensors.push_back(competing_[i]);
      parts.push_back({parts_[i]->unit, counts(i), map_.boxed(whole(i)) ? map_.run_map(*parts_[i]) : RunMap{}});
      if (!in_.threshold_only) masks.push_back(in_.masks[i]);
    }
    const SelectContext context{options_.seed, options_.nonfinite, 0, options_.between_passes};
    run.part = std::make_unique<SelectionPart<E>>(std::move(tensors), std::move(parts), std::move(masks), scorer_,
                                                  context, capacity);
  }

  static double share_of(const ShardedRun<E>& run) {
    const SharedPlan& plan = run.shared->plan();
    return plan.live > 0 ? static_cast<double>(plan.rank) / static_cast<double>(plan.live) : 0.0;
  }

  void take_selections(std::span<const std::int32_t> sums) {
    bool nonfinite = false;
    for (ShardedRun<E>& run : batch_) {
      const std::size_t size = run.shared->length();
      const Step step = run.shared->step();
      run.shared->take(sums.first(size));
      run.part->took(step, *run.shared);
      sums = sums.subspan(size);
      nonfinite |= run.shared->step() == Step::nonfinite;
    }
    if (nonfinite)
      stage_ = Stage::nonfinite;
    else
      skip_if_selected();
  }

  void skip_if_selected() {
    if (!std::ranges::all_of(batch_, [](const ShardedRun<E>& run) { return run.shared->done(); })) return;
    stage_ = capped() ? Stage::caps : Stage::prove;
    if (!in_.threshold_only || moments()) return;
    finish_selections();
    stage_ = Stage::done;
  }

  // Of the batch: what the flow of one process adds to its report.
  void add_to_report(ShardedRun<E>& run, bool first_look) {
    Selection selection = run.shared->selection();
    selection.passes = run.part->passes();
    selection.extra_bytes = run.part->extra_bytes();
    if (!first_look) selection.nan = 0;
    add(report_, selection);
  }

  void finish_selections() {
    if (options_.scope.in_groups()) {
      report_.path = "groups";
      report_.passes = 1;
      return;
    }
    if (capped()) return;
    for (ShardedRun<E>& run : batch_) {
      add_to_report(run, true);
      const Selection& selection = run.shared->selection();
      if (options_.scope.kind == Scope::global) report_.value = selection.value;
      if (in_.threshold_only)
        report_.pruned = report_.dead + selection.below + ties_wanted(run.shared->plan().ties, selection);
      else
        for (const std::size_t t : run.tensors) report_.tensor_threshold[t] = selection.value;
    }
    if (options_.scope.kind == Scope::tensor)
      report_.passes /= static_cast<double>(std::max<std::size_t>(map_.tensors(), 1));
  }

  // ---- tensors over their cap ----

  void put_pruned(LimbWriter& out) {
    std::vector<std::int64_t> pruned(map_.tensors());
    for (ShardedRun<E>& run : batch_) {
      run.part->complete(engine_, *run.shared, workspace_);
      for (const auto& [t, live] : live_under_new(run.local)) pruned[t] += live;
    }
    put_per_tensor(pruned, out);
  }

  void take_caps(LimbReader& in) {
    const std::vector<std::int64_t> live = take_per_tensor(in);
    ShardedRun<E>& free = batch_.back();
    report_.count_below = report_.count_equal = 0;
    const std::int64_t nan = looked_ ? report_.nonfinite : free.shared->selection().nan;
    for (ShardedRun<E>& run : batch_)
      if (&run != &free) report_.passes += run.part->passes();
    add_to_report(free, true);
    report_.nonfinite = nan;
    report_.value = free.shared->selection().value;
    looked_ = true;
    std::fill(report_.tensor_threshold.begin(), report_.tensor_threshold.end(), std::nullopt);
    std::vector<ShardedRun<E>> next;
    std::vector<std::int64_t> ranks;
    for (const std::size_t t : free.tensors) {
      report_.tensor_threshold[t] = report_.value;
      const auto most = std::max(dead_[t], static_cast<std::int64_t>(std::floor(*options_.max_tensor_sparsity *
                                                                                static_cast<double>(map_.numel(t)))));
      if (map_.numel(t) - live[t] <= most) continue;
      capped_[t] = true;
      budget_ -= most;
      next.emplace_back().tensors = {t};
      ranks.push_back(most - dead_[t]);
    }
    if (next.empty()) {
      stage_ = Stage::prove;
      return;
    }
    ShardedRun<E>& rest = next.emplace_back();
    std::int64_t dead = 0, size = 0;
    for (std::size_t t = 0; t < map_.tensors(); ++t) {
      if (capped_[t]) continue;
      rest.tensors.push_back(t);
      dead += dead_[t];
      size += map_.numel(t);
    }
    ranks.push_back(std::clamp<std::int64_t>(budget_ - dead, 0, size - dead));
    batch_ = std::move(next);
    const Exact& exact = std::get<Exact>(options_.selector);
    for (std::size_t r = 0; r < batch_.size(); ++r) {
      ShardedRun<E>& run = batch_[r];
      const bool last = r + 1 == batch_.size();
      make_part(run, last ? exact.capacity : std::nullopt);
      std::int64_t alive = last ? size - dead : map_.numel(run.tensors[0]) - dead_[run.tensors[0]];
      SharedPlan plan = plan_of(run, ranks[r], alive, bins_of(batch_.size()), last ? options_.ties : Ties::exact);
      if (last) plan.guess = exact.guess;
      run.shared = std::make_unique<SharedSelection>(plan);
    }
    stage_ = Stage::select;
    skip_if_selected();
  }

  // ---- rows and groups ----

  void share_out() {
    const Distribution distribution = options_.distribution.value_or(Distribution::uniform);
    share_ = allocate(whole_, dead_, distribution, report_.k, report_.total, asked_.sparsity, asked_.most);
    if (!options_.scope.in_groups()) return;
    report_.k = 0;
    const bool uniform = distribution == Distribution::uniform;
    for (std::size_t t = 0; t < whole_.size(); ++t)
      report_.k += pruned_by(whole_[t].geometry, rule_of(t, uniform, share_[t]));
  }

  GroupRule rule_of(std::size_t t, bool uniform, std::int64_t share) const {
    const double s = report_.total > 0
                         ? asked_.sparsity.value_or(static_cast<double>(asked_.k) / static_cast<double>(report_.total))
                         : 0;
    return group_rule(whole_[t], options_.scope, options_.rounding, options_.remainder, uniform, s, share);
  }

  void prune_groups() {
    const bool uniform = options_.distribution.value_or(Distribution::uniform) == Distribution::uniform;
    nonfinite_.assign(map_.tensors(), 0);
    for (std::size_t i = 0; i < competing_.size(); ++i) {
      if (parts_[i] == nullptr) continue;
      const std::size_t t = whole(i);
      GroupRule rule = rule_of(t, uniform, share_[t]);
      if (rule.extra > 0) rule.extra = map_.rows_among_first(*parts_[i], competing_[i].geometry, rule.extra);
      const std::int64_t nan = engine_.group_mask(view_, i, rule, in_.masks);
      if (counts(i)) nonfinite_[t] += nan;
      if (options_.between_passes) options_.between_passes();
    }
  }

  // ---- NaN ----

  std::vector<std::int64_t> local_nonfinite() const {
    std::vector<std::int64_t> found(map_.tensors());
    for (const ShardedRun<E>& run : batch_)
      for (std::size_t j = 0; j < run.local.size(); ++j) found[whole(run.local[j])] += run.part->nonfinite_in(j);
    return found;
  }

  void name_culprit(const std::vector<std::int64_t>& found, bool its_own) {
    while (found[culprit_] == 0) ++culprit_;
    nonfinite_count_ = its_own ? found[culprit_] : std::accumulate(found.begin(), found.end(), std::int64_t{0});
    stage_ = Stage::first_nonfinite;
  }

  void put_first_nonfinite(std::span<std::int32_t> to) {
    for (std::size_t i = 0; i < competing_.size(); ++i) {
      if (whole(i) != culprit_ || !counts(i)) continue;
      const auto slot = static_cast<std::size_t>(parts_[i] - map_.parts(culprit_).data());
      LimbWriter(to.subspan(limbs * slot, limbs)).put(1 + first_nonfinite(i));
    }
  }

  // Flat index in the whole tensor; -1: there is none. Slow, and only on the way to an error.
  std::int64_t first_nonfinite(std::size_t i) const {
    return std::visit(
        [&](const auto& scorer) -> std::int64_t {
          const ScoreInputs& tensor = competing_[i];
          for (std::int64_t local = 0; local < tensor.numel; ++local)
            if (const std::int64_t at = tensor.order.memory_of(local);
                is_live(tensor, at) && std::isnan(score_element(scorer, view_, i, at)))
              return map_.global_index(*parts_[i], local);
          return -1;
        },
        scorer_);
  }

  [[noreturn]] void raise_nonfinite_over_ranks(LimbReader& in) const {
    std::int64_t first = 0;
    for (std::size_t p = 0; p < map_.parts(culprit_).size(); ++p)
      if (const std::int64_t at = in.count(); at > 0 && (first == 0 || at < first)) first = at;
    if (first == 0) throw Error("scores changed while they were read: a NaN was counted and is gone");
    throw NonFiniteScoreError(in_.names[culprit_], nonfinite_count_, first - 1);
  }

  // ---- prove, then report ----

  void put_proof(LimbWriter& out) {
    if (options_.scope.in_groups()) prune_groups();
    if (!capped() && !in_.threshold_only)
      for (ShardedRun<E>& run : batch_) run.part->complete(engine_, *run.shared, workspace_);
    own_prints_.assign(map_.tensors(), 0);
    other_prints_.assign(map_.tensors(), 0);
    std::uint64_t own = 0, others = 0;
    std::vector<ScoreInputs> counted;
    std::vector<const std::uint64_t*> fresh;
    std::vector<std::size_t> of;
    std::int64_t churn = 0, split_rows = 0;
    std::vector<const ShardMap::Part*> mine(parts_.size());
    for (std::size_t i = 0; i < parts_.size(); ++i) {
      if (parts_[i] == nullptr) continue;
      const ShardMap::Part& part = *parts_[i];
      if (counts(i)) mine[i] = &part;
      if (in_.threshold_only) continue;
      if (part.copies > 1) {
        const auto position = static_cast<std::size_t>(&part - map_.parts().data());
        const std::uint64_t print = fingerprint(competing_[i], in_.masks[i], position);
        const std::uint64_t own_print = counts(i) ? print * static_cast<std::uint64_t>(part.copies - 1) : 0;
        const std::uint64_t other_print = counts(i) ? 0 : print;
        own_prints_[whole(i)] += own_print;
        other_prints_[whole(i)] += other_print;
        own += own_print;
        others += other_print;
      }
      if (!counts(i)) continue;
      counted.push_back(in_.tensors[i]);
      fresh.push_back(in_.masks[i]);
      of.push_back(whole(i));
      if (options_.regrow) churn += differing(in_.tensors[i], in_.masks[i]);
      split_rows += !map_.whole_rows(part) || in_.tensors[i].geometry.row_size() != map_.geometry(whole(i)).row_size();
    }
    std::vector<std::int64_t> live(counted.size()), pruned(map_.tensors());
    const std::int64_t empty = engine_.survey(counted, make_chunks(counted), fresh, live);
    for (std::size_t j = 0; j < live.size(); ++j) pruned[of[j]] += counted[j].numel - live[j];
    const SecondMoments second = count_second_moments(engine_, view_, mine, map_, workspace_);
    for (const std::int64_t n : {second.live, second.under, second.zero, churn, empty, split_rows}) out.put(n);
    out.put(own);
    out.put(others);
    if (!in_.threshold_only) put_per_tensor(pruned, out);
    if (options_.scope.in_groups()) put_per_tensor(nonfinite_, out);
  }

  void take_proof(LimbReader& in) {
    SecondMoments second;
    std::int64_t churn = 0, empty = 0, split_rows = 0;
    for (std::int64_t* const n : {&second.live, &second.under, &second.zero, &churn, &empty, &split_rows})
      *n = in.count();
    const std::uint64_t own = in.take(), others = in.take();
    if (!in_.threshold_only) report_.tensor_pruned = take_per_tensor(in);
    if (options_.scope.in_groups()) {
      const std::vector<std::int64_t> nonfinite = take_per_tensor(in);
      report_.nonfinite = std::accumulate(nonfinite.begin(), nonfinite.end(), std::int64_t{0});
      if (report_.nonfinite > 0 && options_.nonfinite == NonFinite::error) return name_culprit(nonfinite, true);
    }
    if (own != others) {
      stage_ = Stage::replicas;
      return;
    }
    finish_selections();
    for (const std::int64_t n : report_.tensor_pruned) report_.pruned += n;
    if (!in_.threshold_only) {
      report_.churn = options_.regrow ? churn : report_.pruned - report_.dead;
      report_.empty_rows = split_rows == 0 ? empty : -1;
    }
    if (moments() && second.live > 0) {
      report_.v_below_eps = static_cast<double>(second.under) / static_cast<double>(second.live);
      report_.v_zero = static_cast<double>(second.zero) / static_cast<double>(second.live);
    }
    stage_ = Stage::done;
  }

  [[noreturn]] void raise_replicas(LimbReader& in) const {
    std::string names;
    for (std::size_t t = 0; t < map_.tensors(); ++t) {
      const std::uint64_t own = in.take(), others = in.take();
      if (own != others) names += (names.empty() ? "'" : ", '") + in_.names[t] + "'";
    }
    throw ReplicasDiffer("ranks: copies of " + names +
                         " would get different masks, because they, or their optimizer state, differ; nothing was "
                         "pruned. Bring the copies together (broadcast them from one rank), or, if they are different "
                         "tensors, give them different names");
  }

  // ---- numbers by tensor ----

  std::vector<std::int64_t> local_live() {
    std::vector<ScoreInputs> counted;
    std::vector<std::size_t> of;
    for (std::size_t i = 0; i < competing_.size(); ++i)
      if (counts(i)) {
        counted.push_back(competing_[i]);
        of.push_back(whole(i));
      }
    std::vector<std::int64_t> live(counted.size()), found(map_.tensors());
    live_elements(engine_, counted, live);
    for (std::size_t j = 0; j < live.size(); ++j) found[of[j]] += live[j];
    return found;
  }

  std::vector<std::pair<std::size_t, std::int64_t>> live_under_new(std::span<const std::size_t> local) {
    std::vector<ScoreInputs> counted;
    std::vector<const std::uint64_t*> fresh;
    std::vector<std::pair<std::size_t, std::int64_t>> found;
    for (const std::size_t i : local)
      if (counts(i)) {
        counted.push_back(competing_[i]);
        fresh.push_back(in_.masks[i]);
        found.emplace_back(whole(i), 0);
      }
    std::vector<std::int64_t> live(counted.size());
    engine_.popcount(counted, fresh, live);
    for (std::size_t j = 0; j < live.size(); ++j) found[j].second = live[j];
    return found;
  }

  static void put_per_tensor(const std::vector<std::int64_t>& numbers, LimbWriter& out) {
    for (const std::int64_t n : numbers) out.put(n);
  }
  std::vector<std::int64_t> take_per_tensor(LimbReader& in) const {
    std::vector<std::int64_t> numbers(map_.tensors());
    for (std::int64_t& n : numbers) n = in.count();
    return numbers;
  }

  E& engine_;
  ShardedInputs in_;
  const ShardMap& map_;
  Scorer scorer_;
  PruneOptions options_;
  Workspace& workspace_;
  Asked asked_{};
  std::string agreement_;
  std::vector<ScoreInputs> competing_, whole_;
  std::vector<const ShardMap::Part*> parts_;
  ScoreView view_{};
  bool non_negative_ = true;
  PruneReport report_{};

  Stage stage_ = Stage::agree;
  std::vector<std::int32_t> buffer_;  // never moves: callers may hold on to it
  std::size_t sent_ = 0;
  std::int64_t rounds_ = 0, bytes_ = 0;
  std::exception_ptr error_{};

  std::vector<std::int32_t> first_sample_;
  std::vector<ShardedRun<E>> batch_;
  std::vector<std::int64_t> dead_, share_, nonfinite_;
  std::vector<bool> capped_;
  std::int64_t budget_ = 0;
  bool looked_ = false;
  std::size_t culprit_ = 0;
  std::int64_t nonfinite_count_ = 0;
  std::vector<std::uint64_t> own_prints_, other_prints_;
};

}  // namespace bittersweet::flow
