// Scorers with a memory, from their pass to whole verbs: what adds up blocks and updates the scalars.
#pragma once

#include "track_pass.cuh"

namespace bittersweet::cuda {

// The verb's kernel over all rows; sums of the blocks lie as the plan's settled rows say.
template <class Verb, class L>
void track_pass(L& launcher, const TrackPlan& plan) {
  using K = TrackPass<Verb>;
  static_assert(sizeof(typename K::Args) <= 32764);
  const std::span<const TrackRow> rows(plan.rows);
  TrackSums* sums = plan.sums;
  for (std::size_t first = 0; first < rows.size(); first += K::most_rows) {
    typename K::Args args{sums, static_cast<float>(plan.decay), 0, 0, {}};
    for (TrackRow row : rows.subspan(first, std::min<std::size_t>(K::most_rows, rows.size() - first))) {
      row.first = args.units;
      args.units += static_cast<u32>((row.numel + track_block - 1) / track_block);
      args.rows[args.count++] = row;
    }
    launcher.template launch<K>(grid_for<K>((u64{args.units} + 15) / 16, launcher.processors()), args);
    if (Verb::sums) sums += args.units;
  }
}

// One tensor a block of threads: blocks of a chunk in order, then the chunks.
struct SettleSums {
  static constexpr u32 threads = 256, blocks = 3, most_rows = 1300;
  static constexpr u32 each = Chunk::size / track_block;
  struct Args {
    const TrackSums* sums;
    double decay;
    SettleRow rows[most_rows];
  };
  struct Shared {
    TrackSums chunk[threads];
  };
  static BITTERSWEET_DEVICE void body(const Args& args, Shared& shared) {
    const SettleRow& row = args.rows[blockIdx.x];
    const bool known = row.scalars == nullptr || args.decay == 0.0 || row.scalars->updates > 0;
    __syncthreads();  // before anyone counts this update
    TrackSums total{};
    for (u32 begin = 0; known && begin < row.count; begin += threads * each) {
      const u32 first = begin + threadIdx.x * each;
      TrackSums of_chunk{};
      for (u32 b = first; b < row.count && b < first + each; ++b) of_chunk += args.sums[row.first + b];
      shared.chunk[threadIdx.x] = of_chunk;
      __syncthreads();
      const u32 chunks = (row.count - begin + each - 1) / each;
      for (u32 c = 0; threadIdx.x == 0 && c < threads && c < chunks; ++c) total += shared.chunk[c];
      __syncthreads();
    }
    if (threadIdx.x != 0) return;
    if (row.scalars == nullptr)
      *row.found = cosine(total.xy, total.xx, total.yy).value_or(0.0);
    else
      observe(*row.scalars, total, args.decay);
  }
};

template <class L>
void settle_sums(L& launcher, const TrackPlan& plan) {
  using K = SettleSums;
  static_assert(sizeof(K::Args) <= 32764);
  for (std::size_t first = 0; first < plan.settled.size(); first += K::most_rows) {
    K::Args args{plan.sums, plan.decay, {}};
    const std::size_t count = std::min<std::size_t>(K::most_rows, plan.settled.size() - first);
    std::copy_n(plan.settled.begin() + static_cast<std::ptrdiff_t>(first), count, args.rows);
    launcher.template launch<K>(static_cast<u32>(count), args);
  }
}

struct CountUpdates {
  static constexpr u32 threads = 128, blocks = 1, most_counts = 4000;
  struct Args {
    u32 count;
    std::int64_t* counts[most_counts];
  };
  struct Shared {};
  static BITTERSWEET_DEVICE void body(const Args& args, Shared&) {
    for (u64 t = first_thread(); t < args.count; t += all_threads()) ++*args.counts[t];
  }
};

template <class L>
void count_updates(L& launcher, const TrackPlan& plan) {
  using K = CountUpdates;
  for (std::size_t first = 0; first < plan.counts.size(); first += K::most_counts) {
    K::Args args{static_cast<u32>(std::min<std::size_t>(K::most_counts, plan.counts.size() - first)), {}};
    std::copy_n(plan.counts.begin() + static_cast<std::ptrdiff_t>(first), args.count, args.counts);
    launcher.template launch<K>((args.count + K::threads - 1) / K::threads, args);
  }
}

// sketch_tensor() and observe(): slot i by lane i mod 16 of half a warp.
struct SketchTensors {
  static constexpr u32 threads = 128, blocks = 4, most_rows = 500;
  struct Args {
    double decay;
    u32 count;
    SketchRow rows[most_rows];
  };
  struct Shared {};

  static BITTERSWEET_DEVICE void body(const Args& args, Shared&) {
    for (u64 pair = first_warp(); 2 * pair < args.count; pair += warps()) {
      const u64 t = 2 * pair + half_id();
      const SketchRow& row = args.rows[t < args.count ? t : 0];
      const u32 count = t < args.count ? row.count : 0;
      const bool known = row.scalars->updates > 0;  // read before the lanes meet
      LaneSums mine;
#pragma unroll
      for (u32 i = half_lane(); i < SketchMemory::most; i += half_warp) {
        if (i >= count) continue;
        const std::int64_t at = row.positions[i];
        const bool live = row.mask == nullptr || (words32(row.mask)[at / 32] >> (at % 32) & 1u) != 0;
        const float now = live ? load_as_float(row.exp_avg, row.exp_avg_type, at) : 0.0f;
        const float root = live ? sqrt(load_as_float(row.exp_avg_sq, row.exp_avg_sq_type, at)) : 0.0f;
        const float past = row.previous[i];
        row.previous[i] = now;
        if (!live || !known) continue;
        mine.add(static_cast<double>(now), static_cast<double>(past));
        mine.add_jitter(static_cast<double>(root));
      }
      const LaneSums found = fold_half(mine);
      TrackSums total{};
      total += found;
      if (t < args.count && half_lane() == 0) observe(*row.scalars, total, args.decay);
    }
  }
};

template <class L>
void track_sketch(L& launcher, const TrackPlan& plan) {
  using K = SketchTensors;
  static_assert(sizeof(K::Args) <= 32764);
  for (std::size_t first = 0; first < plan.sketches.size(); first += K::most_rows) {
    K::Args args{plan.decay, static_cast<u32>(std::min<std::size_t>(K::most_rows, plan.sketches.size() - first)), {}};
    std::copy_n(plan.sketches.begin() + static_cast<std::ptrdiff_t>(first), args.count, args.rows);
    launcher.template launch<K>(grid_for<K>((args.count + 7) / 8, launcher.processors()), args);
  }
}

// ---- whole verbs ----

template <class L>
void track_coherence(L& launcher, const TrackPlan& plan) {
  track_pass<Coherences>(launcher, plan);
  settle_sums(launcher, plan);
}
template <class L>
void measure_retention(L& launcher, const TrackPlan& plan) {
  track_pass<Retentions>(launcher, plan);
  settle_sums(launcher, plan);
}
template <class L>
void compare_snapshot(L& launcher, const TrackPlan& plan) {
  track_pass<Snapshots>(launcher, plan);
  settle_sums(launcher, plan);
}
template <class L>
void accumulate_movement(L& launcher, const TrackPlan& plan) {
  track_pass<Movements>(launcher, plan);
  count_updates(launcher, plan);
}

}  // namespace bittersweet::cuda
