// How numbers travel in a vector of int32 that ranks add up: as limbs small enough that no sum wraps, and texts as
// words whose sums tell whether all ranks have the same.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

#include "bittersweet/philox.hpp"

namespace bittersweet {

inline constexpr std::int64_t most_ranks = 32767;  // 32,767 limbs of 16 bits still fit an int32

// A 64-bit number as four limbs of 16 bits. Sums are right modulo 2^64.
inline constexpr std::size_t limbs = 4;

class LimbWriter {
 public:
  explicit LimbWriter(std::span<std::int32_t> to) : to_(to) {}
  void put(std::uint64_t value) {
    for (std::size_t i = 0; i < limbs; ++i) to_[at_++] = static_cast<std::int32_t>((value >> (16 * i)) & 0xffffu);
  }
  void put(std::int64_t value) { put(static_cast<std::uint64_t>(value)); }

 private:
  std::span<std::int32_t> to_;
  std::size_t at_ = 0;
};

class LimbReader {
 public:
  explicit LimbReader(std::span<const std::int32_t> from) : from_(from) {}
  std::uint64_t take() {
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < limbs; ++i) value += static_cast<std::uint64_t>(from_[at_++]) << (16 * i);
    return value;
  }
  std::int64_t count() { return static_cast<std::int64_t>(take()); }

 private:
  std::span<const std::int32_t> from_;
  std::size_t at_ = 0;
};

// Counts of bins, one int32 each. `wide` ones, whose sum may pass 2^31, as two: the low 16 bits, and what is above.
inline std::size_t count_length(std::size_t bins, bool wide) noexcept { return wide ? 2 * bins : bins; }

inline void put_counts(std::span<const std::int64_t> counts, bool wide, std::span<std::int32_t> to) {
  for (std::size_t b = 0; b < counts.size(); ++b) {
    to[b] = static_cast<std::int32_t>(wide ? counts[b] & 0xffff : counts[b]);
    if (wide) to[counts.size() + b] = static_cast<std::int32_t>(counts[b] >> 16);
  }
}

inline std::int64_t count_at(std::span<const std::int32_t> sums, bool wide, std::size_t bin) {
  return wide ? sums[bin] + (static_cast<std::int64_t>(sums[sums.size() / 2 + bin]) << 16) : sums[bin];
}

// 128 bits of a text. Equal texts have equal digests; different ones, but for a chance of 2^-128, do not.
inline std::array<std::uint64_t, 2> digest(std::string_view text) noexcept {
  std::array<std::uint64_t, 2> state{text.size(), 0x9e3779b97f4a7c15u};
  for (std::size_t begin = 0; begin < text.size(); begin += 8) {
    std::uint64_t block = 0;
    for (std::size_t i = begin; i < text.size() && i < begin + 8; ++i)
      block = (block << 8) | static_cast<unsigned char>(text[i]);
    const auto mixed = philox(block ^ state[0], state[1], Purpose::digest);
    state[0] ^= mixed[0] | static_cast<std::uint64_t>(mixed[1]) << 32;
    state[1] ^= mixed[2] | static_cast<std::uint64_t>(mixed[3]) << 32;
  }
  const auto last = philox(state[0], state[1], Purpose::digest);
  return {last[0] | static_cast<std::uint64_t>(last[1]) << 32, last[2] | static_cast<std::uint64_t>(last[3]) << 32};
}

// Six words of 16 bits of the digest, each with its square: over W ranks, W * sum(x^2) == (sum x)^2 if and only if all
// x are equal (Cauchy-Schwarz). So sums alone tell; neither a minimum nor a broadcast is needed.
inline constexpr std::size_t agreement_words = 6;
inline constexpr std::size_t agreement_limbs = 2 * agreement_words * limbs;

inline void put_agreement(std::string_view text, LimbWriter& to) {
  const std::array<std::uint64_t, 2> bits = digest(text);
  for (std::size_t i = 0; i < agreement_words; ++i) {
    const std::uint64_t word = (bits[i / 4] >> (16 * (i % 4))) & 0xffffu;
    to.put(word);
    to.put(word * word);
  }
}

inline bool take_agreement(LimbReader& from, std::uint64_t ranks) {
  bool equal = true;
  for (std::size_t i = 0; i < agreement_words; ++i) {
    const std::uint64_t sum = from.take(), squares = from.take();
    equal &= ranks * squares == sum * sum;
  }
  return equal;
}

}  // namespace bittersweet
