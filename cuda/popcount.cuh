// popcount: what can be read off masks alone. Live elements per tensor; and after a step pruned elements per tensor,
// bits that differ from the current mask, and output rows that lost their last live weight.
#pragma once

#include "arrays.cuh"
#include "bittersweet/rows.hpp"

namespace bittersweet::cuda {

struct CountLive {
  static constexpr u32 threads = 256, blocks = 4;
  struct Args {
    std::int64_t* live;  // one number per tensor
    ArrayTable table;
  };
  struct Shared {};
  static BITTERSWEET_DEVICE void body(const Args& args, Shared&) {
    for_each_array_tile(args.table.rows, args.table.count, args.table.tiles, [&](const ArrayRow& row, u32 tile) {
      const u32 word = mask_word(row.mask, row.numel, std::int64_t{tile} * tile_words + lane_id());
      add_warp(args.live + row.tensor, __popc(word));
    });
  }
};

// The elements that compete, into the step's state. It starts from those of tensors without a mask.
struct CountCompeting {
  static constexpr u32 threads = 256, blocks = 4;
  struct Args {
    Context context;
    Work work;
  };
  struct Shared {};
  static BITTERSWEET_DEVICE void body(const Args& args, Shared&) {
    u64 live = 0;
    for_each_tile(args.work, [&](const Row& row, u32, u32 tile) {
      if (row.live != nullptr)
        live += __popc(mask_word(row.live, row.numel, std::int64_t{tile} * tile_words + lane_id()));
    });
    add_warp(&args.context.state->live, live);
  }
};

// New masks against current ones.
struct CompareMasks {
  static constexpr u32 threads = 256, blocks = 4;
  using Args = CountCompeting::Args;
  struct Shared {};
  static BITTERSWEET_DEVICE void body(const Args& args, Shared&) {
    const Context& c = args.context;
    u64 churn = 0, pruned = 0;
    u32 last = ~0u;
    for_each_tile(args.work, [&](const Row& row, u32 number, u32 tile) {
      const std::int64_t word = std::int64_t{tile} * tile_words + lane_id();
      const u32 next = mask_word(row.next, row.numel, word);
      if (number != last && last != ~0u && c.tensor_pruned != nullptr) add_warp(c.tensor_pruned + last, pruned);
      if (number != last) pruned = 0;
      last = number;
      pruned += __popc(valid_bits(row.numel, word) & ~next);
      churn += __popc(mask_word(row.current, row.numel, word) ^ next);
    });
    if (last != ~0u && c.tensor_pruned != nullptr) add_warp(c.tensor_pruned + last, pruned);
    add_warp(&c.report->churn, churn);
  }
};

// Is every bit of an output row 0? Called by a whole warp. Looks no further than the first that is not.
BITTERSWEET_DEVICE bool row_is_empty(const std::uint64_t* mask, const Row& tensor, std::int64_t row) {
  const std::int64_t numel = tensor.numel;
  const RowLayout rows = rows_in_memory(tensor.geometry, tensor.order);
  const Geometry& g = rows.geometry;
  const auto none = [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t word = begin / 32; word * 32 < end; word += 32) {
      const std::int64_t mine = word + lane_id();
      u32 bits = mine * 32 < end ? mask_word(mask, numel, mine) : 0;
      if (mine * 32 < begin) bits &= ~0u << (begin - mine * 32);
      if (mine * 32 < end && end - mine * 32 < 32) bits &= (1u << (end - mine * 32)) - 1;
      if (__ballot_sync(everyone, bits != 0) != 0) return false;
    }
    return true;
  };
  const auto none_of = [&](std::int64_t count, const auto& index_of) {  // every lane looks at one
    for (std::int64_t first = 0; first < count; first += 32) {
      const std::int64_t mine = first + lane_id(), index = mine < count ? index_of(mine) : 0;
      const bool set = mine < count && (mask_word(mask, numel, index / 32) >> (index % 32) & 1u) != 0;
      if (__ballot_sync(everyone, set) != 0) return false;
    }
    return true;
  };
  const std::int64_t begin = g.first_of(row);
  if (rows.kind == RowLayout::scattered)
    return none_of(g.row_size(), [&](std::int64_t place) {
      return tensor.order.memory_of(begin + place / g.inner * g.input_stride + place % g.inner);
    });
  if (g.input_stride == g.inner) return none(begin, begin + g.inputs * g.inner);
  if (g.inner == 1) return none_of(g.inputs, [&](std::int64_t input) { return begin + input * g.input_stride; });
  for (std::int64_t input = 0; input < g.inputs; ++input)
    if (!none(begin + input * g.input_stride, begin + input * g.input_stride + g.inner)) return false;
  return true;
}

struct EmptyRows {
  static constexpr u32 threads = 256, blocks = 4;
  using Args = Context;
  struct Shared {};
  static BITTERSWEET_DEVICE void body(const Context& c, Shared&) {
    u64 empty = 0;
    u32 t = 0;
    for (auto i = static_cast<std::int64_t>(first_warp()); i < c.output_rows; i += static_cast<std::int64_t>(warps())) {
      while (t + 1 < c.row_count && i >= c.rows[t + 1].output_row) ++t;
      const Row& row = c.rows[t];
      const std::int64_t r = i - row.output_row;
      empty += row_is_empty(row.next, row, r) && !(row.current != nullptr && row_is_empty(row.current, row, r));
    }
    if (lane_id() == 0 && empty > 0) add(&c.report->empty_rows, static_cast<std::int64_t>(empty));
  }
};

template <class L>
void count_live(L& launcher, std::span<const ArrayRow> rows, std::size_t tensors, std::int64_t* live) {
  zero(launcher, live, tensors * sizeof(std::int64_t));
  for_each_table(rows, [&](const ArrayTable& table) {
    launcher.template launch<CountLive>(grid_for<CountLive>((table.tiles + 7) / 8, launcher.processors()),
                                        {live, table});
  });
}

template <class L>
void count_competing(L& launcher, const Context& context, const Work& work) {
  launcher.template launch<CountCompeting>(grid_for<CountCompeting>((work.tiles + 7) / 8, launcher.processors()),
                                           {context, work});
}

template <class L>
void compare_masks(L& launcher, const Context& context, const Work& work) {
  launcher.template launch<CompareMasks>(grid_for<CompareMasks>((work.tiles + 7) / 8, launcher.processors()),
                                         {context, work});
  launcher.template launch<EmptyRows>(
      grid_for<EmptyRows>(static_cast<u64>(context.output_rows + 7) / 8, launcher.processors()), context);
}

}  // namespace bittersweet::cuda
