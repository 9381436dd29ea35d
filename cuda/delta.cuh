// Delta matrices: how many steps each group takes, and values moved in and out. A block of threads takes a block of a
// panel, 256 rows. It reads them a warp a row, a lane a column, and sorts them by comparing all with all; then a warp
// has a group of 32 of them, and a lane a row.
#pragma once

#include "delta_plan.hpp"
#include "strips.cuh"

namespace bittersweet::cuda {

inline constexpr u32 panel_rows = delta::height, group_rows = delta::group, panel_words = delta::entries / 32;
inline constexpr u32 panel_warps = panel_rows / 32, most_values = delta::most_columns;

template <class Element>
inline constexpr Element no_value =
    static_cast<Element>(delta::nothing(sizeof(Element) == 2 ? DType::bf16 : DType::f32));

// A block of a panel: where it lies.
struct DeltaBlock {
  std::int64_t row, column, group;  // the first ones
  u32 number, rows, width, groups;  // which one of its panel; and what it has

  // Where its codes begin, which the places of its rows do.
  BITTERSWEET_DEVICE std::int64_t places(const std::uint64_t* offsets) const {
    return (static_cast<std::int64_t>(offsets[group]) + group) * group_rows;
  }
};

// Of blocks in order, panel by panel, fewer than 2^31: a device has no room for the codes of so many.
BITTERSWEET_DEVICE DeltaBlock delta_block(const DeltaShape& shape, u32 index) {
  const u32 panel = index / shape.blocks, number = index % shape.blocks;
  const std::int64_t row = std::int64_t{panel} * panel_rows, column = std::int64_t{number} * shape.width;
  const std::int64_t rows = shape.rows - row, width = shape.columns - column;
  DeltaBlock made{row, column, 0, number, panel_rows, shape.width, 0};
  if (rows < panel_rows) made.rows = static_cast<u32>(rows);
  if (width < shape.width) made.width = static_cast<u32>(width);
  made.groups = (made.rows + group_rows - 1) / group_rows;
  made.group = std::int64_t{panel} * panel_warps * shape.blocks + number * made.groups;
  return made;
}

// A lane's part of its warp's group: where it begins, and its steps. Warps beyond the block's groups have none.
struct DeltaLane {
  std::int64_t code, value;
  u32 steps;
};

BITTERSWEET_DEVICE DeltaLane delta_lane(const DeltaBlock& block, const std::uint64_t* offsets) {
  if (warp_id() >= block.groups) return {0, 0, 0};
  const std::uint64_t first = offsets[block.group + warp_id()], end = offsets[block.group + warp_id() + 1];
  const std::int64_t value = static_cast<std::int64_t>(first) * group_rows + lane_id();
  return {value + (block.group + block.groups) * group_rows, value, static_cast<u32>(end - first)};
}

// ---- rows, sorted ----

struct SortedRows {
  // Bits of what each row stores, a word more than it has: lanes that look at rows side by side look at all banks.
  u32 stored[panel_rows][panel_words + 1];
  // (255 - values) * 256 + row: sorted by it, rows with most values come first, and equal ones in order.
  alignas(16) u32 key[panel_rows];

  BITTERSWEET_DEVICE u32 values(u32 row) const { return most_values - key[row] / panel_rows; }

  // Of the row of this thread, when all keys are there.
  BITTERSWEET_DEVICE u32 place() const {
    const u32 mine = key[threadIdx.x];
    u32 before = 0;
#pragma unroll 4
    for (u32 i = 0; i < panel_rows / 4; ++i) {
      const uint4 four = reinterpret_cast<const uint4*>(key)[i];
      before += (four.x < mine ? 1u : 0u) + (four.y < mine ? 1u : 0u);
      before += (four.z < mine ? 1u : 0u) + (four.w < mine ? 1u : 0u);
    }
    return before;
  }
};

// By a whole block, which meets afterwards; rows that the matrix does not have store nothing. Returns how many elements
// that have bits the lane has seen dropped.
template <class Element>
BITTERSWEET_DEVICE u32 read_rows(const Element* dense, const std::uint64_t* keep, const DeltaShape& shape,
                                 const DeltaBlock& block, SortedRows& sorted) {
  const u32 lane = lane_id();
  u32 lost = 0;
  for (u32 row = warp_id(); row < panel_rows; row += panel_warps) {
    const u32 width = row < block.rows ? block.width : 0;
    const std::int64_t first = (block.row + row) * shape.columns + block.column;
    const auto bits_where = [&](const auto& is_set) {  // of the lane's columns, a bit a word
      u32 bits = 0;
#pragma unroll
      for (u32 word = 0; word < panel_words; ++word) {
        const u32 column = word * 32 + lane;
        bits |= column < width && is_set(first + column) ? 1u << word : 0u;
      }
      return bits;
    };
    u32 kept = bits_where([&](std::int64_t index) { return dense[index] != 0; });
    if (keep != nullptr) {
      const u32 wanted =
          bits_where([&](std::int64_t index) { return (words32(keep)[index / 32] >> (index % 32) & 1u) != 0; });
      lost += static_cast<u32>(__popc(kept & ~wanted));
      kept = wanted;
    }
    u32 mine = 0, values = 0;
#pragma unroll
    for (u32 word = 0; word < panel_words; ++word) {
      const u32 all = word * 32 < width ? __ballot_sync(everyone, (kept >> word & 1u) != 0) : 0;
      values += static_cast<u32>(__popc(all));
      if (lane == word) mine = all;
    }
    if (lane < panel_words) sorted.stored[row][lane] = mine;
    if (lane == 0) sorted.key[row] = (most_values - values) * panel_rows + row;
  }
  return lost;
}

template <class Element>
struct CountDelta {
  static constexpr u32 threads = panel_rows, blocks = 4;
  struct Args {
    const Element* dense;
    const std::uint64_t* keep;  // or null
    std::uint64_t* offsets;     // offsets[g + 1] becomes the steps of group g
    std::uint64_t* live;
    std::int64_t* lost;
    DeltaShape shape;
  };
  using Shared = SortedRows;

  static BITTERSWEET_DEVICE void body(const Args& args, Shared& shared) {
    const DeltaBlock block = delta_block(args.shape, blockIdx.x);
    const u32 lost = read_rows(args.dense, args.keep, args.shape, block, shared);
    __syncthreads();
    const u32 place = shared.place(), values = shared.values(threadIdx.x);
    if (place % group_rows == 0 && place / group_rows < block.groups)
      args.offsets[block.group + place / group_rows + 1] = values;
    add_warp(args.live, values);
    if (args.keep != nullptr) add_warp(args.lost, lost);
  }
};

template <class Element>
struct PackDelta {
  static constexpr u32 threads = panel_rows, blocks = 4;
  struct Args {
    const Element* dense;
    const std::uint64_t* keep;  // or null
    const std::uint64_t* offsets;
    std::uint8_t* codes;
    Element* values;
    DeltaShape shape;
  };
  struct Shared {
    SortedRows sorted;
    u32 row_at[panel_rows];  // by place
  };

  static BITTERSWEET_DEVICE void body(const Args& args, Shared& shared) {
    const DeltaBlock block = delta_block(args.shape, blockIdx.x);
    read_rows(args.dense, args.keep, args.shape, block, shared.sorted);
    __syncthreads();
    const u32 place = shared.sorted.place();
    shared.row_at[place] = threadIdx.x;
    if (threadIdx.x < block.groups * group_rows)
      args.codes[block.places(args.offsets) + threadIdx.x] = static_cast<std::uint8_t>(place);
    __syncthreads();
    if (warp_id() < block.groups) write(args, block, shared);
  }

  // Of the thread's place: as many steps as there is room for, whatever its row stores by now.
  static BITTERSWEET_DEVICE void write(const Args& args, const DeltaBlock& block, const Shared& shared) {
    const DeltaLane at = delta_lane(block, args.offsets);
    const u32 row = shared.row_at[threadIdx.x], count = shared.sorted.values(row);
    const Element* const from = args.dense + (block.row + row) * args.shape.columns + block.column;
    u32 word = 0, left = shared.sorted.stored[row][0];
    for (u32 step = 0; step < at.steps; ++step) {
      u32 code = 0;
      Element value = no_value<Element>;
      if (step < count) {
        while (left == 0) left = shared.sorted.stored[row][++word];
        const u32 column = word * 32 + static_cast<u32>(__ffs(static_cast<int>(left))) - 1;
        left &= left - 1;
        code = 1 + column;
        value = from[column];
      }
      args.codes[at.code + step * group_rows] = static_cast<std::uint8_t>(code);
      args.values[at.value + step * group_rows] = value;
    }
  }
};

// ---- what is stored, read ----

// A lane's part of a group, `Ahead` steps at a time, which are on their way together.
template <class Element, int Ahead>
struct DeltaSteps {
  u32 codes[Ahead];
  Element values[Ahead];

  // Steps from `step` on; beyond the last, no value. Where all are there their addresses are one and an offset.
  BITTERSWEET_DEVICE void load(const std::uint8_t* all_codes, const Element* all_values, const DeltaLane& at,
                               u32 step) {
    const std::int64_t passed = std::int64_t{step} * group_rows;
    if (step + Ahead <= at.steps) {
      const std::uint8_t* const from = all_codes + (at.code + passed);
      const Element* const stored = all_values + (at.value + passed);
#pragma unroll
      for (u32 i = 0; i < Ahead; ++i) codes[i] = __ldcs(from + i * group_rows);
#pragma unroll
      for (u32 i = 0; i < Ahead; ++i) values[i] = __ldcs(stored + i * group_rows);
      return;
    }
#pragma unroll
    for (u32 i = 0; i < Ahead; ++i) {
      const bool there = step + i < at.steps;
      codes[i] = there ? __ldcs(all_codes + (at.code + passed) + i * group_rows) : 0;
      values[i] = there ? __ldcs(all_values + (at.value + passed) + i * group_rows) : no_value<Element>;
    }
  }
};

template <class Element>
struct UnpackDelta {
  static constexpr u32 threads = panel_rows, blocks = 4;
  struct Args {
    const std::uint8_t* codes;
    const std::uint64_t* offsets;
    const Element* values;
    Element* dense;  // its first row is that of panel `first`
    DeltaShape shape;
    u32 first;
  };
  struct Shared {
    u32 row_at[panel_rows];
  };

  static BITTERSWEET_DEVICE void body(const Args& args, Shared& shared) {
    const DeltaBlock block = delta_block(args.shape, args.first * args.shape.blocks + blockIdx.x);
    Element* const dense =
        args.dense + (block.row - std::int64_t{args.first} * panel_rows) * args.shape.columns + block.column;
    for (u32 row = warp_id(); row < block.rows; row += panel_warps)
      for (u32 column = lane_id(); column < block.width; column += 32) dense[row * args.shape.columns + column] = 0;
    if (threadIdx.x < block.groups * group_rows)
      shared.row_at[args.codes[block.places(args.offsets) + threadIdx.x]] = threadIdx.x;
    __syncthreads();  // the zeros are there, and so are the rows
    if (warp_id() >= block.groups) return;
    const DeltaLane at = delta_lane(block, args.offsets);
    Element* const to = dense + shared.row_at[threadIdx.x] * args.shape.columns;
    constexpr u32 ahead = 8;
    for (u32 step = 0; step < at.steps; step += ahead) {
      DeltaSteps<Element, ahead> steps;
      steps.load(args.codes, args.values, at, step);
#pragma unroll
      for (u32 i = 0; i < ahead; ++i)
        if (steps.codes[i] != 0) to[steps.codes[i] - 1] = steps.values[i];
    }
  }
};

// ---- enqueued ----

template <class L>
void count_delta(L& launcher, const DeltaPlan& plan) {
  std::uint64_t* const live = plan.offsets + plan.groups() + 1;
  zero(launcher, live, sizeof *live);
  if (plan.lost != nullptr) zero(launcher, plan.lost, sizeof *plan.lost);
  by_size(plan.dtype, [&](auto element) {
    using Element = decltype(element);
    if (plan.grid() > 0)
      launcher.template launch<CountDelta<Element>>(
          plan.grid(), {static_cast<const Element*>(plan.dense), plan.keep, plan.offsets, live, plan.lost, plan.shape});
  });
  launcher.template launch<SumStrips>(1, {plan.offsets, plan.groups()});
}

template <class L>
void pack_delta(L& launcher, const DeltaPlan& plan) {
  if (plan.grid() == 0) return;
  by_size(plan.dtype, [&](auto element) {
    using Element = decltype(element);
    launcher.template launch<PackDelta<Element>>(
        plan.grid(), {static_cast<const Element*>(plan.dense), plan.keep, plan.offsets, plan.codes,
                      static_cast<Element*>(plan.values), plan.shape});
  });
}

template <class L>
void unpack_delta(L& launcher, const DeltaPlan& plan) {
  if (plan.grid() == 0) return;
  by_size(plan.dtype, [&](auto element) {
    using Element = decltype(element);
    launcher.template launch<UnpackDelta<Element>>(
        plan.grid(), {plan.codes, plan.offsets, static_cast<const Element*>(plan.values),
                      static_cast<Element*>(plan.dense), plan.shape, static_cast<u32>(plan.first)});
  });
}

}  // namespace bittersweet::cuda
