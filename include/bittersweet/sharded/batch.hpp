// The selections that ranks make side by side: one over the whole model, one a tensor, or, under bounds, one of each
// tensor beyond them and one of the others.
#pragma once

#include "bittersweet/sharded/model.hpp"
#include "bittersweet/sharded/part.hpp"

namespace bittersweet::flow {

// One of them: over the whole tensors `tensors`, of which this rank holds `local`.
template <RankEngine E>
struct ShardedRun {
  std::vector<std::size_t> tensors{}, local{};
  std::optional<std::int64_t> capacity{};
  std::unique_ptr<SharedSelection> shared{};
  std::unique_ptr<SelectionPart<E>> part{};

  // As the flow of one process would report it.
  Selection selection() const {
    Selection selection = shared->selection();
    selection.passes = part->passes();
    selection.extra_bytes = part->extra_bytes();
    return selection;
  }
};

template <RankEngine E>
class ShardedBatch {
 public:
  explicit ShardedBatch(ShardedModel<E>& model) : model_(model) {}

  std::vector<ShardedRun<E>>& runs() noexcept { return runs_; }
  const std::vector<ShardedRun<E>>& runs() const noexcept { return runs_; }
  bool done() const {
    return std::ranges::all_of(runs_, [](const ShardedRun<E>& run) { return run.shared->done(); });
  }

  // ---- rounds ----

  std::size_t length() const {
    std::size_t all = 0;
    for (const ShardedRun<E>& run : runs_) all += run.shared->length();
    return all;
  }

  void put(std::span<std::int32_t> to) {
    for (ShardedRun<E>& run : runs_) {
      const std::size_t size = run.shared->length();
      make_part(run);
      run.part->put(model_.engine, *run.shared, to.first(size), share_of(run), runs_.size() > 1, model_.workspace);
      to = to.subspan(size);
    }
  }

  // False: one met NaN, which is an error.
  bool take(std::span<const std::int32_t> sums) {
    bool finite = true;
    for (ShardedRun<E>& run : runs_) {
      const std::size_t size = run.shared->length();
      const SharedSelection::Step step = run.shared->step();
      run.shared->take(sums.first(size));
      run.part->took(step, *run.shared);
      sums = sums.subspan(size);
      finite &= run.shared->step() != SharedSelection::Step::nonfinite;
    }
    return finite;
  }

  void complete() {
    for (ShardedRun<E>& run : runs_) {
      make_part(run);
      run.part->complete(model_.engine, *run.shared, model_.workspace);
    }
  }

  // By whole tensor, of those that this rank counts.
  std::vector<std::int64_t> nonfinite() const {
    std::vector<std::int64_t> found(model_.map.tensors());
    for (const ShardedRun<E>& run : runs_)
      for (std::size_t j = 0; j < run.local.size(); ++j) found[model_.whole(run.local[j])] += run.part->nonfinite_in(j);
    return found;
  }

  // ---- what is selected ----

  // One selection over the whole model. Its rank comes later.
  void begin_global() {
    runs_.resize(1);
    runs_[0].tensors.resize(model_.map.tensors());
    std::iota(runs_[0].tensors.begin(), runs_[0].tensors.end(), std::size_t{0});
    runs_[0].capacity = model_.exact().capacity;
    make_part(runs_[0]);
  }

  // `sample`: the sums of a first look at it, if there was one.
  void select_globally(std::int64_t rank, std::int64_t live, const Narrowing& first,
                       std::span<const std::int32_t> sample) {
    SharedPlan plan = plan_of(runs_[0], rank, live, model_.in.bins, model_.options.ties);
    plan.guess = model_.exact().guess;
    runs_[0].shared = sample.empty() ? std::make_unique<SharedSelection>(plan)
                                     : std::make_unique<SharedSelection>(plan, first, sample);
  }

  // One selection a tensor, of which share[t] are to go, the dead ones included.
  void begin_by_tensor(std::span<const std::int64_t> share, std::span<const std::int64_t> dead) {
    runs_ = std::vector<ShardedRun<E>>(model_.map.tensors());
    for (std::size_t t = 0; t < runs_.size(); ++t) {
      runs_[t].tensors = {t};
      begin(runs_[t], share[t] - dead[t], model_.map.numel(t) - dead[t], false);
    }
  }

  // One selection for each of `fixed`, which prunes exactly counts[i], and one over `rest`, which prunes `budget`.
  void begin_bounded(std::span<const std::size_t> fixed, std::span<const std::int64_t> counts,
                     std::vector<std::size_t> rest, std::int64_t budget, std::span<const std::int64_t> dead) {
    runs_ = std::vector<ShardedRun<E>>(fixed.size() + 1);
    for (std::size_t r = 0; r < fixed.size(); ++r) {
      const std::size_t t = fixed[r];
      runs_[r].tensors = {t};
      begin(runs_[r], counts[r] - dead[t], model_.map.numel(t) - dead[t], true);
    }
    std::int64_t live = 0, lost = 0;
    for (const std::size_t t : rest) {
      live += model_.map.numel(t) - dead[t];
      lost += dead[t];
    }
    runs_.back().tensors = std::move(rest);
    begin(runs_.back(), std::clamp<std::int64_t>(budget - lost, 0, live), live, false);
  }

 private:
  // `at_bound`: a bound is a count, whatever the rule within it.
  void begin(ShardedRun<E>& run, std::int64_t rank, std::int64_t live, bool at_bound) {
    if (!at_bound) run.capacity = model_.exact().capacity;
    const std::size_t bins =
        std::max(model_.in.bins / runs_.size(), std::min(model_.in.bins, ShardedInputs::fewest_bins));
    SharedPlan plan = plan_of(run, rank, live, bins, at_bound ? Ties::exact : model_.options.ties);
    if (!at_bound) plan.guess = model_.exact().guess;
    run.shared = std::make_unique<SharedSelection>(plan);
  }

  SharedPlan plan_of(const ShardedRun<E>& run, std::int64_t rank, std::int64_t live, std::size_t bins,
                     std::optional<Ties> ties) const {
    SharedPlan plan{.rank = rank,
                    .live = live,
                    .non_negative = model_.non_negative,
                    .ties = ties.value_or(Ties::exact),
                    .nonfinite = model_.options.nonfinite,
                    .masks = !model_.in.threshold_only,
                    .bins = bins,
                    .units = model_.map.units(),
                    .runs = model_.map.runs()};
    for (const std::size_t t : run.tensors) plan.elements += model_.map.numel(t);
    if (run.tensors.size() == 1) {
      plan.first_unit = model_.map.first_unit(run.tensors[0]);
      plan.units = model_.map.units(run.tensors[0]);
    }
    return plan;
  }

  // What this rank has of it, if that was not made yet. Not while a sum is taken: a failure, for want of memory say,
  // can be told to the others only with the next vector.
  void make_part(ShardedRun<E>& run) {
    if (run.part) return;
    run.local.clear();
    std::vector<bool> chosen(model_.map.tensors());
    for (const std::size_t t : run.tensors) chosen[t] = true;
    std::vector<ScoreInputs> tensors;
    std::vector<LocalPart> parts;
    std::vector<std::uint64_t*> masks;
    for (std::size_t i = 0; i < model_.competing.size(); ++i) {
      if (!chosen[model_.whole(i)] || model_.parts[i] == nullptr) continue;
      if (model_.in.threshold_only && !model_.counts(i)) continue;  // nobody asks about it
      run.local.push_back(i);
      tensors.push_back(model_.competing[i]);
      parts.push_back({model_.parts[i]->unit, model_.counts(i),
                       model_.map.boxed(model_.whole(i)) ? model_.map.run_map(*model_.parts[i]) : RunMap{}});
      if (!model_.in.threshold_only) masks.push_back(model_.in.masks[i]);
    }
    const SelectContext context{model_.options.seed, model_.options.nonfinite, 0, model_.options.between_passes};
    run.part = std::make_unique<SelectionPart<E>>(std::move(tensors), std::move(parts), std::move(masks), model_.scorer,
                                                  context, run.capacity);
  }

  static double share_of(const ShardedRun<E>& run) {
    const SharedPlan& plan = run.shared->plan();
    return plan.live > 0 ? static_cast<double>(plan.rank) / static_cast<double>(plan.live) : 0.0;
  }

  ShardedModel<E>& model_;
  std::vector<ShardedRun<E>> runs_;
};

}  // namespace bittersweet::flow
