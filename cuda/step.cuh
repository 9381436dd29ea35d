// How every step begins: its tables, its counters, and how many elements compete.
#pragma once

#include "apply_mask.cuh"
#include "bounds.cuh"
#include "second_moments.cuh"

namespace bittersweet::cuda {

// Everything that a step counts in starts from 0.
struct Begin {
  static constexpr u32 threads = 256, blocks = 1;
  struct Args {
    Context context;
    u64 live;
  };
  struct Shared {};
  static BITTERSWEET_DEVICE void body(const Args& args, Shared&) {
    const Context& c = args.context;
    auto* const state = reinterpret_cast<u64*>(c.state);
    for (u64 i = first_thread(); i < sizeof(device::State) / 8; i += all_threads()) state[i] = i == 0 ? args.live : 0;
    if (auto* const report = reinterpret_cast<u64*>(c.report); report != nullptr)
      for (u64 i = first_thread(); i < sizeof(StepReport) / 8; i += all_threads())
        report[i] = i == offsetof(StepReport, standard_error) / 8 ? std::bit_cast<u64>(no_number)
                                                                  : u64{i == offsetof(StepReport, converged) / 8};
    if (c.tensor_pruned != nullptr)
      for (u64 i = first_thread(); i < c.row_count; i += all_threads()) c.tensor_pruned[i] = 0;
  }
};
static_assert(sizeof(device::State) % 8 == 0 && offsetof(device::State, live) == 0 && sizeof(StepReport) % 8 == 0);

template <class L>
void begin(L& launcher, const StepPlan& plan) {
  const Context& c = plan.context;
  upload(launcher, c.rows, plan.rows.data(), plan.rows.size() * sizeof(Row));
  upload(launcher, plan.work.all.pieces, plan.pieces.data(), plan.pieces.size() * sizeof(Piece));
  launcher.template launch<Begin>(grid_for<Begin>(64, launcher.processors()), {c, plan.live});
  if (plan.masked && plan.ways.together()) count_competing(launcher, c, plan.work.all);
}

}  // namespace bittersweet::cuda
