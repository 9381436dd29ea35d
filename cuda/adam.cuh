// step_adam: one step of Adam or AdamW with the masks in it. A small kernel raises the counts and leaves every tensor's
// constants in the workspace, so that no block of the pass behind it can meet a count half raised; then one kernel for
// each storage walks the tensors, as many as fit in a launch's arguments.
#pragma once

#include "adam_plan.hpp"
#include "draws.cuh"
#include "neighbours.cuh"

namespace bittersweet::cuda {

BITTERSWEET_DEVICE bool forbidden(const float* found_inf) { return found_inf != nullptr && *found_inf != 0.0f; }

struct PrepareAdam {
  static constexpr u32 threads = 128, blocks = 1;
  static constexpr u32 most_tensors = 480;
  struct Args {
    const float *grad_scale, *found_inf;
    AdamStep* constants;
    u32* dirty;
    u32 count;
    AdamTensor tensors[most_tensors];
  };
  struct Shared {};
  static BITTERSWEET_DEVICE void body(const Args& args, Shared&) {
    const bool skipped = forbidden(args.found_inf);
    const float scale = args.grad_scale != nullptr ? *args.grad_scale : 0.0f;
    for (u64 t = first_thread(); t < args.count; t += all_threads()) {
      args.dirty[t] = 0;
      if (skipped) continue;
      const AdamTensor& tensor = args.tensors[t];
      AdamOptions options = tensor.options;
      if (tensor.lr != nullptr) options.lr = *tensor.lr;
      const float step = *tensor.step + 1.0f;
      *tensor.step = step;
      args.constants[t] = make_adam_step(options, step, scale);
    }
  }
};

template <Storage S>
struct AdamTypes {
  static constexpr DType weight = S == Storage::f32 ? DType::f32 : S == Storage::f16_f32 ? DType::f16 : DType::bf16;
  static constexpr DType state = S == Storage::bf16 ? DType::bf16 : DType::f32;
  static constexpr int width = S == Storage::bf16 ? 8 : 4;
};

template <Storage S, bool Contracted, bool Largest, bool Drawn>
struct AdamPass {
  static constexpr DType W = AdamTypes<S>::weight, M = AdamTypes<S>::state;
  static constexpr int width = Drawn ? 4 : AdamTypes<S>::width;  // the draws of eight have no room in the registers
  static constexpr u32 threads = 256, blocks = 3, most_rows = Drawn ? 330 : 440;
  struct Args {
    const float* found_inf;
    const AdamStep* constants;
    u32* dirty;
    bool weights_only;
    u32 count, tiles;
    AdamRow rows[most_rows];
    AdamDraw draws[Drawn ? most_rows : 1];
  };
  struct Shared {};

  // A number as it is stored: drawn, if it is to be.
  template <int Width>
  struct Rounding {
    Draws<Width> w, m, v;
    BITTERSWEET_DEVICE Rounding(const RoundingKey& key, std::int64_t at)
        : w(adam_key(key, AdamArray::weight), at),
          m(adam_key(key, AdamArray::exp_avg), at),
          v(adam_key(key, AdamArray::exp_avg_sq), at) {}
    BITTERSWEET_DEVICE void operator()(int i, float& weight, float& first, float& second) const {
      weight = stochastic_bf16(weight, w[i]);
      if constexpr (M == DType::bf16) first = stochastic_bf16(first, m[i]), second = stochastic_bf16(second, v[i]);
    }
  };
  struct ToNearest {
    BITTERSWEET_DEVICE ToNearest(const RoundingKey&, std::int64_t) {}
    BITTERSWEET_DEVICE void operator()(int, float&, float&, float&) const {}
  };

  // Neighbours of which some are alive, or their states are, by their keep bits. Was a dead weight not zero?
  template <Contraction C, int Width>
  static BITTERSWEET_DEVICE bool live(const AdamRow& row, const AdamStep& step, const RoundingKey& key, std::int64_t at,
                                      u32 keep, bool weights_only) {
    Neighbours<W, Width> w, g;
    Neighbours<M, Width> m, v, largest;
    w.read(row.w, at);
    g.read(row.g, at);
    m.read(row.m, at);
    v.read(row.v, at);
    if constexpr (Largest) largest.read(row.largest, at);
    const auto set_dead_states = [&](u32 pattern) {
      m.set_dead(keep, pattern), v.set_dead(keep, pattern);
      if constexpr (Largest) largest.set_dead(keep, pattern);
    };
    const bool masked = keep != (1u << Width) - 1;
    const bool dirty = masked && w.has_dead_nonzero(keep);
    const std::conditional_t<Drawn, Rounding<Width>, ToNearest> round(key, at);
    // What is thrown away need not take the slow path of divisions, as zeros may.
    if (masked && !weights_only) set_dead_states(Neighbours<M, Width>::ones);
#pragma unroll
    for (int i = 0; i < Width; ++i) {
      float weight = w[i], gradient = g[i], first = m[i], second = v[i], most = Largest ? largest[i] : 0.0f;
      adam<C>(step, weight, gradient, first, second, Largest ? &most : nullptr);
      round(i, weight, first, second);
      w.set(i, weight);
      m.set(i, first);
      v.set(i, second);
      if constexpr (Largest) largest.set(i, most);
      if (step.scaled) g.set(i, gradient);
    }
    if (masked) w.set_dead(keep, 0);
    if (masked && !weights_only) set_dead_states(0);
    w.write(row.w, at);
    m.write(row.m, at);
    v.write(row.v, at);
    if constexpr (Largest) largest.write(row.largest, at);
    if (step.scaled) g.write(row.g, at);
    return dirty;
  }

  // Neighbours that are all dead: nothing is read of them but what the contract asks for.
  template <int Width>
  static BITTERSWEET_DEVICE bool dead(const AdamRow& row, const AdamStep& step, std::int64_t at) {
    if (step.scaled) {
      Neighbours<W, Width> g;
      g.read(row.g, at);
#pragma unroll
      for (int i = 0; i < Width; ++i) g.set(i, g[i] / step.scale);
      g.write(row.g, at);
    }
    if (row.trusted) return false;
    Neighbours<W, Width> w;
    w.read(row.w, at);
    Neighbours<W, Width>{}.write(row.w, at);
    constexpr Neighbours<M, Width> zeros{};
    zeros.write(row.m, at);
    zeros.write(row.v, at);
    if constexpr (Largest) zeros.write(row.largest, at);
    return w.has_dead_nonzero(0);
  }

  template <Contraction C, int Width>
  static BITTERSWEET_DEVICE bool group(const Args& args, const AdamRow& row, const AdamStep& step,
                                       const RoundingKey& key, std::int64_t at, u32 keep) {
    if (keep != 0 || args.weights_only) return live<C, Width>(row, step, key, at, keep, args.weights_only);
    return dead<Width>(row, step, at);
  }

  static BITTERSWEET_DEVICE void tile(const Args& args, const AdamRow& row, const RoundingKey& key, u32 number) {
    constexpr Contraction body = Contracted ? Contraction::fused : Contraction::none;
    constexpr Contraction rest = Contracted ? Contraction::fused_rest : Contraction::none;
    const u32 lane = lane_id();
    const std::int64_t begin = std::int64_t{number} * tile_size, body_end = row.numel - row.rest;
    const std::int64_t end = begin + tile_size < row.numel ? begin + tile_size : row.numel;
    const AdamStep step = args.constants[row.tensor];
    const u32 keep = transpose<width>(mask_word(row.mask, row.numel, begin / 32 + word_of_lane<width>(lane)));
    bool dirty = false;
    std::int64_t singles = begin;
    if (row.vectors) {
#pragma unroll 1
      for (u32 s = 0; s < 32 / width; ++s) {
        const std::int64_t at = begin + s * 32 * width + lane * width;
        if (at + width <= body_end)
          dirty |= group<body, width>(args, row, step, key, at, keep >> (s * width) & ((1u << width) - 1));
      }
      const std::int64_t whole = (body_end < end ? body_end : end) - begin;
      if (whole > 0) singles += whole / width * width;
    }
    for (std::int64_t at = singles + lane; at < end; at += 32) {
      const u32 bit = row.mask == nullptr ? 1u : words32(row.mask)[at / 32] >> (at % 32) & 1u;
      dirty |=
          at < body_end ? group<body, 1>(args, row, step, key, at, bit) : group<rest, 1>(args, row, step, key, at, bit);
    }
    if (__ballot_sync(everyone, dirty) != 0 && lane == 0) atomicMax(args.dirty + row.tensor, 1u);
  }

  static BITTERSWEET_DEVICE void body(const Args& args, Shared&) {
    if (forbidden(args.found_inf)) return;
    u32 row = 0;
    for (u64 t = first_warp(); t < args.tiles; t += warps()) {
      while (row + 1 < args.count && t >= args.rows[row + 1].first) ++row;
      RoundingKey key;
      if constexpr (Drawn) {
        key = args.draws[row].key;
        key.step = static_cast<u32>(static_cast<std::int64_t>(*args.draws[row].step));
      }
      tile(args, args.rows[row], key, static_cast<u32>(t) - args.rows[row].first);
    }
  }
};

template <Storage S, bool Contracted, bool Largest, bool Drawn, class L>
void adam_pass(L& launcher, const AdamPlan& plan, const AdamRows& tensors) {
  using K = AdamPass<S, Contracted, Largest, Drawn>;
  const std::span<const AdamRow> rows(tensors.rows);
  for (std::size_t first = 0; first < rows.size(); first += K::most_rows) {
    typename K::Args args{plan.found_inf, plan.constants, plan.dirty, plan.weights_only, 0, 0, {}, {}};
    for (AdamRow row : rows.subspan(first, std::min<std::size_t>(K::most_rows, rows.size() - first))) {
      row.first = args.tiles;
      args.tiles += tiles_of(row.numel);
      if constexpr (Drawn) args.draws[args.count] = tensors.draws[first + args.count];
      args.rows[args.count++] = row;
    }
    launcher.template launch<K>(grid_for<K>((args.tiles + 7) / 8, launcher.processors()), args);
  }
}

template <bool Contracted, class L>
void adam_passes(L& launcher, const AdamPlan& plan) {
  [&]<std::size_t... I>(std::index_sequence<I...>) {
    (adam_pass<adam_storages[I], Contracted, false, false>(launcher, plan, plan.tensors_of[I][0][0]), ...);
    (adam_pass<adam_storages[I], Contracted, true, false>(launcher, plan, plan.tensors_of[I][1][0]), ...);
  }(std::make_index_sequence<adam_storages.size()>());
}

template <Storage S, bool Contracted, class L>
void adam_drawn_passes(L& launcher, const AdamPlan& plan, const AdamRows (&tensors)[2][2]) {
  adam_pass<S, Contracted, false, true>(launcher, plan, tensors[0][1]);
  adam_pass<S, Contracted, true, true>(launcher, plan, tensors[1][1]);
}

// Tensors whose bf16 arrays are drawn.
template <class L>
void adam_drawn(L& launcher, const AdamPlan& plan) {
  const auto &bf16 = plan.tensors_of[1], &pairs = plan.tensors_of[2];
  static_assert(adam_storages[1] == Storage::bf16 && adam_storages[2] == Storage::bf16_f32);
  if (plan.contracted) {
    adam_drawn_passes<Storage::bf16, true>(launcher, plan, bf16);
    adam_drawn_passes<Storage::bf16_f32, true>(launcher, plan, pairs);
  } else {
    adam_drawn_passes<Storage::bf16, false>(launcher, plan, bf16);
    adam_drawn_passes<Storage::bf16_f32, false>(launcher, plan, pairs);
  }
}

inline constexpr std::size_t most_argument_bytes = 32764;
static_assert(sizeof(PrepareAdam::Args) <= most_argument_bytes);
static_assert(sizeof(AdamPass<Storage::f32, true, true, false>::Args) <= most_argument_bytes);
static_assert(sizeof(AdamPass<Storage::bf16, true, true, true>::Args) <= most_argument_bytes);

template <class L>
void step_adam(L& launcher, const AdamPlan& plan) {
  using Prepare = PrepareAdam;
  for (std::size_t first = 0; first < plan.tensors.size(); first += Prepare::most_tensors) {
    Prepare::Args args{plan.grad_scale, plan.found_inf, plan.constants + first, plan.dirty + first, 0, {}};
    args.count = static_cast<u32>(std::min<std::size_t>(Prepare::most_tensors, plan.tensors.size() - first));
    std::copy_n(plan.tensors.begin() + static_cast<std::ptrdiff_t>(first), args.count, args.tensors);
    launcher.template launch<Prepare>((args.count + Prepare::threads - 1) / Prepare::threads, args);
  }
  plan.contracted ? adam_passes<true>(launcher, plan) : adam_passes<false>(launcher, plan);
  adam_drawn(launcher, plan);
}

}  // namespace bittersweet::cuda
