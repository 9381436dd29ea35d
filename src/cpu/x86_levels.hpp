// Which levels of x86-64 this processor has, and the system lets be used.
#pragma once

#if defined(__x86_64__)
#include <cpuid.h>

namespace bittersweet::cpu {

struct X86Levels {
  bool v2 = false, v3 = false, v4 = false;
};

// __builtin_cpu_supports also asks whether the system saves the registers. Clang before 19 does not know "f16c".
inline X86Levels x86_levels() {
  __builtin_cpu_init();
  unsigned a = 0, b = 0, c = 0, d = 0;
  const bool f16c = __get_cpuid(1, &a, &b, &c, &d) && (c & (1u << 29)) != 0;
  X86Levels has;
  has.v2 = __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt");
  has.v3 = has.v2 && f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
  has.v4 = has.v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
  return has;
}

}  // namespace bittersweet::cpu
#endif
