// The public functions of scorers with a memory: one call a training step, over the whole model. bitter10, bitter10s
// and bitter10c are Bitter3 with eps 1e-12 under ScoreInputs::modifier = coherence_modifier or snapshot_modifier of
// what these functions track; movement is Identity over what accumulate_movement gathers.
//
// Promises: an error changes nothing; weights, gradients and optimizer states are never written; the same inputs give
// the same bits whatever the number of threads or the instruction set; any floating-point environment is respected.
//
// Memory is f32 or bf16, which is half of it and rounded stochastically (engine/track.hpp). DTypeError for another
// type, LayoutError for a null pointer or one that is no multiple of the elements' size, ArgumentError for a stream
// from 2^23.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "bittersweet/engine/track.hpp"

namespace bittersweet {

// bitter10. Call after every optimizer step, before masks are applied. Reads weight and mask; 20 bytes move per f32
// element, 16 with a bf16 average. Keep `previous` in bf16 only where the weights are: of f32 weights it is off by less
// than its unit in the last place, anew at every step, and steps below 2^-8 of the weights drown in that. The first
// call of a tensor remembers it, the second gives a first difference, the third compares two.
void track_coherence(std::span<const ScoreInputs> tensors, std::span<const CoherenceMemory> memory, double decay);

// bitter10, where its scores are wanted: retention of each tensor now, 0 where it has no meaning. One read of exp_avg
// and of the weights that the last update remembered, so what was dead then takes no part, nor does a weight that was
// 0.
std::vector<double> measure_retention(std::span<const ScoreInputs> tensors, std::span<const CoherenceMemory> memory);

// bitter10s. Call after every optimizer step. Reads exp_avg, exp_avg_sq and mask at the positions alone.
void track_sketch(std::span<const ScoreInputs> tensors, std::span<const SketchMemory> memory, double decay);

// bitter10c. One read of weight, exp_avg, exp_avg_sq and the snapshot; direction and jitter of the scalars become
// what it finds (nothing is averaged), except where that has no meaning.
void compare_snapshot(std::span<const ScoreInputs> tensors, std::span<const SnapshotMemory> memory);

// movement (Sanh et al.). Call before every optimizer step: sums -= (rate * grad) * weight in f32, and counts the
// update.
void accumulate_movement(std::span<const ScoreInputs> tensors, std::span<const MovementMemory> memory);

// Where bitter10s looks: 8 runs of 8 neighbours as flat indices in ascending order, one run in each of equal stretches
// of the tensor, at a place drawn by Philox from the seed and the tensor's name. A tensor of up to 64 elements: all.
std::vector<std::int64_t> sketch_positions(std::string_view name, std::int64_t numel, std::uint64_t seed);

}  // namespace bittersweet
