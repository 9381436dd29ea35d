// 16-bit storage to f32 tiles, and the uniform numbers of the random scorer.
#pragma once

#include "bittersweet/dtype.hpp"
#include "bittersweet/philox.hpp"
#include "cpu/simd.hpp"

namespace bittersweet {
namespace {

inline void from_bf16(const std::uint16_t* in, std::int64_t count, float* out) {
  for (std::int64_t i = 0; i < count; ++i) out[i] = bf16_to_float(in[i]);
}

inline void from_f16(const std::uint16_t* in, std::int64_t count, float* out) {
  std::int64_t i = 0;
#if BITTERSWEET_LANES == 16
  for (; i + 16 <= count; i += 16)
    _mm512_storeu_ps(out + i, _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + i))));
#elif BITTERSWEET_LANES == 8
  for (; i + 8 <= count; i += 8)
    _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i))));
#endif
  for (; i < count; ++i) out[i] = f16_to_float(in[i]);
}

inline void uniform_tile(std::uint64_t seed, std::uint64_t position, std::int64_t count, float* out) {
  std::int64_t i = 0;
  for (; i < count && (position + static_cast<std::uint64_t>(i)) % 4 != 0; ++i)
    out[i] = uniform_at(seed, Purpose::random_score, position + static_cast<std::uint64_t>(i));
  for (; i + 4 <= count; i += 4) {  // four neighbours share one block of random bits
    const auto block = philox((position + static_cast<std::uint64_t>(i)) / 4, seed, Purpose::random_score);
    for (std::size_t j = 0; j < 4; ++j)
      out[i + static_cast<std::int64_t>(j)] = static_cast<float>(block[j] >> 8) * 0x1p-24f;
  }
  for (; i < count; ++i) out[i] = uniform_at(seed, Purpose::random_score, position + static_cast<std::uint64_t>(i));
}

}  // namespace
}  // namespace bittersweet
