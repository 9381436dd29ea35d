// The passes of scorers with a memory, a block at a time. Sums are doubles in the 16 lanes that track.hpp states; all
// loads of 64 elements come before their stores, because arrays at the same place of their pages would otherwise wait
// for each other's stores.
#pragma once

#include "bittersweet/engine/track.hpp"
#include "bittersweet/mask/bit_layout.hpp"
#include "cpu/kernels.hpp"
#include "cpu/simd.hpp"

namespace bittersweet {
namespace {

using DoubleVector = double __attribute__((vector_size(4 * BITTERSWEET_LANES)));  // half as many lanes as a Vec
constexpr int double_lanes = lanes / 2;

struct Wide {  // a Vec in double
  DoubleVector low, high;
};

BITTERSWEET_INLINE Wide widen(Vec a) {
#if BITTERSWEET_LANES == 16
  return {_mm512_cvtps_pd(_mm512_castps512_ps256(a.x)), _mm512_cvtps_pd(_mm512_extractf32x8_ps(a.x, 1))};
#elif BITTERSWEET_LANES == 8
  return {_mm256_cvtps_pd(_mm256_castps256_ps128(a.x)), _mm256_cvtps_pd(_mm256_extractf128_ps(a.x, 1))};
#else
  return {DoubleVector{a.x[0], a.x[1]}, DoubleVector{a.x[2], a.x[3]}};
#endif
}

// sum + a * b, rounded once or twice alike: the product of two floats is exact in double.
BITTERSWEET_INLINE DoubleVector multiply_add(DoubleVector a, DoubleVector b, DoubleVector sum) {
#if BITTERSWEET_LANES == 16
  return _mm512_fmadd_pd(a, b, sum);
#elif BITTERSWEET_LANES == 8
  return _mm256_fmadd_pd(a, b, sum);
#else
  return sum + a * b;
#endif
}

// 16 running sums. The vectors of 64 elements take turns: vector k begins at lane k * lanes mod 16.
struct Sums {
  DoubleVector part[Moments::lanes / double_lanes]{};

  BITTERSWEET_INLINE void add(int k, Wide a) {
    const int first = 2 * k % (Moments::lanes / double_lanes);
    part[first] += a.low;
    part[first + 1] += a.high;
  }
  BITTERSWEET_INLINE void add(int k, Wide a, Wide b) {
    const int first = 2 * k % (Moments::lanes / double_lanes);
    part[first] = multiply_add(a.low, b.low, part[first]);
    part[first + 1] = multiply_add(a.high, b.high, part[first + 1]);
  }

  double fold() const {
    std::array<double, Moments::lanes> lane;
    std::memcpy(lane.data(), part, sizeof part);
    return fold_lanes(lane);
  }
};

BITTERSWEET_INLINE Vec finite_or_zero(Vec a) {
  const FloatVector zero{};
  return {abs(a).x < zero + std::numeric_limits<float>::infinity() ? a.x : zero};
}

// Do the signs differ? The sign of 0 is 0.
BITTERSWEET_INLINE Mask signs_differ(Vec a, Vec b) {
  const Vec zero = splat(0.0f);
  return static_cast<Mask>((less(zero, a) ^ less(zero, b)) | (less(a, zero) ^ less(b, zero)));
}

// f(live bits, first, 64 or fewer elements) for every word of a block.
template <class F>
BITTERSWEET_INLINE void for_each_live_word(const cpu::TrackBlock& block, F&& f) {
  for (std::int64_t first = 0; first < block.count; first += bits::per_word) {
    const std::int64_t word = first / bits::per_word;
    f(bits::live(block.live, block.count, word) & bits::valid(block.count, word), first,
      std::min(bits::per_word, block.count - first));
  }
}

// Copies of the last few elements of arrays, padded with zeros to a word.
template <std::size_t N>
struct PaddedWord {
  alignas(64) float data[N][bits::per_word] = {};
  const float* copy(std::size_t slot, const float* from, std::int64_t count) {
    std::copy_n(from, count, data[slot]);
    return data[slot];
  }
};

struct CoherenceSums {
  TrackSums counts;
  Sums xy, xx, yy, r;

  BITTERSWEET_INLINE void add(std::uint64_t live, const float* w, float* previous, float* average, float decay) {
    Vec weights[vectors_per_word], averages[vectors_per_word];
    Mask flips[vectors_per_word];
#pragma GCC unroll 4
    for (int k = 0; k < vectors_per_word; ++k) {
      const Vec now = where(live, k, load(w, k * lanes));
      const Vec x = where(live, k, load(w, k * lanes) - load(previous, k * lanes));
      const Vec y = where(live, k, load(average, k * lanes));
      flips[k] = signs_differ(x, y);
      const Wide wide_x = widen(x), wide_y = widen(y);
      xy.add(k, wide_x, wide_y);
      xx.add(k, wide_x, wide_x);
      yy.add(k, wide_y, wide_y);
      r.add(k, widen(abs(x)));
      weights[k] = now;
      averages[k] = next_average(y, x, decay);
    }
    for (int k = 0; k < vectors_per_word; ++k) store(previous, k * lanes, weights[k]);
    for (int k = 0; k < vectors_per_word; ++k) store(average, k * lanes, averages[k]);
    counts.live += bits::count(live);
    counts.flips += bits::count(pack(flips));
  }
};

inline TrackSums coherence_block(const cpu::TrackBlock& block, float decay) {
  CoherenceSums sums;
  for_each_live_word(block, [&](std::uint64_t live, std::int64_t first, std::int64_t count) {
    for (const float* array :
         {block.w, static_cast<const float*>(block.previous), static_cast<const float*>(block.average)})
      prefetch(array + first, block.ahead);
    if (count == bits::per_word)
      return sums.add(live, block.w + first, block.previous + first, block.average + first, decay);
    PaddedWord<3> rest;
    rest.copy(1, block.previous + first, count);
    rest.copy(2, block.average + first, count);
    sums.add(live, rest.copy(0, block.w + first, count), rest.data[1], rest.data[2], decay);
    std::copy_n(rest.data[1], count, block.previous + first);
    std::copy_n(rest.data[2], count, block.average + first);
  });
  TrackSums total = sums.counts;
  total.xy = sums.xy.fold();
  total.xx = total.rr = sums.xx.fold();  // r = |x|
  total.yy = sums.yy.fold();
  total.r = sums.r.fold();
  return total;
}

// x, what the weight gained since a snapshot, against y = -m, and the jitter of the root of v. Or x, the weight,
// against -m where x is not 0.
template <bool Snapshot>
TrackSums against_update(const cpu::TrackBlock& block) {
  TrackSums total;
  Sums xy, xx, yy, r, rr;
  for_each_live_word(block, [&](std::uint64_t live, std::int64_t first, std::int64_t count) {
    const float *w = block.w + first, *m = block.m + first;
    const float *v = Snapshot ? block.v + first : nullptr, *past = Snapshot ? block.snapshot + first : nullptr;
    for (const float* array : {w, m, v, past})
      if (array != nullptr) prefetch(array, block.ahead);
    PaddedWord<4> rest;
    if (count < bits::per_word) {
      w = rest.copy(0, w, count);
      m = rest.copy(1, m, count);
      if constexpr (Snapshot) {
        v = rest.copy(2, v, count);
        past = rest.copy(3, past, count);
      }
    }
    Mask flips[vectors_per_word];
    for (int k = 0; k < vectors_per_word; ++k) {
      Vec x = load(w, k * lanes);
      if constexpr (Snapshot) x = x - load(past, k * lanes);
      x = where(live, k, x);
      Vec y = where(live, k, splat(-0.0f) - load(m, k * lanes));
      if constexpr (!Snapshot) y = {x.x != FloatVector{} ? y.x : FloatVector{}};
      const Wide wide_x = widen(x), wide_y = widen(y);
      flips[k] = signs_differ(x, y);
      xy.add(k, wide_x, wide_y);
      xx.add(k, wide_x, wide_x);
      yy.add(k, wide_y, wide_y);
      if constexpr (Snapshot) {
        const Wide root = widen(sqrt(where(live, k, load(v, k * lanes))));
        r.add(k, root);
        rr.add(k, root, root);
      }
    }
    total.live += bits::count(live);
    total.flips += bits::count(pack(flips));
  });
  total.xy = xy.fold();
  total.xx = xx.fold();
  total.yy = yy.fold();
  total.r = r.fold();
  total.rr = rr.fold();
  return total;
}

inline void movement_block(float* accumulator, const float* g, const float* w, std::int64_t count, float rate,
                           std::int64_t ahead) {
  std::int64_t i = 0;
  for (; i + bits::per_word <= count; i += bits::per_word) {
    for (const float* array : {static_cast<const float*>(accumulator), g, w}) prefetch(array + i, ahead);
    Vec sums[vectors_per_word];
    for (int k = 0; k < vectors_per_word; ++k)
      sums[k] = next_movement(load(accumulator, i + k * lanes), load(g, i + k * lanes), load(w, i + k * lanes), rate);
    for (int k = 0; k < vectors_per_word; ++k) store(accumulator, i + k * lanes, sums[k]);
  }
  for (; i < count; ++i) accumulator[i] = next_movement(accumulator[i], g[i], w[i], rate);
}

}  // namespace
}  // namespace bittersweet
