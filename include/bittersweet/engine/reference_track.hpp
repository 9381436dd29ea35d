// The reference engine of the tracking verbs: the plainest loop that is right for each, and the oracle of the tests.
#pragma once

#include <cmath>

#include "bittersweet/engine/track.hpp"

namespace bittersweet {

class ReferenceTracker {
 public:
  void track_coherence(std::span<const ScoreInputs> tensors, std::span<const Chunk> chunks,
                       std::span<const CoherenceMemory> memory, float decay, std::span<TrackSums> sums) {
    sum_blocks(chunks, sums, [&](std::size_t t, std::int64_t i, TrackSums& lane) {
      const ScoreInputs& tensor = tensors[t];
      const CoherenceMemory& state = memory[t];
      const float w = value(tensor.weight, i);
      const bool live = is_live(tensor, i);
      float average = 0.0f;
      if (state.scalars->updates > 0 && live) {
        const float x = w - value(state.previous, i), y = value(state.average, i);
        lane.add(static_cast<double>(x), static_cast<double>(y));
        lane.add_jitter(std::fabs(static_cast<double>(x)));
        average = next_average(y, x, decay);
      }
      store(state.average, i, average, state.average_key());
      store(state.previous, i, live ? w : 0.0f, state.previous_key());
    });
  }

  void measure_retention(std::span<const ScoreInputs> tensors, std::span<const Chunk> chunks,
                         std::span<const CoherenceMemory> memory, std::span<TrackSums> sums) {
    sum_blocks(chunks, sums, [&](std::size_t t, std::int64_t i, TrackSums& lane) {
      const float w = value(memory[t].previous, i), m = value(tensors[t].exp_avg, i);
      lane.add(static_cast<double>(w), w != 0.0f ? static_cast<double>(-m) : 0.0);
    });
  }

  void compare_snapshot(std::span<const ScoreInputs> tensors, std::span<const Chunk> chunks,
                        std::span<const SnapshotMemory> snapshots, std::span<TrackSums> sums) {
    sum_blocks(chunks, sums, [&](std::size_t t, std::int64_t i, TrackSums& lane) {
      const ScoreInputs& tensor = tensors[t];
      if (!is_live(tensor, i)) return;
      const float w = value(tensor.weight, i), m = value(tensor.exp_avg, i);
      lane.add(static_cast<double>(w - value(snapshots[t].snapshot, i)), static_cast<double>(-m));
      lane.add_jitter(static_cast<double>(std::sqrt(value(tensor.exp_avg_sq, i))));
    });
  }

  void accumulate_movement(std::span<const ScoreInputs> tensors, std::span<const Chunk>,
                           std::span<const MovementMemory> movements) {
    for (std::size_t t = 0; t < tensors.size(); ++t)
      for (std::int64_t i = 0; i < tensors[t].numel; ++i) {
        const float w = value(tensors[t].weight, i), g = value(tensors[t].grad, i);
        const MovementMemory& state = movements[t];
        store(state.sums, i, next_movement(value(state.sums, i), g, w, state.rate), state.key());
      }
  }

 private:
  static float value(const TensorView& array, std::int64_t i) { return load_as_float(array.data, array.dtype, i); }
  static void store(const TensorView& array, std::int64_t i, float x, const RoundingKey& key) {
    store_stochastic(array.data, array.dtype, i, x, key);
  }

  template <class F>
  static void sum_blocks(std::span<const Chunk> chunks, std::span<TrackSums> sums, F&& f) {
    std::fill(sums.begin(), sums.end(), TrackSums{});
    for (const Chunk& chunk : chunks) {
      TrackSums of_chunk;
      for (std::int64_t first = 0; first < chunk.count; first += Moments::block) {
        TrackLanes lanes{};
        for (std::int64_t i = first; i < std::min<std::int64_t>(first + Moments::block, chunk.count); ++i)
          f(chunk.tensor, chunk.first + i, lanes[static_cast<std::size_t>(i % Moments::lanes)]);
        of_chunk += fold_lanes(lanes);
      }
      sums[chunk.tensor] += of_chunk;
    }
  }
};

static_assert(TrackingEngine<ReferenceTracker>);

}  // namespace bittersweet
