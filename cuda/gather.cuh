// gather: scores of runs of neighbours in memory at given places, or of single elements. NaN where none competes.
#pragma once

#include "verbs.cuh"

namespace bittersweet::cuda {

template <class S>
struct Gather {
  static constexpr u32 threads = 256, blocks = 4;
  struct Args {
    const Row* rows;
    u32 row_count, width;
    u64 count;                   // of scores
    const std::int64_t* places;  // where each run begins: its tensor's offset and an index in memory
    float* scores;
    S scorer;
  };
  struct Shared {};

  static BITTERSWEET_DEVICE void body(const Args& args, Shared&) {
    for (u64 i = first_thread(); i < args.count; i += all_threads()) {
      const std::int64_t place = args.places[i / args.width];
      const Row& row = args.rows[row_of(args.row_count, [&](u32 r) { return args.rows[r].offset <= place; })];
      const std::int64_t index = place - row.offset + static_cast<std::int64_t>(i % args.width);
      const bool there = index < row.numel && is_live(row, index);
      args.scores[i] = there ? score_any(args.scorer, row, index) : score_of(key_of_nan);
    }
  }
};

template <class L>
void gather(L& launcher, const Scorer& scorer, const Work& work, u32 row_count, u32 width, u64 count,
            const std::int64_t* places, float* scores) {
  if (count == 0) return;
  std::visit(
      [&](const auto& s) {
        using K = Gather<std::decay_t<decltype(s)>>;
        launcher.template launch<K>(grid_for<K>((count + 255) / 256, launcher.processors()),
                                    {work.rows, row_count, width, count, places, scores, s});
      },
      scorer);
}

}  // namespace bittersweet::cuda
