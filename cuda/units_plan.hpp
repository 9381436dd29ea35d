// Host side of selections made side by side, one a tensor: how much of the workspace each takes, which of them one set
// of launches makes, and how blocks are shared out to them.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "bittersweet/prune.hpp"
#include "verbs.cuh"

namespace bittersweet::cuda {

inline bool is_bounded(const StepOptions& options) {
  return options.max_tensor_sparsity.has_value() || !options.tensor_sparsity.empty();
}

// Room for what lies inside a bracket of five deviations to either side, with twice the variance of independent scores:
// 3 / sqrt(lines) of the elements, never less than one selection over a large model has. Small tensors have room for
// all they have.
inline Unit unit_of(u32 row, std::int64_t numel) {
  Unit unit{};
  unit.row = row;
  unit.total = numel;
  unit.tiles = tiles_of(numel);
  unit.lines = static_cast<u32>(device::sample_lines(numel));
  const double share = std::max(0.0075, 3.0 / std::sqrt(std::max(1.0, static_cast<double>(unit.lines))));
  const auto wanted = static_cast<std::int64_t>(std::ceil(share * static_cast<double>(numel)));
  unit.capacity = static_cast<u64>(std::min(numel, std::max<std::int64_t>(16384, wanted)));
  unit.piece = {0, 0, 0};
  return unit;
}

// The units of one set of launches.
struct UnitBatch {
  std::vector<Unit> units;
  u64 sample = 0, candidates = 0;  // that they take: keys, candidates
  u32 tie_groups = 0;
};

inline std::size_t unit_bytes(const Unit& unit) {
  return sizeof(device::State) + std::size_t{unit.lines} * device::sample_width * sizeof(u32) +
         unit.capacity * sizeof(u64);
}

// What the selections of one set of launches may take: 1.5 % of an array of scores, and 6 MiB of a small model. Larger
// models, or more tensors, go in several sets one after another.
inline std::size_t unit_room(std::int64_t total) {
  return std::max<std::size_t>(std::size_t{6} << 20, static_cast<std::size_t>(total / 50 * 3));
}

inline std::vector<UnitBatch> unit_batches(std::span<const ScoreInputs> tensors, std::size_t room) {
  std::vector<UnitBatch> batches;
  std::size_t used = 0;
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    Unit unit = unit_of(static_cast<u32>(t), tensors[t].numel);
    if (batches.empty() || used + unit_bytes(unit) > room) {
      batches.emplace_back();
      used = 0;
    }
    UnitBatch& batch = batches.back();
    used += unit_bytes(unit);
    unit.sample = batch.sample;
    unit.candidates = batch.candidates;
    unit.tie_group = batch.tie_groups;
    batch.sample += u64{unit.lines} * device::sample_width;
    batch.candidates += unit.capacity;
    batch.tie_groups += (unit.tiles + group_tiles - 1) / group_tiles;
    batch.units.push_back(unit);
  }
  return batches;
}

inline constexpr u32 most_shared_blocks = 4096;  // beside one a unit

// Blocks by size, at least one each; the unit of every block.
inline std::vector<u32> share_blocks(std::vector<Unit>& units, u32 processors) {
  const u64 blocks = std::min(processors * 4, most_shared_blocks);
  u64 tiles = 1;
  for (const Unit& unit : units) tiles += unit.tiles;
  std::vector<u32> unit_of_block;
  for (std::size_t u = 0; u < units.size(); ++u) {
    units[u].first_block = static_cast<u32>(unit_of_block.size());
    units[u].blocks = static_cast<u32>(std::max<u64>(1, units[u].tiles * blocks / tiles));
    unit_of_block.insert(unit_of_block.end(), units[u].blocks, static_cast<u32>(u));
  }
  return unit_of_block;
}

// ---- bounds ----

// Digits of a key that one read counts for every tensor: fewer bins each where there are many.
inline u32 bound_bits(std::size_t tensors) { return tensors <= 1024 ? 11 : 8; }

}  // namespace bittersweet::cuda
