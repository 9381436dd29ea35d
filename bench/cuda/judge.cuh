// An answer judged by definition: how many live scores lie below and at the threshold, and which mask bits contradict
// it. Element by element from the formulas' headers, sharing nothing with the engines. The host's loop is the same
// text.
#pragma once

#include <cmath>
#include <cstdint>

#include "bittersweet/mask/bit_layout.hpp"
#include "bittersweet/score/scorers.hpp"
#include "bittersweet/tensor_view.hpp"
#include "device.hpp"

namespace bittersweet::bench {

struct Judged {
  unsigned long long below = 0, equal = 0;  // live scores under the threshold, and at it
  unsigned long long kept = 0;              // bits set in the new mask
  unsigned long long wrong = 0;             // kept below it, pruned above it, or alive again
  unsigned long long remains = 0;           // weights that are not zero although their bit is
};

template <class S>
BITTERSWEET_FORMULA void judge_element(const S& scorer, const ScoreInputs& tensor, const std::uint64_t* mask,
                                       std::int64_t i, float threshold, Judged& judged) {
  constexpr std::uint32_t reads = S::info.reads;
  Elements<float> x{};
  x.bias_correction1 = tensor.bias_correction1;
  x.w = load_as_float(tensor.weight.data, tensor.weight.dtype, i);
  if constexpr (reads & reads::exp_avg) x.m = load_as_float(tensor.exp_avg.data, tensor.exp_avg.dtype, i);
  if constexpr (reads & reads::exp_avg_sq) x.v = load_as_float(tensor.exp_avg_sq.data, tensor.exp_avg_sq.dtype, i);
  const float score = scorer(x) * tensor.modifier;
  const bool live = !tensor.mask || bits::get(tensor.mask, i);
  judged.below += live && score < threshold;
  judged.equal += live && score == threshold;
  if (!mask) return;
  const bool keep = bits::get(mask, i);
  judged.kept += keep;
  judged.wrong += keep ? !live || score < threshold : live && score > threshold;
  judged.remains += !keep && x.w != 0.0f;
}

// Scorers that can be judged here read w, m and v alone.
template <class S>
inline constexpr bool can_be_judged =
    (S::info.reads & ~(reads::weight | reads::exp_avg | reads::exp_avg_sq | reads::step)) == 0;

template <class F>
void with_judged_scorer(const Scorer& scorer, F&& run) {
  std::visit(
      [&](const auto& s) {
        if constexpr (can_be_judged<std::decay_t<decltype(s)>>)
          run(s);
        else
          throw std::invalid_argument("this scorer cannot be judged from w, m and v");
      },
      scorer);
}

inline Judged judge_on_host(std::span<const ScoreInputs> tensors, const Scorer& scorer,
                            std::span<const std::uint64_t* const> masks, float threshold) {
  Judged judged;
  with_judged_scorer(scorer, [&](const auto& s) {
    for (std::size_t t = 0; t < tensors.size(); ++t)
      for (std::int64_t i = 0; i < tensors[t].numel; ++i)
        judge_element(s, tensors[t], masks.empty() ? nullptr : masks[t], i, threshold, judged);
  });
  return judged;
}

#if defined(__CUDACC__)
template <class S>
__global__ void judge_kernel(S scorer, ScoreInputs tensor, const std::uint64_t* mask, float threshold, Judged* total) {
  Judged judged;
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < tensor.numel; i += stride)
    judge_element(scorer, tensor, mask, i, threshold, judged);
  const auto add = [](unsigned long long count, unsigned long long* to) {
    for (int offset = 16; offset; offset /= 2) count += __shfl_xor_sync(~0u, count, offset);
    if (threadIdx.x % 32 == 0 && count) atomicAdd(to, count);
  };
  add(judged.below, &total->below);
  add(judged.equal, &total->equal);
  add(judged.kept, &total->kept);
  add(judged.wrong, &total->wrong);
  add(judged.remains, &total->remains);
}

inline Judged judge_on_device(std::span<const ScoreInputs> tensors, const Scorer& scorer,
                              std::span<std::uint64_t* const> masks, float threshold) {
  const Buffer total(sizeof(Judged));
  total.fill(0);
  with_judged_scorer(scorer, [&](const auto& s) {
    for (std::size_t t = 0; t < tensors.size(); ++t)
      judge_kernel<<<2048, 256>>>(s, tensors[t], masks.empty() ? nullptr : masks[t], threshold, total.as<Judged>());
  });
  check_launch("judging");
  synchronize("judging");
  return total.read<Judged>();
}
#endif

}  // namespace bittersweet::bench
