// Asking the memory for what will be read.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bittersweet::cpu {

// For the lines that `bytes` bytes from `at` on lie in, as far as the second cache. A function that does no more than
// ask is one of no effect to GCC, which drops its calls: hence the barrier.
inline void prefetch(const void* at, std::size_t bytes) noexcept {
  constexpr std::size_t line = 64;
  const auto* next = static_cast<const char*>(at);
  const auto* const end = next + bytes;
  for (next -= reinterpret_cast<std::uintptr_t>(at) % line; next < end; next += line) __builtin_prefetch(next, 0, 2);
  __asm__ volatile("");
}

// How many elements ahead passes ask, a multiple of 64: far ahead where calculating takes much longer than reading, and
// where reading bounds. Zen's second cache fetches more lines at a time by itself than the first can wait for, unless
// they were asked for before: there it is no more than the start of a page that four streams need. Which pass asks by
// which was found by measuring (docs/benchmarks.md, "On an AMD EPYC").
inline constexpr std::int64_t far_ahead = 1024;
std::int64_t asked_ahead() noexcept;

}  // namespace bittersweet::cpu
