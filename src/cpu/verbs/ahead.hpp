// Asks the memory for what is read next, some lines of every array at a time, while this is worked on in the caches.
// Into the second cache: the first waits with few lines under way, and then so does the work.
#pragma once

#include "cpu/kernels.hpp"

namespace bittersweet {
namespace {

constexpr int lanes_of_a_line = 16;  // of f32

inline __attribute__((always_inline)) void ask(cpu::Ahead& ahead, int lines = 1) {
  for (int s = 0; s < ahead.streams; ++s)
    for (int line = 0; line < lines && ahead.at[s] < ahead.end[s]; ++line, ahead.at[s] += 64)
      __builtin_prefetch(ahead.at[s], 0, 2);
}

}  // namespace
}  // namespace bittersweet
