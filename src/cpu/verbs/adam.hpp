// The optimizer's step under a mask. All results of 64 elements come before their stores, array after array, because
// arrays at the same place of their pages would otherwise wait for each other's stores.
#pragma once

#include <type_traits>

#include "bittersweet/optim/adam.hpp"
#include "cpu/kernels.hpp"
#include "cpu/verbs/adam_rounding.hpp"

namespace bittersweet {
namespace {

// f32, bf16 or f16 by the C++ type of their bits.
inline float widen(float x) { return x; }
inline float widen(std::uint16_t x) { return bf16_to_float(x); }
inline float widen(Half x) { return f16_to_float(x.bits); }
inline void narrow(float x, float& out) { out = x; }
inline void narrow(float x, std::uint16_t& out) { out = float_to_bf16(x); }
inline void narrow(float x, Half& out) { out.bits = float_to_f16(x); }

// Arrays of one chunk, from some element on. W: weights and gradients; S: states.
template <class W, class S>
struct AdamPlace {
  W *w, *g;
  S *m, *v, *largest;
  std::int64_t index;  // in the tensor

  BITTERSWEET_INLINE AdamPlace from(std::int64_t i) const {
    return {w + i, g + i, m + i, v + i, largest == nullptr ? nullptr : largest + i, index + i};
  }
  BITTERSWEET_INLINE void ask(std::int64_t ahead) const {
    prefetch(w, ahead);
    prefetch(g, ahead);
    prefetch(m, ahead);
    prefetch(v, ahead);
    if (largest != nullptr) prefetch(largest, ahead);
  }
};

template <Contraction C, bool Largest, class R, class W, class S>
class AdamPass {
 public:
  AdamPass(const AdamStep& step, const cpu::AdamChunk& chunk)
      : step_(step), weights_only_(chunk.weights_only), rounds_(chunk.draw) {}

  BITTERSWEET_INLINE void word(const AdamPlace<W, S>& at, std::uint64_t keep) {
    Vec w[vectors_per_word], m[vectors_per_word], v[vectors_per_word], largest[vectors_per_word];
    const bool masked = keep != ~std::uint64_t{0};
#pragma GCC unroll 8
    for (int k = 0; k < vectors_per_word; ++k) {
      if (masked)
        held(at, k, w[k], m[k], v[k], largest[k], lanes_on(keep, k));
      else
        compute(at, k, load(at.w, k * lanes), w[k], m[k], v[k], largest[k]);
    }
    const auto rounding = rounds_.word(at.index);
    rounding.template store<AdamArray::weight>(at.w, w);
    rounding.template store<AdamArray::exp_avg>(at.m, m);
    rounding.template store<AdamArray::exp_avg_sq>(at.v, v);
    if constexpr (Largest) store_word(at.largest, largest);
  }

  // Those vectors of a word that have a live element.
  BITTERSWEET_INLINE void live_vectors(const AdamPlace<W, S>& at, std::uint64_t keep) {
    const auto rounding = rounds_.word(at.index);
    for (int k = 0; k < vectors_per_word; ++k) {
      if ((keep >> (k * lanes) & ((std::uint64_t{1} << lanes) - 1)) == 0) continue;
      Vec w, m, v, largest;
      held(at, k, w, m, v, largest, lanes_on(keep, k));
      rounding.vector(k, w, m, v);
      store(at.w, k * lanes, w);
      store(at.m, k * lanes, m);
      store(at.v, k * lanes, v);
      if constexpr (Largest) store(at.largest, k * lanes, largest);
    }
  }

  const R& rounds() const { return rounds_; }
  bool dirty() const {
    std::int32_t any = 0;
    for (int lane = 0; lane < lanes; ++lane) any |= dirty_[lane];
    return (any & 0x7fffffff) != 0;
  }

 private:
  BITTERSWEET_INLINE void held(const AdamPlace<W, S>& at, int k, Vec& w, Vec& m, Vec& v, Vec& largest, LaneMask on) {
    const Vec before = load(at.w, k * lanes);
    dirty_ |= as_bits(dropped(before, on));
    compute(at, k, before, w, m, v, largest);
    w = kept(w, on);
    if (weights_only_) return;
    m = kept(m, on);
    v = kept(v, on);
    if constexpr (Largest) largest = kept(largest, on);
  }

  BITTERSWEET_INLINE void compute(const AdamPlace<W, S>& at, int k, Vec before, Vec& w, Vec& m, Vec& v, Vec& largest) {
    w = before;
    Vec g = load(at.g, k * lanes);
    m = load(at.m, k * lanes);
    v = load(at.v, k * lanes);
    if constexpr (Largest) largest = load(at.largest, k * lanes);
    adam<C>(step_, w, g, m, v, Largest ? &largest : nullptr);
    if (step_.scaled) store(at.g, k * lanes, g);
  }

  const AdamStep step_;
  const bool weights_only_;
  const R rounds_;
  IntVector dirty_{};
};

// The elements behind the last whole word: vectors on a copy, then one by one those of the scalar loop.
template <Contraction C, bool Largest, class R, class W, class S>
bool adam_end(AdamPass<C, Largest, R, W, S>& pass, const AdamStep& step, const AdamPlace<W, S>& at, std::uint64_t keep,
              std::int64_t count, const cpu::AdamChunk& chunk) {
  alignas(64) W w[bits::per_word]{}, g[bits::per_word]{};
  alignas(64) S m[bits::per_word]{}, v[bits::per_word]{}, largest[bits::per_word]{};
  const std::int64_t whole = count - chunk.rest;
  std::copy_n(at.w, whole, w);
  std::copy_n(at.g, whole, g);
  std::copy_n(at.m, whole, m);
  std::copy_n(at.v, whole, v);
  if constexpr (Largest) std::copy_n(at.largest, whole, largest);
  pass.word({w, g, m, v, Largest ? largest : nullptr, at.index}, keep);
  std::copy_n(w, whole, at.w);
  std::copy_n(m, whole, at.m);
  std::copy_n(v, whole, at.v);
  if constexpr (Largest) std::copy_n(largest, whole, at.largest);
  if (step.scaled) std::copy_n(g, whole, at.g);

  constexpr Contraction one_by_one = C == Contraction::none ? C : Contraction::fused_rest;
  bool dirty = false;
  for (std::int64_t i = whole; i < count; ++i) {
    float x = widen(at.w[i]), d = widen(at.g[i]), first = widen(at.m[i]), second = widen(at.v[i]);
    float most = Largest ? widen(at.largest[i]) : 0.0f;
    const bool live = (keep >> i & 1u) != 0;
    dirty |= !live && x != 0.0f;
    adam<one_by_one>(step, x, d, first, second, Largest ? &most : nullptr);
    x = pass.rounds().one(x, AdamArray::weight, at.index + i);
    first = pass.rounds().one(first, AdamArray::exp_avg, at.index + i);
    second = pass.rounds().one(second, AdamArray::exp_avg_sq, at.index + i);
    narrow(live ? x : 0.0f, at.w[i]);
    const bool state_lives = live || chunk.weights_only;
    narrow(state_lives ? first : 0.0f, at.m[i]);
    narrow(state_lives ? second : 0.0f, at.v[i]);
    if constexpr (Largest) narrow(state_lives ? most : 0.0f, at.largest[i]);
    if (step.scaled) narrow(d, at.g[i]);
  }
  return dirty;
}

template <Contraction C, bool Largest, class R, class W, class S>
bool adam_pass(const AdamStep& step, const cpu::AdamChunk& chunk) {
  const AdamPlace<W, S> at{static_cast<W*>(chunk.w), static_cast<W*>(chunk.g),       static_cast<S*>(chunk.m),
                           static_cast<S*>(chunk.v), static_cast<S*>(chunk.largest), chunk.first};
  AdamPass<C, Largest, R, W, S> pass(step, chunk);
  const std::int64_t whole = chunk.count / bits::per_word, rest = chunk.count % bits::per_word;
  const auto keep = [&](std::int64_t word) { return bits::live(chunk.keep, chunk.count, word); };
  const std::int64_t ahead = cpu::asked_ahead();
  if (chunk.skip == cpu::Skip::nothing) {
    for (std::int64_t word = 0; word < whole; ++word) {
      const auto here = at.from(word * bits::per_word);
      here.ask(ahead);
      pass.word(here, keep(word));
    }
  } else {
    const bool by_lines = chunk.skip == cpu::Skip::lines;
    for (std::int64_t word = 0; word < whole; ++word) {
      const auto here = at.from(word * bits::per_word);
      const std::int64_t asked = word + ahead / bits::per_word;
      if (asked >= whole || keep(asked) != 0) here.ask(ahead);  // what follows may be the next chunk's
      if (const std::uint64_t live = keep(word); live == 0)
        continue;
      else if (by_lines)
        pass.live_vectors(here, live);
      else
        pass.word(here, live);
    }
  }
  const bool dirty = rest > 0 && adam_end(pass, step, at.from(whole * bits::per_word), keep(whole), rest, chunk);
  return pass.dirty() || dirty;
}

template <bool Contracted, class W, class S>
bool adam_chunk(const AdamStep& step, const cpu::AdamChunk& chunk) {
  constexpr Contraction c = Contracted ? Contraction::fused : Contraction::none;
  const auto pass = [&]<class R>() {
    return chunk.largest != nullptr ? adam_pass<c, true, R, W, S>(step, chunk)
                                    : adam_pass<c, false, R, W, S>(step, chunk);
  };
  if constexpr (std::is_same_v<W, std::uint16_t>)
    if (chunk.draw != nullptr) return pass.template operator()<Drawn<std::is_same_v<S, std::uint16_t>>>();
  return pass.template operator()<ToNearest>();
}

}  // namespace
}  // namespace bittersweet
