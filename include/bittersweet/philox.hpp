// Random numbers without state: Philox4x32-10 (Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3).
// The key is the seed, the counter an element's position and what the number is for, so that it depends on neither
// threads nor order.
#pragma once

#include <array>
#include <cstdint>

#include "bittersweet/config.hpp"

namespace bittersweet {

// Below 256 each: a stream stands above it in the same word.
enum class Purpose : std::uint32_t {
  random_score = 1,
  bracket_sample = 2,
  sampling = 3,
  sketch = 4,
  digest = 5,
  rounding = 6
};

BITTERSWEET_FORMULA std::array<std::uint32_t, 4> philox_4x32(const std::array<std::uint32_t, 4>& counter,
                                                             std::uint64_t key) noexcept {
  std::uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
  std::uint32_t k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c0;
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<std::uint32_t>(p1);
    c2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<std::uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {c0, c1, c2, c3};
}

BITTERSWEET_FORMULA std::array<std::uint32_t, 4> philox(std::uint64_t counter, std::uint64_t seed,
                                                        Purpose purpose) noexcept {
  return philox_4x32({static_cast<std::uint32_t>(counter), static_cast<std::uint32_t>(counter >> 32),
                      static_cast<std::uint32_t>(purpose), 0},
                     seed);
}

// A uniform float in [0, 1) with 24 bits for one position; four neighbours share one Philox block.
BITTERSWEET_FORMULA float uniform_at(std::uint64_t seed, Purpose purpose, std::uint64_t position) noexcept {
  const std::array<std::uint32_t, 4> block = philox(position >> 2, seed, purpose);
  const std::uint32_t low = position & 1 ? block[1] : block[0], high = position & 1 ? block[3] : block[2];
  return static_cast<float>((position & 2 ? high : low) >> 8) * 0x1p-24f;  // no index that only run time knows
}

}  // namespace bittersweet
