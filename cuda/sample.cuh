// sample: keys of scores at hashed places, runs of device::sample_width neighbours (32 bytes of f32: one sector), one
// run in each of equal stretches of the sequence.
#pragma once

#include "verbs.cuh"

namespace bittersweet::cuda {

// Where element `c` of line `line` of a sample is; false where there is none that competes.
BITTERSWEET_DEVICE bool sampled(const Row* rows, u32 row_count, std::int64_t total, std::int64_t lines, int width,
                                std::uint64_t seed, std::int64_t line, int c, u32& row, std::int64_t& index) {
  const auto begin_of = [&](std::int64_t j) {  // stretch() of summaries.hpp
    const std::int64_t rest = total % lines;
    return j * (total / lines) + (j < rest ? j : rest);
  };
  const auto random = philox(static_cast<std::uint64_t>(line) / 4, seed, Purpose::bracket_sample);
  const u32 number = line % 4 == 0 ? random[0] : line % 4 == 1 ? random[1] : line % 4 == 2 ? random[2] : random[3];
  const std::int64_t begin = begin_of(line), end = begin_of(line + 1);
  const std::int64_t position =
      rows[0].offset + begin + (end > begin ? static_cast<std::int64_t>(number) % (end - begin) : 0);
  row = row_of(row_count, [&](u32 r) { return rows[r].offset <= position; });
  index = position - rows[row].offset;
  index += c - index % width;
  return index < rows[row].numel &&
         (rows[row].live == nullptr || ((words32(rows[row].live)[index / 32] >> (index % 32)) & 1u) != 0);
}

template <class S>
struct Sample {
  static constexpr u32 threads = 256, blocks = 4;
  struct Args {
    Context context;
    S scorer;
  };
  struct Shared {};

  static BITTERSWEET_DEVICE void body(const Args& args, Shared&) {
    Context c = args.context;
    if (idle(c)) return;
    const Part part = enter(c);
    const u64 count = u64{c.lines} * device::sample_width;
    for (u64 i = part.first_thread(); i < count; i += part.threads()) {
      u32 row = 0, key = key_of_nan;
      std::int64_t index = 0;
      if (sampled(c.rows, c.row_count, c.total, c.lines, device::sample_width, c.seed,
                  static_cast<std::int64_t>(i / device::sample_width), static_cast<int>(i % device::sample_width), row,
                  index))
        key = key_of(score_any(args.scorer, c.rows[row], index));
      c.sample[i] = key;
    }
  }
};

template <class L>
void sample(L& launcher, const Scorer& scorer, const Context& context) {
  std::visit(
      [&](const auto& s) {
        using K = Sample<std::decay_t<decltype(s)>>;
        const u64 blocks = (u64{context.lines} * device::sample_width + K::threads - 1) / K::threads;
        launch_units<K>(launcher, context, blocks, {context, s});
      },
      scorer);
}

}  // namespace bittersweet::cuda
