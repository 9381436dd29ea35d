// The verbs of scorers with a memory: what an engine does on every training step, or when a snapshot is compared.
//
// Contracts, beside those of engine.hpp: statistics run over live elements; doubles are added in one fixed order, so
// that threads and instruction sets show in no bit: within blocks of 4,096 consecutive elements of a tensor in 16
// interleaved lanes (element i to lane i mod 16), the lanes pairwise, the blocks of a chunk in order, then the chunks.
// Products of two floats are exact in double. Tensors have been checked by the caller (track.hpp).
//
// What is kept of a tensor is f32 or bf16, each array for itself. It is read exactly and computed in f32 either way; a
// bf16 array is then rounded once, when it is stored, by store_stochastic. So what moves by less than a bf16 resolves
// moves in the mean, which to nearest it would not.
#pragma once

#include <array>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <span>

#include "bittersweet/engine/summaries.hpp"
#include "bittersweet/score/coherence.hpp"
#include "bittersweet/score/scorer.hpp"
#include "bittersweet/stochastic_rounding.hpp"

namespace bittersweet {

// sum + a * b, rounded once or twice alike: the product of two floats is exact in double.
BITTERSWEET_FORMULA double multiply_add(double a, double b, double sum) noexcept {
#if defined(__CUDA_ARCH__)
  return __fma_rn(a, b, sum);
#else
  return sum + a * b;
#endif
}

// What the verbs sum over the live elements of one tensor. x is now and y the past, where the sign of 0 is 0; both are
// doubles that floats converted to without rounding.
template <class Count>
struct TrackSumsOf {
  Count live = 0;
  Count flips = 0;                // sign(x) != sign(y)
  double xy = 0, xx = 0, yy = 0;  // products of x and y
  double r = 0, rr = 0;           // what jitter looks at, and its square

  BITTERSWEET_FORMULA void add(double x, double y) noexcept {
    live += 1;
    add_products(x, y);
  }
  BITTERSWEET_FORMULA void add_products(double x, double y) noexcept {
    flips += (x > 0.0) != (y > 0.0) || (x < 0.0) != (y < 0.0);
    xy = multiply_add(x, y, xy);
    xx = multiply_add(x, x, xx);
    yy = multiply_add(y, y, yy);
  }
  BITTERSWEET_FORMULA void add_jitter(double value) noexcept {
    r += value;
    rr = multiply_add(value, value, rr);
  }
  template <class Other>
  BITTERSWEET_FORMULA TrackSumsOf& operator+=(const TrackSumsOf<Other>& other) noexcept {
    live += other.live;
    flips += other.flips;
    xy += other.xy;
    xx += other.xx;
    yy += other.yy;
    r += other.r;
    rr += other.rr;
    return *this;
  }
};
using TrackSums = TrackSumsOf<std::int64_t>;
using TrackLanes = std::array<TrackSums, Moments::lanes>;  // of one block

BITTERSWEET_FORMULA float finite_or_zero(float x) noexcept { return abs(x) < HUGE_VALF ? x : 0.0f; }

// What is kept behind a step, for F = float and SIMD vectors: the average of a weight's differences, and of movement.
template <class F>
BITTERSWEET_FORMULA F next_average(F average, F difference, float decay) noexcept {
  return finite_or_zero(decay * average + (1.0f - decay) * difference);
}
template <class F>
BITTERSWEET_FORMULA F next_movement(F sum, F grad, F weight, float rate) noexcept {
  return sum - (rate * grad) * weight;
}

// Which random bits the bf16 arrays of a tensor draw: the step of their keys is the number of updates before this one,
// which is part of what is kept. So nothing else has to be saved for a resumed run to draw what it would have drawn.
struct TrackDraws {
  std::uint64_t seed = 0;
  std::uint32_t stream = 0;  // the tensor's: below RoundingKey::streams / arrays

  static constexpr std::uint32_t arrays = 2;  // at most, of a tensor

  constexpr RoundingKey key(std::int64_t updates, std::uint32_t array) const noexcept {
    return {seed, static_cast<std::uint32_t>(updates), arrays * stream + array};
  }
};

// The state of one tensor, borrowed. A tensor whose scalars count no update yet is only remembered: nothing is summed.
struct CoherenceMemory {
  TensorView previous{};  // the weight after the last update, numel of them
  TensorView average{};   // the EMA of its differences, numel of them
  Coherence* scalars = nullptr;
  TrackDraws draws{};

  RoundingKey previous_key() const noexcept { return draws.key(scalars->count(), 0); }
  RoundingKey average_key() const noexcept { return draws.key(scalars->count(), 1); }
};

struct SketchMemory {
  static constexpr std::int64_t most = 64;
  static constexpr std::int64_t run = 8;    // neighbours, since a miss costs as much for eight as for one
  const std::int64_t* positions = nullptr;  // flat indices
  std::int64_t count = 0;                   // of them: up to `most`
  float* previous = nullptr;                // exp_avg there, at the last update
  Coherence* scalars = nullptr;
};

struct SnapshotMemory {
  TensorView snapshot{};  // the weight as it was, numel of them
  Coherence* scalars = nullptr;
};

struct MovementMemory {
  TensorView sums{};                // numel of them
  std::int64_t* updates = nullptr;  // how many there were; accumulate_movement of track.hpp counts
  float rate = 0;                   // of this step
  TrackDraws draws{};

  RoundingKey key() const noexcept { return draws.key(*updates, 0); }
};

// Updates the EMAs of one tensor by one step's sums. What has no meaning in this step (a zero norm, a zero mean, a sum
// that is not finite) leaves its scalar as it was.
BITTERSWEET_FORMULA void observe(Coherence& scalars, const TrackSums& sums, double decay) noexcept {
  const auto direction = cosine(sums.xy, sums.xx, sums.yy);
  const auto n = static_cast<double>(sums.live);
  scalars.direction.observe(direction, decay);
  scalars.flip.observe(direction ? finite(static_cast<double>(sums.flips) / n) : std::nullopt, decay);
  scalars.jitter.observe(relative_variance(n, sums.r, sums.rr), decay);
  scalars.updates += 1.0;
}

// The sketch of one tensor: x is exp_avg now and y its past at the same places, r the root of exp_avg_sq. The past
// becomes the present, at dead places zero. Slot i goes to lane i mod 16, as in a block.
inline TrackSums sketch_tensor(const ScoreInputs& tensor, const SketchMemory& sketch) noexcept {
  struct Slot {
    float now = 0, past = 0, root = 0;
    bool live = false;
  };
  std::array<Slot, SketchMemory::most> slots{};
  const bool known = sketch.scalars->updates > 0;
  for (std::int64_t i = 0; i < sketch.count; ++i) {  // all loads first, so that their misses overlap
    const std::int64_t at = sketch.positions[i];
    if (!is_live(tensor, at)) continue;
    slots[static_cast<std::size_t>(i)] = {load_as_float(tensor.exp_avg.data, tensor.exp_avg.dtype, at),
                                          sketch.previous[i],
                                          load_as_float(tensor.exp_avg_sq.data, tensor.exp_avg_sq.dtype, at), true};
  }
  for (std::int64_t i = 0; i < sketch.count; ++i) sketch.previous[i] = slots[static_cast<std::size_t>(i)].now;
  if (!known) return {};
  TrackLanes lanes{};
  for (std::size_t i = 0; i < slots.size(); ++i) {
    if (!slots[i].live) continue;
    lanes[i % lanes.size()].add(static_cast<double>(slots[i].now), static_cast<double>(slots[i].past));
    lanes[i % lanes.size()].add_jitter(static_cast<double>(sqrt(slots[i].root)));
  }
  return fold_lanes(lanes);
}

template <class E>
concept TrackingEngine = requires(E& engine, std::span<const ScoreInputs> tensors, std::span<const Chunk> chunks,
                                  std::span<const CoherenceMemory> memory, std::span<const SnapshotMemory> snapshots,
                                  std::span<const MovementMemory> movements, std::span<TrackSums> sums) {
  // x = weight - previous in f32, y = average as it was, r = |x|. Then, in the same pass, average = decay * average
  // + (1 - decay) * x in f32 (+0 where that is not finite), previous = weight; +0 for both where dead.
  engine.track_coherence(tensors, chunks, memory, float{}, sums);

  // x = previous, y = -exp_avg, +0 where previous is 0 (dead); no r. Writes nothing but the sums.
  engine.measure_retention(tensors, chunks, memory, sums);

  // x = weight - snapshot in f32, y = -exp_avg, r = the f32 root of exp_avg_sq. Writes nothing but the sums.
  engine.compare_snapshot(tensors, chunks, snapshots, sums);

  // sum -= (rate * grad) * weight in f32, in this order, dead or alive.
  engine.accumulate_movement(tensors, chunks, movements);
};

}  // namespace bittersweet
