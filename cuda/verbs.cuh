// What the pipeline asks of the verbs: each is defined in <verb>.cuh for any launcher, and instantiated for the stream
// of a device in <verb>.cu, for the emulator in tests/support.
//
// A launcher has launch<Kernel>(grid, args), in order of calls, and processors(). A kernel is a struct with Args,
// Shared, threads, blocks (per processor, for the compiler and persistent grids) and static body(args, shared).
#pragma once

#include "tile.cuh"

namespace bittersweet::cuda {

// One selection of several that a set of launches makes side by side: one tensor.
struct Unit {
  u64 sample, candidates;  // where its parts of those begin
  u64 capacity;
  std::int64_t total;
  u32 row, tiles, lines;
  u32 tie_group;            // the first of its sums of ties
  u32 first_block, blocks;  // of every launch that is shared out by unit
  Piece piece;              // all its tiles
};

// Of one tensor: how many of it may go, dead elements included, and how many lie under the cut. Integers throughout.
struct BoundRow {
  std::int64_t least, most;
  std::int64_t under;  // pruned by what is known of the cut so far
  std::int64_t equal;  // scores that equal the cut's; -1: a bound decides about this tensor
  std::int64_t nan;
};

// The cut through all scores at which counts within bounds sum to the budget.
struct BoundCut {
  u32 active;   // is a tensor beyond its bounds?
  u32 nothing;  // no score is to go beyond what the bounds ask for
  u32 prefix;   // of its key
  u32 pad;
  std::int64_t target;  // what the counts are to sum to
};

// The parts of a step's memory, and its options. Passed to every kernel by value. Where `units` is null one selection
// goes over all rows; else each of them has one of its own, and kernels see it by enter().
struct Context {
  device::State* state;  // one a unit
  u32* sample;           // keys
  u64* candidates;       // `capacity` of them
  u32* tile_ties;        // per tile: ties at the low end (or zeros below it), and at the high end << 16
  u64* tie_groups;       // sums of those of `group_tiles` tiles
  const Row* rows;
  StepReport* report;  // of the step; where there are units, the first row's of one each
  std::int64_t* tensor_pruned;
  const std::int64_t* k;
  std::int64_t total, output_rows;
  std::uint64_t capacity;
  std::uint64_t seed;
  u32 row_count, tiles, lines;
  Ties ties;
  NonFinite nonfinite;
  bool non_negative;
  bool masks;
  bool ordered;  // is any tensor's memory not row-major?
  const Unit* units;
  const u32* unit_of_block;
  const u32* gate;  // 0 in device memory: these launches have nothing to do; null: they have
  u32 unit_blocks;  // in a launch that is shared out by unit
  u32 first_tile;   // of this unit
};

BITTERSWEET_DEVICE bool idle(const Context& c) { return c.gate != nullptr && *c.gate == 0; }

// Makes the context that of this block's own unit, and says which part of its blocks it is.
BITTERSWEET_DEVICE Part enter(Context& c) {
  if (c.units == nullptr) return {blockIdx.x, gridDim.x};
  const u32 number = c.unit_of_block[blockIdx.x];
  const Unit& unit = c.units[number];
  c.units += number;
  c.state += number;
  c.sample += unit.sample;
  c.candidates += unit.candidates;
  c.capacity = unit.capacity;
  c.total = unit.total;
  c.lines = unit.lines;
  c.tiles = unit.tiles;
  c.rows += unit.row;
  c.row_count = 1;
  c.k += unit.row;
  c.report += unit.row;
  c.first_tile = c.rows->tile;
  c.tile_ties += c.first_tile;
  c.tie_groups += unit.tie_group;
  return {blockIdx.x - unit.first_block, unit.blocks};
}

// All tiles of the unit that was entered, out of those of all rows.
BITTERSWEET_DEVICE Work work_of(const Context& c, const Work& all) {
  if (c.units == nullptr) return all;
  return {c.rows, &c.units->piece, 1, c.tiles};
}

inline u32 tiles_of(std::int64_t numel) { return static_cast<u32>((numel + tile_size - 1) / tile_size); }

inline constexpr u32 range_levels = 3;  // passes of histogram
inline constexpr u32 group_tiles = 1024;
inline constexpr u32 no_part = ~0u;  // of a row whose candidates tally() does not count

// How the tiles of a model are shared out: those that vectors can read, by storage, and all others.
enum class Storage : u32 { f32, bf16, f16, bf16_f32, f16_f32, any };
inline constexpr int storages = 6;

struct Plan {
  Work work[storages];  // of the bracket
  Work all;             // every tile
};

template <class K>
u32 grid_for(u64 units, u32 processors) {  // of a persistent grid; `units` is what a block takes at once
  const u64 most = u64{processors} * K::blocks;
  return static_cast<u32>(units < 1 ? 1 : units < most ? units : most);
}

// A launch that is shared out by unit, or has `blocks` for the one there is.
template <class K, class L>
void launch_units(L& launcher, const Context& context, u64 blocks, const typename K::Args& args) {
  launcher.template launch<K>(context.units ? context.unit_blocks : grid_for<K>(blocks, launcher.processors()), args);
}

template <class L>
void sample(L& launcher, const Scorer& scorer, const Context& context);
template <class L>
void guess(L& launcher, const Context& context);
template <class L>
void bracket(L& launcher, const Scorer& scorer, const Context& context, const Plan& plan, u32 attempt);
template <class L>
void tally(L& launcher, const Context& context, const u32* parts, const KeyRange& keys, std::span<std::int64_t> bins);
template <class L>
void count_runs(L& launcher, const Scorer& scorer, const Row& row, float value, const RunRange& runs,
                std::span<std::int64_t> bins);
template <class L>
void gather(L& launcher, const Scorer& scorer, const Work& work, u32 row_count, u32 width, u64 count,
            const std::int64_t* places, float* scores);
template <class L>
void digit_bins(L& launcher, const Scorer& scorer, const Work& work, const Digit& digit, std::span<std::int64_t> bins);
template <class L>
void histogram(L& launcher, const Scorer& scorer, const Context& context, const Work& work, u32 level);
template <class L>
void plan_retry(L& launcher, const Context& context);
template <class L>
void select_candidates(L& launcher, const Context& context);
template <class L>
void place_candidates(L& launcher, const Context& context);
template <class L>
void find_nan(L& launcher, const Scorer& scorer, const Context& context, const Work& work,
              const std::uint64_t* drawn = nullptr);
template <class L>
void order_ties(L& launcher, const Scorer& scorer, const Context& context, const Work& work);
template <class L>
void write_mask(L& launcher, const Scorer& scorer, const Context& context, const Work& work);
template <class L>
void write_scores(L& launcher, const Scorer& scorer, std::span<const Row> rows);

struct Zero {  // integers in device memory
  static constexpr u32 threads = 256, blocks = 2;
  struct Args {
    u32* words;
    u64 count;
  };
  struct Shared {};
  static BITTERSWEET_DEVICE void body(const Args& args, Shared&) {
    for (u64 i = first_thread(); i < args.count; i += all_threads()) args.words[i] = 0;
  }
};

template <class L>
void zero(L& launcher, void* data, std::size_t bytes) {
  if (bytes > 0)
    launcher.template launch<Zero>(grid_for<Zero>((bytes / 4 + 1023) / 1024, launcher.processors()),
                                   {static_cast<u32*>(data), bytes / 4});
}

}  // namespace bittersweet::cuda
