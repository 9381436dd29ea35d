// tally: candidates of a bracket pass by key and unit, for a selection that several ranks make together. It reads what
// the pass left in the workspace, as many as found room there.
#pragma once

#include "verbs.cuh"

namespace bittersweet::cuda {

struct TallyCandidates {
  static constexpr u32 threads = 256, blocks = 4;
  struct Args {
    Context context;
    const u32* parts;  // per row: unit / width, or no_part
    KeyRange keys;
    std::int64_t* bins;
  };
  struct Shared {};

  static BITTERSWEET_DEVICE void body(const Args& args, Shared&) {
    const Context& c = args.context;
    const device::Attempt& attempt = c.state->attempt[0];
    const u64 count = attempt.inside < c.capacity ? attempt.inside : c.capacity;
    for (u64 begin = first_warp() * 32; begin < count; begin += warps() * 32)
      add_to_bins(args.bins, begin + lane_id() < count ? bin_of(args, attempt, begin + lane_id()) : device::none, 1);
  }

  static BITTERSWEET_DEVICE u64 bin_of(const Args& args, const device::Attempt& attempt, u64 i) {
    const Context& c = args.context;
    const u64 candidate = c.candidates[i];
    const u32 key = attempt.low_key + static_cast<u32>(candidate >> device::position_bits);
    if (!args.keys.holds(key)) return device::none;
    const u64 tile = (candidate & ((u64{1} << device::position_bits) - 1)) / tile_size;
    const u32 part = args.parts[row_of(c.row_count, [&](u32 r) { return c.rows[r].tile <= tile; })];
    if (part == no_part) return device::none;
    return u64{(key - args.keys.first) >> args.keys.shift} * static_cast<u64>(args.keys.parts) + part;
  }
};

template <class L>
void tally(L& launcher, const Context& context, const u32* parts, const KeyRange& keys, std::span<std::int64_t> bins) {
  zero(launcher, bins.data(), bins.size_bytes());
  launcher.template launch<TallyCandidates>(
      grid_for<TallyCandidates>((context.capacity + 255) / 256, launcher.processors()),
      {context, parts, keys, bins.data()});
}

}  // namespace bittersweet::cuda
