// A whole step: which kernels it enqueues, in which order, by any selector. The same text runs on a stream and on the
// emulator.
#pragma once

#include "capped.cuh"
#include "search_plan.hpp"
#include "step.cuh"

namespace bittersweet::cuda {

// Behind this, what is looked at are the scores that kthvalue wrote.
inline const StepPlan& looked_at(const StepPlan& plan) { return plan.stored.empty() ? plan : plan.stored.back(); }

inline Scorer scorer_of(const StepPlan& plan, const Scorer& scorer) {
  return plan.stored.empty() ? scorer : Scorer(Identity{});
}

// One selection over all tensors: from scores to masks and the report.
template <class L>
void select_all(L& launcher, const Scorer& scorer, const StepPlan& plan) {
  if (std::holds_alternative<Exact>(plan.selector)) return select_once(launcher, scorer, plan.context, plan.work);
  if (!plan.stored.empty()) {
    const StepPlan& stored = plan.stored.back();
    write_scores(launcher, scorer, std::span<const Row>(plan.written));
    upload(launcher, stored.context.rows, stored.rows.data(), stored.rows.size() * sizeof(Row));
    upload(launcher, stored.work.all.pieces, stored.pieces.data(), stored.pieces.size() * sizeof(Piece));
  }
  upload(launcher, plan.search.first_line, plan.first_line.data(), plan.first_line.size() * sizeof(u32));
  answer(launcher, scorer_of(plan, scorer), plan.search, answers_of(plan.selector), looked_at(plan).work, plan.blocks);
}

// Scope tensor by a selector beside exact: a step of each tensor, one after another in the same memory.
template <class L>
void select_each(L& launcher, const Scorer& scorer, const StepPlan& plan) {
  share_budget(launcher, plan);
  for (const StepPlan& one : plan.alone) {
    begin(launcher, one);
    select_all(launcher, scorer, one);
  }
  finish_units(launcher, plan);
}

template <class L>
void enqueue_selected(L& launcher, const Scorer& scorer, const StepPlan& plan) {
  const Context& c = plan.context;
  begin(launcher, plan);
  second_moments(launcher, scorer, c);
  if (plan.ways.units) {
    enqueue_units(launcher, scorer, plan);
  } else if (plan.ways.alone) {
    select_each(launcher, scorer, plan);
  } else {
    if (plan.ways.bounded) begin_bounds(launcher, plan);
    select_all(launcher, scorer, plan);
    if (plan.ways.rounds)
      enqueue_rounds(launcher, scorer_of(plan, scorer), looked_at(plan), plan.rounds);
    else if (plan.ways.bounded)
      enqueue_bounds(launcher, scorer_of(plan, scorer), looked_at(plan));
  }
  if (!c.masks) return;
  apply_mask(launcher, plan.zeros, &c.report->status);
  compare_masks(launcher, c, looked_at(plan).work.all);
}

}  // namespace bittersweet::cuda
