// Scores of one tile, in registers.
#pragma once

#include "cpu/kernels.hpp"
#include "cpu/simd.hpp"

namespace bittersweet {
namespace {

template <std::size_t S>
using StoredType = std::conditional_t<S == cpu::as_bf16, std::uint16_t, float>;

// What the scorer reads of elements index .. index + lanes.
template <class S, class T>
BITTERSWEET_INLINE Elements<Vec> elements_at(const cpu::TileInput& in, std::int64_t index) {
  constexpr std::uint32_t r = S::info.reads;
  Elements<Vec> x;
  if constexpr (r & reads::weight) x.w = load(static_cast<const T*>(in.w), index);
  if constexpr (r & reads::exp_avg) x.m = load(static_cast<const T*>(in.m), index);
  if constexpr (r & reads::exp_avg_sq) x.v = load(static_cast<const T*>(in.v), index);
  if constexpr (r & reads::grad) x.g = load(static_cast<const T*>(in.g), index);
  if constexpr (r & reads::input_norm) x.norm = load(static_cast<const T*>(in.norm), index);
  if constexpr (r & reads::scores) x.score = load(static_cast<const T*>(in.score), index);
  if constexpr (r & reads::position) x.uniform = load(static_cast<const T*>(in.uniform), index);
  x.bias_correction1 = in.bias_correction1;
  return x;
}

// f(member of TileInput) for every array that the scorer reads.
template <class S, class F>
BITTERSWEET_INLINE constexpr void for_each_array(F&& f) {
  constexpr std::uint32_t r = S::info.reads;
  if constexpr (r & reads::weight) f(&cpu::TileInput::w);
  if constexpr (r & reads::exp_avg) f(&cpu::TileInput::m);
  if constexpr (r & reads::exp_avg_sq) f(&cpu::TileInput::v);
  if constexpr (r & reads::grad) f(&cpu::TileInput::g);
  if constexpr (r & reads::input_norm) f(&cpu::TileInput::norm);
  if constexpr (r & reads::scores) f(&cpu::TileInput::score);
  if constexpr (r & reads::position) f(&cpu::TileInput::uniform);
}

// Asks for what the scorer will read of a word's elements. Norms stay in a cache: they serve every row.
template <class S, class T>
BITTERSWEET_INLINE void prefetch_arrays(const cpu::TileInput& in, std::int64_t index, std::int64_t ahead) {
  for_each_array<S>([&](auto member) {
    if (member != &cpu::TileInput::norm) prefetch(static_cast<const T*>(in.*member) + index, ahead);
  });
}

BITTERSWEET_INLINE void ask(cpu::ReadNext& next) {
  if (next.left == 0) return;
  --next.left;
  for (std::size_t i = 0; i < next.arrays; ++i) {
    __builtin_prefetch(next.at[i], 0, 2);
    next.at[i] += next.bytes[i];
  }
}

// A copy of `count` (at most Size) elements of every array, padded with zeros, so that whole vectors can be loaded.
template <class S, class T, std::int64_t Size>
struct Padded {
  T data[7][Size];
  cpu::TileInput in;

  // element(array, j) gives element j of the copy.
  template <class E>
  BITTERSWEET_INLINE Padded(const cpu::TileInput& from, std::int64_t count, std::int64_t padded, E&& element)
      : in(from) {
    int slot = 0;
    for_each_array<S>([&](auto member) {
      T* const to = data[slot++];
      const T* const array = static_cast<const T*>(from.*member);
      for (std::int64_t j = 0; j < count; ++j) to[j] = element(array, j);
      for (std::int64_t j = count; j < padded; ++j) to[j] = T{};
      in.*member = to;
    });
  }
};

template <class S, class T>
BITTERSWEET_INLINE Vec score_at(const S& scorer, const cpu::TileInput& in, std::int64_t index) {
  return scorer(elements_at<S, T>(in, index)) * in.modifier;
}

template <class S, std::size_t St>
void score_tile(const Scorer& variant, const cpu::TileInput& tile, std::int64_t count, float* out) {
  using T = StoredType<St>;
  const cpu::TileInput in = tile;  // which what is written could change
  const S scorer = *std::get_if<S>(&variant);
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) store(out, i, score_at<S, T>(scorer, in, i));
  if (i == count) return;
  const Padded<S, T, lanes> tail(in, count - i, lanes, [&](const T* array, std::int64_t j) { return array[i + j]; });
  float last[lanes];
  store(last, 0, score_at<S, T>(scorer, tail.in, 0));
  for (std::int64_t j = 0; i + j < count; ++j) out[i + j] = last[j];
}

}  // namespace
}  // namespace bittersweet
