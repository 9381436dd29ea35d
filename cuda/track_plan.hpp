// Host side of the trackers: checks, and the tables that travel in kernel arguments.
#pragma once

#include <array>

#include "bittersweet/cuda_track.hpp"
#include "plan.hpp"
#include "track_checks.hpp"

namespace bittersweet::cuda {

// One tensor of a pass: what the verb reads and what is kept, in the verb's order.
struct TrackRow {
  void* arrays[4];
  const std::uint64_t* mask;  // keep bits; null: all ones
  const void* count;          // where its number of updates lies
  std::int64_t numel;
  RoundingKey key;  // of array 0; the count is its step
  u32 first;        // number of its first block within the launch
  float rate;
  DType types[4];
};

// One tensor of what comes behind: its scalars, or the number that its sums become.
struct SettleRow {
  Coherence* scalars;
  double* found;
  u32 first, count;  // of its blocks
};

struct SketchRow {
  const void *exp_avg, *exp_avg_sq;
  const std::uint64_t* mask;
  const std::int64_t* positions;
  float* previous;
  Coherence* scalars;
  u32 count;
  DType exp_avg_type, exp_avg_sq_type;
};

inline constexpr std::int64_t track_block = Moments::block;

struct TrackPlan {
  std::vector<TrackRow> rows;      // of tensors with elements
  std::vector<SettleRow> settled;  // of all
  std::vector<SketchRow> sketches;
  std::vector<std::int64_t*> counts;
  TrackSums* sums = nullptr;  // one a block
  double decay = 0;
};

inline std::int64_t track_blocks(const ScoreInputs& tensor) { return (tensor.numel + track_block - 1) / track_block; }

inline std::size_t track_bytes(std::span<const ScoreInputs> tensors) {
  std::size_t blocks = 0;
  for (const ScoreInputs& tensor : tensors)
    blocks += static_cast<std::size_t>(std::max<std::int64_t>(0, track_blocks(tensor)));
  return blocks * sizeof(TrackSums) + alignment;
}

inline TrackRow track_row(const ScoreInputs& tensor, std::initializer_list<TensorView> arrays) {
  TrackRow row{};
  std::size_t slot = 0;
  for (const TensorView& array : arrays) {
    row.arrays[slot] = array.data;
    row.types[slot++] = array.dtype;
  }
  row.mask = tensor.mask;
  row.numel = tensor.numel;
  return row;
}

inline void check_blocks(std::span<const ScoreInputs> tensors) {
  std::int64_t blocks = 0;
  for (const ScoreInputs& tensor : tensors) blocks += track_blocks(tensor);
  if (blocks >= std::int64_t{device::max_tiles})
    throw ArgumentError("tensors: " + std::to_string(blocks) + " blocks of 4096 elements; accepted: below " +
                        std::to_string(device::max_tiles));
}

// Room for the sums of every block, and where they go.
inline void plan_sums(TrackPlan& plan, std::span<const ScoreInputs> tensors, void* workspace, std::size_t bytes) {
  if (!tensors.empty() && (workspace == nullptr || bytes < track_bytes(tensors)))
    throw ArgumentError("workspace_bytes: " + std::to_string(bytes) + "; this call needs " +
                        std::to_string(track_bytes(tensors)) + " (track_workspace_bytes)");
  plan.sums = reinterpret_cast<TrackSums*>((reinterpret_cast<std::uintptr_t>(workspace) + alignment - 1) / alignment *
                                           alignment);
  u32 first = 0;
  for (const ScoreInputs& tensor : tensors) {
    const u32 count = static_cast<u32>(track_blocks(tensor));
    plan.settled.push_back({nullptr, nullptr, first, count});
    first += count;
  }
}

inline TrackPlan make_coherence(std::span<const ScoreInputs> tensors, std::span<const CoherenceMemory> memory,
                                double decay, void* workspace, std::size_t bytes) {
  check_coherence(tensors, memory, decay);
  check_blocks(tensors);
  TrackPlan plan;
  plan.decay = decay;
  plan_sums(plan, tensors, workspace, bytes);
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    plan.settled[t].scalars = memory[t].scalars;
    if (tensors[t].numel == 0) continue;
    TrackRow row = track_row(tensors[t], {tensors[t].weight, memory[t].previous, memory[t].average});
    row.count = memory[t].scalars;
    row.key = memory[t].draws.key(0, 0);
    plan.rows.push_back(row);
  }
  return plan;
}

inline TrackPlan make_retention(std::span<const ScoreInputs> tensors, std::span<const CoherenceMemory> memory,
                                double* found, void* workspace, std::size_t bytes) {
  check_retention(tensors, memory);
  check_blocks(tensors);
  if (found == nullptr && !tensors.empty())
    throw ArgumentError("found: null pointer; device memory for one number a tensor is needed");
  TrackPlan plan;
  plan_sums(plan, tensors, workspace, bytes);
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    plan.settled[t].found = found + t;
    if (tensors[t].numel == 0) continue;
    TrackRow row = track_row(tensors[t], {memory[t].previous, tensors[t].exp_avg});
    row.mask = nullptr;
    plan.rows.push_back(row);
  }
  return plan;
}

inline TrackPlan make_snapshot(std::span<const ScoreInputs> tensors, std::span<const SnapshotMemory> memory,
                               void* workspace, std::size_t bytes) {
  check_snapshots(tensors, memory);
  check_blocks(tensors);
  TrackPlan plan;
  plan_sums(plan, tensors, workspace, bytes);
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    plan.settled[t].scalars = memory[t].scalars;
    const ScoreInputs& tensor = tensors[t];
    if (tensor.numel > 0)
      plan.rows.push_back(track_row(tensor, {tensor.weight, tensor.exp_avg, tensor.exp_avg_sq, memory[t].snapshot}));
  }
  return plan;
}

inline TrackPlan make_movement(std::span<const ScoreInputs> tensors, std::span<const MovementMemory> memory) {
  check_movement(tensors, memory);
  check_blocks(tensors);
  TrackPlan plan;
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    plan.counts.push_back(memory[t].updates);
    if (tensors[t].numel == 0) continue;
    TrackRow row = track_row(tensors[t], {tensors[t].weight, tensors[t].grad, memory[t].sums});
    row.mask = nullptr;
    row.count = memory[t].updates;
    row.key = memory[t].draws.key(0, 0);
    row.rate = memory[t].rate;
    plan.rows.push_back(row);
  }
  return plan;
}

inline TrackPlan make_sketch(std::span<const ScoreInputs> tensors, std::span<const SketchMemory> memory, double decay) {
  check_sketch(tensors, memory, decay);
  TrackPlan plan;
  plan.decay = decay;
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    const ScoreInputs& tensor = tensors[t];
    plan.sketches.push_back({tensor.exp_avg.data, tensor.exp_avg_sq.data, tensor.mask, memory[t].positions,
                             memory[t].previous, memory[t].scalars, static_cast<u32>(memory[t].count),
                             tensor.exp_avg.dtype, tensor.exp_avg_sq.dtype});
  }
  return plan;
}

}  // namespace bittersweet::cuda
