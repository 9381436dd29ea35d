// One digit of all live keys, in bins of device memory: the radix search of several ranks, which all count the same
// digit. Idle unless their bracket missed.
#pragma once

#include "verbs.cuh"

namespace bittersweet::cuda {

template <class S>
struct DigitBins {
  static constexpr u32 threads = 256, blocks = 4;
  struct Args {
    Work work;
    Digit digit;
    std::int64_t* bins;
    S scorer;
  };
  struct Shared {};

  static BITTERSWEET_DEVICE void body(const Args& args, Shared&) {
    const u32 lane = lane_id();
    for_each_tile(args.work, [&](const Row& row, u32, u32 tile) {
      const u32 live = mask_word(row.live, row.numel, std::int64_t{tile} * tile_words + lane);
      for (u32 j = 0; j < tile_words; ++j) {
        const bool there = (__shfl_sync(everyone, live, j) >> lane & 1u) != 0;
        const std::int64_t index = std::int64_t{tile} * tile_size + j * 32 + lane;
        const u32 key = there ? key_of(score_any(args.scorer, row, index)) : 0;
        add_to_bins(args.bins, there && args.digit.matches(key) ? u64{args.digit.bin(key)} : device::none, 1);
      }
    });
  }
};

template <class L>
void digit_bins(L& launcher, const Scorer& scorer, const Work& work, const Digit& digit, std::span<std::int64_t> bins) {
  zero(launcher, bins.data(), bins.size_bytes());
  if (work.tiles == 0) return;
  std::visit(
      [&](const auto& s) {
        using K = DigitBins<std::decay_t<decltype(s)>>;
        launcher.template launch<K>(grid_for<K>((work.tiles + 7) / 8, launcher.processors()),
                                    {work, digit, bins.data(), s});
      },
      scorer);
}

}  // namespace bittersweet::cuda
