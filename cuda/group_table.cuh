// What the kernels of rows and N:M groups are told of a step, and where the members of a group lie.
#pragma once

#include "bittersweet/rows.hpp"
#include "verbs.cuh"

namespace bittersweet::cuda {

// How one tensor falls into groups.
struct Grouping {
  Geometry geometry;       // of memory, or of logical indices where `mapped`
  std::int64_t group = 0;  // 0: whole rows; M: every M consecutive inputs
  bool mapped = false;     // by Row::order from logical indices to memory
  bool permuted = false;   // rows are runs of memory, their elements in another order: that of Row::order
  bool eight = false;      // vectors of eight may read it, from multiples of eight on
  bool in_words = false;   // groups fill the words of a mask
};

// The arguments of every kernel here.
struct GroupContext {
  Context step;
  const Grouping* groupings;  // one a tensor, like Context::rows
  GroupRule* rules;           // likewise
};

template <class S>
struct GroupArgs {
  GroupContext context;
  Work work;
  S scorer;
};

// A group: its members' indices, in the order in which ties are pruned.
struct Members {
  std::int64_t base, step;
  u32 width;  // members that are neighbours
  u32 size;
  u32 at;      // the member that was asked for
  bool whole;  // or the last, incomplete one of a row, which stays dense
  std::int64_t row;

  BITTERSWEET_DEVICE std::int64_t operator[](u32 j) const {
    if (width == 1) return base + j * step;
    return step == width ? base + j : base + j / width * step + j % width;
  }
};

// Group `group` of a row, at one inner position.
BITTERSWEET_DEVICE Members group_of(const Grouping& how, std::int64_t row, std::int64_t group, std::int64_t inner) {
  const Geometry& g = how.geometry;
  const std::int64_t first = g.first_of(row);
  if (how.group == 0)
    return {first, g.input_stride, static_cast<u32>(g.inner), static_cast<u32>(g.row_size()), 0, true, row};
  const std::int64_t begin = group * how.group, left = g.inputs - begin;
  const bool whole = left >= how.group;
  return {first + begin * g.input_stride + inner,
          g.input_stride,
          1,
          static_cast<u32>(whole ? how.group : left),
          0,
          whole,
          row};
}

// The group of element `index`. In 32 bits where they are enough: a division takes a tenth of the time.
template <class Int>
BITTERSWEET_DEVICE Members group_at(const Grouping& how, Int index) {
  const Geometry& g = how.geometry;
  const Int block = static_cast<Int>(g.rows_per_block() * g.row_size()), row_stride = static_cast<Int>(g.row_stride),
            input_stride = static_cast<Int>(g.input_stride), inner = static_cast<Int>(g.inner);
  Int first = 0, row = 0, input = 0, rest = index;
  if (g.blocks > 1) {
    first = index / block;
    rest = index - first * block;
    first *= static_cast<Int>(g.rows_per_block());
  }
  const bool rows_first = g.rows_per_block() > 1 && row_stride >= input_stride;
  if (rows_first) {
    row = rest / row_stride;
    rest -= row * row_stride;
  }
  input = input_stride == 1 ? rest : rest / input_stride;
  rest -= input * input_stride;
  if (!rows_first && g.rows_per_block() > 1) {
    row = row_stride == 1 ? rest : rest / row_stride;
    rest -= row * row_stride;
  }
  row += first;
  if (how.group == 0) {
    Members members = group_of(how, static_cast<std::int64_t>(row), 0, 0);
    members.at = static_cast<u32>(input * inner + rest);
    return members;
  }
  const Int group = input / static_cast<Int>(how.group);
  Members members =
      group_of(how, static_cast<std::int64_t>(row), static_cast<std::int64_t>(group), static_cast<std::int64_t>(rest));
  members.at = static_cast<u32>(input - group * static_cast<Int>(how.group));
  return members;
}

// Live NaN, by lane.
struct NanTally {
  u32 count = 0;
  u64 first = device::none;

  BITTERSWEET_DEVICE void add(const Row& row, std::int64_t index) {
    ++count;
    const auto position = static_cast<u64>(row.offset + row.order.logical_of(index));
    if (position < first) first = position;
  }
  BITTERSWEET_DEVICE void merge(device::State& state) const {
    add_warp(&state.attempt[0].nan, count);
    if (first != device::none) atomicMin(reinterpret_cast<u64*>(&state.attempt[0].first_nan), first);
  }
};

template <class L>
void rank_groups(L& launcher, const Scorer& scorer, const GroupContext& context, const Work& whole, const Work& rest);
template <class L>
void cut_rows(L& launcher, const Scorer& scorer, const GroupContext& context, const Work& by_warps,
              const Work& by_blocks);
template <class L>
void cut_by_digits(L& launcher, const Scorer& scorer, const GroupContext& context, const Work& work);

}  // namespace bittersweet::cuda
