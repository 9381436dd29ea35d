// The reference engine of the tracking verbs: the plainest loop that is right for each, and the oracle of the tests.
#pragma once

#include <cmath>

#include "bittersweet/engine/track.hpp"

namespace bittersweet {

class ReferenceTracker {
 public:
  void track_coherence(std::span<const ScoreInputs> tensors, std::span<const Chunk> chunks,
                       std::span<const CoherenceMemory> memory, float decay, std::span<TrackSums> sums) {
    sum_blocks(chunks, sums, [&](std::size_t t, std::int64_t i, std::size_t lane, TrackLanes& lanes) {
      const ScoreInputs& tensor = tensors[t];
      const CoherenceMemory& state = memory[t];
      const float w = load_as_float(tensor.weight.data, tensor.weight.dtype, i);
      const bool live = is_live(tensor, i);
      float average = 0.0f;
      if (state.scalars->updates > 0 && live) {
        const float x = w - state.previous[i], y = state.average[i];
        lanes.add(lane, static_cast<double>(x), static_cast<double>(y));
        lanes.add_jitter(lane, std::fabs(static_cast<double>(x)));
        average = decay * y + (1.0f - decay) * x;
      }
      state.average[i] = std::isfinite(average) ? average : 0.0f;
      state.previous[i] = live ? w : 0.0f;
    });
  }

  void measure_retention(std::span<const ScoreInputs> tensors, std::span<const Chunk> chunks,
                         std::span<const CoherenceMemory> memory, std::span<TrackSums> sums) {
    sum_blocks(chunks, sums, [&](std::size_t t, std::int64_t i, std::size_t lane, TrackLanes& lanes) {
      const float w = memory[t].previous[i];
      const float m = load_as_float(tensors[t].exp_avg.data, tensors[t].exp_avg.dtype, i);
      lanes.add(lane, static_cast<double>(w), w != 0.0f ? static_cast<double>(-m) : 0.0);
    });
  }

  void compare_snapshot(std::span<const ScoreInputs> tensors, std::span<const Chunk> chunks,
                        std::span<const SnapshotMemory> snapshots, std::span<TrackSums> sums) {
    sum_blocks(chunks, sums, [&](std::size_t t, std::int64_t i, std::size_t lane, TrackLanes& lanes) {
      const ScoreInputs& tensor = tensors[t];
      if (!is_live(tensor, i)) return;
      const float w = load_as_float(tensor.weight.data, tensor.weight.dtype, i);
      const float m = load_as_float(tensor.exp_avg.data, tensor.exp_avg.dtype, i);
      const float v = load_as_float(tensor.exp_avg_sq.data, tensor.exp_avg_sq.dtype, i);
      lanes.add(lane, static_cast<double>(w - snapshots[t].snapshot[i]), static_cast<double>(-m));
      lanes.add_jitter(lane, static_cast<double>(std::sqrt(v)));
    });
  }

  void accumulate_movement(std::span<const ScoreInputs> tensors, std::span<const Chunk>,
                           std::span<float* const> accumulators, std::span<const float> rates) {
    for (std::size_t t = 0; t < tensors.size(); ++t)
      for (std::int64_t i = 0; i < tensors[t].numel; ++i) {
        const float w = load_as_float(tensors[t].weight.data, tensors[t].weight.dtype, i);
        const float g = load_as_float(tensors[t].grad.data, tensors[t].grad.dtype, i);
        accumulators[t][i] = accumulators[t][i] - (rates[t] * g) * w;
      }
  }

 private:
  template <class F>
  static void sum_blocks(std::span<const Chunk> chunks, std::span<TrackSums> sums, F&& f) {
    std::fill(sums.begin(), sums.end(), TrackSums{});
    for (const Chunk& chunk : chunks) {
      TrackSums of_chunk;
      for (std::int64_t first = 0; first < chunk.count; first += Moments::block) {
        TrackLanes lanes;
        for (std::int64_t i = first; i < std::min<std::int64_t>(first + Moments::block, chunk.count); ++i)
          f(chunk.tensor, chunk.first + i, static_cast<std::size_t>(i % Moments::lanes), lanes);
        of_chunk += lanes.fold();
      }
      sums[chunk.tensor] += of_chunk;
    }
  }
};

static_assert(TrackingEngine<ReferenceTracker>);

}  // namespace bittersweet
