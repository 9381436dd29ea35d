// Scorers with a memory on a device: the functions of track.hpp over memory that lies there. The promises of cuda.hpp
// hold: everything is enqueued on the caller's stream, nothing is allocated or waited for, a call can be captured.
// Pointers are device memory, scalars, positions and counts included; snapshots may be memory of the host that the
// device can read (pinned), which then comes over the bus.
//
// Same bits as the CPU engine, scalars included: sums run in the order of engine/track.hpp, whatever the grid. Each
// tensor has scalars and counts of its own: two that share them are a race.
//
// A call is one pass over all tensors, whatever their types (up to 368 of them a launch), and one small kernel that
// adds up what blocks found and updates the scalars. It throws the errors of track.hpp for what the host can see,
// before anything is enqueued. Positions of a sketch are not looked at: who gives some beyond the tensor reads beyond
// it.
#pragma once

#include "bittersweet/cuda.hpp"
#include "bittersweet/engine/track.hpp"

namespace bittersweet::cuda {

// Of the three functions that take a workspace: 56 bytes for each 4,096 elements. ArgumentError where it is smaller.
std::size_t track_workspace_bytes(std::span<const ScoreInputs> tensors);

// bitter10, after every optimizer step.
void track_coherence(const Queue& queue, std::span<const ScoreInputs> tensors, std::span<const CoherenceMemory> memory,
                     double decay, void* workspace, std::size_t workspace_bytes);

// bitter10, where its scores are wanted: found[t], device memory, becomes the retention of tensor t now.
void measure_retention(const Queue& queue, std::span<const ScoreInputs> tensors,
                       std::span<const CoherenceMemory> memory, double* found, void* workspace,
                       std::size_t workspace_bytes);

// bitter10s, after every optimizer step: half a warp a tensor, one launch for up to 500.
void track_sketch(const Queue& queue, std::span<const ScoreInputs> tensors, std::span<const SketchMemory> memory,
                  double decay);

// bitter10c.
void compare_snapshot(const Queue& queue, std::span<const ScoreInputs> tensors, std::span<const SnapshotMemory> memory,
                      void* workspace, std::size_t workspace_bytes);

// movement, before every optimizer step.
void accumulate_movement(const Queue& queue, std::span<const ScoreInputs> tensors,
                         std::span<const MovementMemory> memory);

}  // namespace bittersweet::cuda
