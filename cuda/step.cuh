// The pipeline: which kernels a step enqueues, in which order. The same text runs on a stream and on the emulator.
#pragma once

#include "apply_mask.cuh"
#include "plan.hpp"
#include "popcount.cuh"
#include "second_moments.cuh"

namespace bittersweet::cuda {

// The tables travel as kernel arguments, 32 KB at a time: a copy from the host would read its memory again whenever a
// captured graph is replayed.
struct Upload {
  static constexpr u32 threads = 256, blocks = 1;
  static constexpr u32 most_words = 8000;
  struct Args {
    u32* to;
    u32 count;
    u32 words[most_words];
  };
  struct Shared {};
  static BITTERSWEET_DEVICE void body(const Args& args, Shared&) {
    for (u64 i = first_thread(); i < args.count; i += all_threads()) args.to[i] = args.words[i];
  }
};

template <class L>
void upload(L& launcher, const void* to, const void* from, std::size_t bytes) {
  for (std::size_t done = 0; done < bytes; done += Upload::most_words * 4) {
    Upload::Args args{};
    const std::size_t now = std::min<std::size_t>(bytes - done, Upload::most_words * 4);
    args.to = reinterpret_cast<u32*>(static_cast<std::byte*>(const_cast<void*>(to)) + done);
    args.count = static_cast<u32>(now / 4);
    std::memcpy(args.words, static_cast<const std::byte*>(from) + done, now);
    launcher.template launch<Upload>(1, args);
  }
}

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
      for (u64 i = first_thread(); i < sizeof(StepReport) / 8; i += all_threads()) report[i] = 0;
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
  if (plan.masked) count_competing(launcher, c, plan.work.all);
}

template <class L>
void enqueue(L& launcher, const Scorer& scorer, const StepPlan& plan) {
  const Context& c = plan.context;
  begin(launcher, plan);
  second_moments(launcher, scorer, c);

  sample(launcher, scorer, c);
  guess(launcher, c);
  bracket(launcher, scorer, c, plan.work, 0);
  for (u32 level = 0; level < range_levels; ++level) histogram(launcher, scorer, c, plan.work.all, level);
  plan_retry(launcher, c);
  bracket(launcher, scorer, c, plan.work, 1);
  select_candidates(launcher, c);
  if (c.masks) {
    write_mask(launcher, scorer, c, plan.work.all);
    apply_mask(launcher, plan.zeros, &c.report->status);
    compare_masks(launcher, c, plan.work.all);
  }
}

}  // namespace bittersweet::cuda
