// The floating-point environment of one call: round to nearest, denormals kept, no traps, unless another mode is given;
// the caller's is restored. Workers are given theirs, since they may have started under another.
#pragma once

#include <cfenv>
#include <cstdint>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace bittersweet {

class FpEnvironment {
 public:
#if defined(__SSE__)
  using Mode = unsigned;
  static Mode standard() noexcept { return 0x1f80; }
  static Mode current() noexcept { return _mm_getcsr(); }
  static void set(Mode mode) noexcept { _mm_setcsr(mode); }
#elif defined(__aarch64__)
  using Mode = std::uint64_t;
  static Mode standard() noexcept { return 0; }
  static Mode current() noexcept {
    Mode mode;
    asm volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
  }
  static void set(Mode mode) noexcept { asm volatile("msr fpcr, %0" : : "r"(mode)); }
#else
  using Mode = std::fenv_t;
  static Mode standard() noexcept {
    Mode mode = current();
    std::fesetround(FE_TONEAREST);
    const Mode rounded = current();
    set(mode);
    return rounded;
  }
  static Mode current() noexcept {
    Mode mode;
    std::fegetenv(&mode);
    return mode;
  }
  static void set(const Mode& mode) noexcept { std::fesetenv(&mode); }
#endif

  explicit FpEnvironment(const Mode& mode = standard()) noexcept : saved_(current()) { set(mode); }
  ~FpEnvironment() { set(saved_); }
  FpEnvironment(const FpEnvironment&) = delete;
  FpEnvironment& operator=(const FpEnvironment&) = delete;

 private:
  const Mode saved_;
};

}  // namespace bittersweet
