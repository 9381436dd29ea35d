// The share of exp_avg_sq below eps and at zero, as flow::report_second_moment takes it: all of a small model, else
// 2048 runs of 32 neighbours at the same hashed places.
#pragma once

#include "sample.cuh"

namespace bittersweet::cuda {

struct SecondMoments {
  static constexpr u32 threads = 256, blocks = 2;
  static constexpr int width = LineSample::width;
  static constexpr std::int64_t lines = 2048;
  struct Args {
    Context context;
    float eps;
    int slot;  // of exp_avg_sq in Row::in
  };
  struct Shared {};

  static BITTERSWEET_DEVICE void body(const Args& args, Shared&) {
    const Context& c = args.context;
    const bool whole = c.total <= lines * width;
    const u64 count = static_cast<u64>(whole ? c.total : lines * width);
    u64 live = 0, under = 0, zero = 0;
    for (u64 i = first_thread(); i < count; i += all_threads()) {
      u32 number = 0;
      std::int64_t index = 0;
      if (whole) {
        number = row_of(c.row_count, [&](u32 r) { return c.rows[r].offset <= static_cast<std::int64_t>(i); });
        index = static_cast<std::int64_t>(i) - c.rows[number].offset;
        const std::uint64_t* const mask = c.rows[number].live;
        if (mask != nullptr && (words32(mask)[index / 32] >> (index % 32) & 1u) == 0) continue;
      } else if (!sampled(c.rows, c.row_count, c.total, lines, width, 0, static_cast<std::int64_t>(i) / width,
                          static_cast<int>(i % width), number, index)) {
        continue;
      }
      const Row& row = c.rows[number];
      const float v = load_as_float(row.in[args.slot], row.dtype[args.slot], index);
      live += v == v;
      under += v < args.eps;
      zero += v == 0.0f;
    }
    add_warp(&c.report->v_sampled, live);
    add_warp(&c.report->v_below_eps, under);
    add_warp(&c.report->v_zero, zero);
  }
};

template <class L>
void second_moments(L& launcher, const Scorer& scorer, const Context& context) {
  std::visit(
      [&](const auto& s) {
        using In = Slots<std::decay_t<decltype(s)>>;
        if constexpr (In::has(reads::exp_avg_sq)) {
          SecondMoments::Args args{context, 0.0f, In::of(reads::exp_avg_sq)};
          if constexpr (requires { s.eps; }) args.eps = s.eps;
          launcher.template launch<SecondMoments>(grid_for<SecondMoments>(64, launcher.processors()), args);
        }
      },
      scorer);
}

}  // namespace bittersweet::cuda
