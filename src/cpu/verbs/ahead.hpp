// Asks the memory for what is read next, a line of every array at a time, while this is worked on in the caches. Into
// the second cache: the first waits with few lines under way, and then so does the work.
#pragma once

#include "cpu/kernels.hpp"
#include "cpu/simd.hpp"

namespace bittersweet {
namespace {

constexpr int lanes_of_a_line = 16;  // of f32

BITTERSWEET_INLINE void ask(cpu::Ahead& ahead) {
  for (int s = 0; s < ahead.streams; ++s) {
    if (ahead.at[s] >= ahead.end[s]) continue;
    __builtin_prefetch(ahead.at[s], 0, 2);
    ahead.at[s] += 64;
  }
}

}  // namespace
}  // namespace bittersweet
