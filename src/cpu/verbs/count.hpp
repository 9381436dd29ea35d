// How many live scores of a tile lie below thresholds, and at them; several in one pass over the scores.
#pragma once

#include "bittersweet/engine/summaries.hpp"
#include "cpu/kernels.hpp"
#include "cpu/verbs/ahead.hpp"
#include "cpu/verbs/bits.hpp"
#include "cpu/verbs/signed_key.hpp"

namespace bittersweet {
namespace {

template <int N>
void count_at(const float* scores, const std::uint64_t* live, std::int64_t count, const float* thresholds,
              CountsAt* counts, cpu::Ahead& ahead) {
  Vec t[N];
  IntVector below[N]{}, equal[N]{};  // minus the counts: a true comparison is -1
  for (int n = 0; n < N; ++n) t[n] = splat(thresholds[n]);
  const Vec nan = splat(std::numeric_limits<float>::quiet_NaN());
  for_each_word(live, count, [&](std::int64_t, std::uint64_t live_bits, std::int64_t index) {
    for (int v = 0; v < vectors_per_word; ++v) {
      Vec s = load(scores, index + v * lanes);
      if (v % (lanes_of_a_line / lanes) == 0) ask(ahead);
      if (live_bits != ~std::uint64_t{0}) {
        const LaneMask on = lanes_on(live_bits, v);
        s = as_floats(as_bits(kept(s, on)) | as_bits(dropped(nan, on)));
      }
      for (int n = 0; n < N; ++n) below[n] += s.x < t[n].x, equal[n] += s.x == t[n].x;
    }
  });
  for (int n = 0; n < N; ++n) counts[n].below -= sum(below[n]), counts[n].equal -= sum(equal[n]);
}

// Adds to the counts of `n` thresholds.
inline void count_tile(const float* scores, const std::uint64_t* live, std::int64_t count, const float* thresholds,
                       std::int64_t n, CountsAt* counts, cpu::Ahead& ahead) {
  for (; n >= 6; n -= 6, thresholds += 6, counts += 6) count_at<6>(scores, live, count, thresholds, counts, ahead);
  for (; n >= 2; n -= 2, thresholds += 2, counts += 2) count_at<2>(scores, live, count, thresholds, counts, ahead);
  if (n > 0) count_at<1>(scores, live, count, thresholds, counts, ahead);
}

}  // namespace
}  // namespace bittersweet
