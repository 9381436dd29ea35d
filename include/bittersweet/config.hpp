// Compiler markers, and the two promises about arithmetic that every other header relies on.
#pragma once

// Scores are the same bits on every machine only without fast-math (NaN, signed zero, denormals, association).
#if defined(__FAST_MATH__)
#error "Bittersweet does not work under -ffast-math: scores must be the same bits everywhere. Drop that flag."
#endif

// A formula is one text for host and device; forced inlining keeps instruction-set units free of weak symbols.
#if defined(__CUDACC__)
#define BITTERSWEET_FORMULA __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define BITTERSWEET_FORMULA inline __attribute__((always_inline))
#else
#define BITTERSWEET_FORMULA inline
#endif
