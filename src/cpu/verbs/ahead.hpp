// Asks the memory for what the next row reads, a line of every array at a time, while this one is worked on in the
// caches.
#pragma once

#include "cpu/kernels.hpp"
#include "cpu/simd.hpp"

namespace bittersweet {
namespace {

BITTERSWEET_INLINE void ask(cpu::Ahead& ahead) {
  for (int s = 0; s < ahead.streams; ++s) {
    if (ahead.at[s] >= ahead.end[s]) continue;
    __builtin_prefetch(ahead.at[s]);
    ahead.at[s] += 64;
  }
}

}  // namespace
}  // namespace bittersweet
