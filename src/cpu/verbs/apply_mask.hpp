// Zeros under a mask, in place. All arrays of 64 elements, then the next 64: this many of one array at a time, because
// arrays at the same place of their pages would otherwise wait for each other's stores.
#pragma once

#include "bittersweet/mask/bit_layout.hpp"
#include "cpu/kernels.hpp"
#include "cpu/simd.hpp"

namespace bittersweet {
namespace {

BITTERSWEET_INLINE void apply_word(float* data, std::uint64_t keep) {
#if BITTERSWEET_LANES == 16
  for (int k = 0; k < bits::per_word; k += lanes)
    _mm512_storeu_ps(data + k, _mm512_maskz_loadu_ps(static_cast<__mmask16>(bits::from(keep, k)), data + k));
#elif BITTERSWEET_LANES == 8
  const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  for (int k = 0; k < bits::per_word; k += lanes) {
    const __m256i byte = _mm256_set1_epi32(static_cast<int>(bits::from(keep, k)));
    const __m256i on = _mm256_cmpeq_epi32(_mm256_and_si256(byte, lane), lane);
    _mm256_storeu_ps(data + k, _mm256_and_ps(_mm256_loadu_ps(data + k), _mm256_castsi256_ps(on)));
  }
#else
  const IntVector lane{1, 2, 4, 8};
  for (int k = 0; k < bits::per_word; k += lanes) {
    const IntVector nibble = IntVector{} + static_cast<std::int32_t>(bits::from(keep, k) & 15u);
    store(data, k, as_floats(as_bits(load(data, k)) & ((nibble & lane) == lane)));
  }
#endif
}

BITTERSWEET_INLINE void apply_word(std::uint16_t* data, std::uint64_t keep) {
#if BITTERSWEET_LANES == 16
  for (int k = 0; k < bits::per_word; k += 32)
    _mm512_storeu_si512(data + k, _mm512_maskz_loadu_epi16(static_cast<__mmask32>(bits::from(keep, k)), data + k));
#elif BITTERSWEET_LANES == 8
  const __m256i lane = _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384,
                                         static_cast<short>(0x8000));
  for (int k = 0; k < bits::per_word; k += 16) {
    auto* const at = reinterpret_cast<__m256i*>(data + k);
    const __m256i word = _mm256_set1_epi16(static_cast<short>(bits::from(keep, k)));
    const __m256i on = _mm256_cmpeq_epi16(_mm256_and_si256(word, lane), lane);
    _mm256_storeu_si256(at, _mm256_and_si256(_mm256_loadu_si256(at), on));
  }
#else
  for (int k = 0; k < bits::per_word; ++k)
    data[k] = static_cast<std::uint16_t>(data[k] & (0u - static_cast<unsigned>(bits::from(keep, k) & 1u)));
#endif
}

template <class T>
BITTERSWEET_INLINE void apply_rest(T* data, std::uint64_t keep, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i)
    if (!bits::get(&keep, i)) data[i] = T{};
}

inline void apply_mask_tile(const cpu::ApplyArrays& arrays, const std::uint64_t* mask, std::int64_t count) {
  const auto each = [&](std::int64_t first, auto&& f) {
    for (std::size_t a = 0; a < arrays.data.size(); ++a) {
      if (arrays.data[a] == nullptr) continue;
      if (arrays.narrow[a])
        f(static_cast<std::uint16_t*>(arrays.data[a]) + first);
      else
        f(static_cast<float*>(arrays.data[a]) + first);
    }
  };
  const std::int64_t whole = count / bits::per_word;
  for (std::int64_t word = 0; word < whole; ++word) {
    const std::uint64_t keep = mask[word];
    if (keep == ~std::uint64_t{0}) continue;
    each(word * bits::per_word, [&](auto* data) { apply_word(data, keep); });
  }
  if (const std::int64_t rest = count % bits::per_word; rest > 0)
    each(whole * bits::per_word, [&](auto* data) { apply_rest(data, mask[whole], rest); });
}

}  // namespace
}  // namespace bittersweet
