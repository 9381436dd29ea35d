// How masks lie in memory: one keep bit per element, 64 to a word, lowest bit first; each tensor starts on its own
// word and the bits after its last element are 0. The only file that shifts mask bits.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

namespace bittersweet::bits {

inline constexpr std::int64_t per_word = 64;

constexpr std::int64_t words(std::int64_t numel) noexcept { return (numel + per_word - 1) / per_word; }

constexpr bool get(const std::uint64_t* mask, std::int64_t index) noexcept {
  return (mask[index / per_word] >> (index % per_word)) & 1u;
}

constexpr void clear(std::uint64_t* mask, std::int64_t index) noexcept {
  mask[index / per_word] &= ~(std::uint64_t{1} << (index % per_word));
}

// Clears bit `index` where `condition`, without a branch.
constexpr void clear_if(std::uint64_t* mask, std::int64_t index, bool condition) noexcept {
  mask[index / per_word] &= ~(std::uint64_t{condition} << (index % per_word));
}

constexpr void set(std::uint64_t* mask, std::int64_t index) noexcept {
  mask[index / per_word] |= std::uint64_t{1} << (index % per_word);
}

// The bits of word `word` that belong to a tensor of `numel` elements.
constexpr std::uint64_t valid(std::int64_t numel, std::int64_t word) noexcept {
  const std::int64_t left = numel - word * per_word;
  return left >= per_word ? ~std::uint64_t{0} : left <= 0 ? 0 : (std::uint64_t{1} << left) - 1;
}

// The live bits of word `word`: the mask's, or all that are valid where there is no mask.
constexpr std::uint64_t live(const std::uint64_t* mask, std::int64_t numel, std::int64_t word) noexcept {
  return mask ? mask[word] : valid(numel, word);
}

// The live bits from element `first` to the end of its word, as the lowest; 0 for places beyond the tensor.
constexpr std::uint64_t live_from(const std::uint64_t* mask, std::int64_t numel, std::int64_t first) noexcept {
  const std::int64_t word = first / per_word;
  return (live(mask, numel, word) & valid(numel, word)) >> (first % per_word);
}

// Are the `count` bits from `first` all 0?
constexpr bool none(const std::uint64_t* mask, std::int64_t first, std::int64_t count) noexcept {
  for (const std::int64_t end = first + count; first < end;) {
    const std::int64_t offset = first % per_word, n = std::min(per_word - offset, end - first);
    if ((mask[first / per_word] >> offset) & valid(n, 0)) return false;
    first += n;
  }
  return true;
}

// `count` bits of a mask, from bit `first` on, as words of their own; the last is padded with zeros.
constexpr void extract(const std::uint64_t* mask, std::int64_t first, std::int64_t count, std::uint64_t* out) noexcept {
  const std::int64_t shift = first % per_word;
  mask += first / per_word;
  for (std::int64_t word = 0; word < words(count); ++word) {
    out[word] = mask[word] >> shift;
    if (shift > 0 && per_word - shift < count - word * per_word) out[word] |= mask[word + 1] << (per_word - shift);
    out[word] &= valid(count, word);
  }
}

// Sets the bits of a mask, from bit `first` on, that `count` bits of `from` (padded with zeros) have set.
constexpr void merge(const std::uint64_t* from, std::int64_t count, std::uint64_t* mask, std::int64_t first) noexcept {
  const std::int64_t shift = first % per_word;
  mask += first / per_word;
  for (std::int64_t word = 0; word < words(count); ++word) {
    mask[word] |= from[word] << shift;
    if (shift > 0 && per_word - shift < count - word * per_word) mask[word + 1] |= from[word] >> (per_word - shift);
  }
}

// Bits `first` and up of one word, as the lowest.
constexpr std::uint64_t from(std::uint64_t word, int first) noexcept { return word >> first; }

constexpr int count(std::uint64_t word) noexcept { return std::popcount(word); }

// Index of the lowest set bit, or per_word when there is none.
constexpr int lowest_or_width(std::uint64_t word) noexcept { return std::countr_zero(word); }

constexpr std::uint64_t without_lowest(std::uint64_t word) noexcept { return word & (word - 1); }

// Each bit of a word as an integer with all bits set, or none.
template <class T>
constexpr void spread(std::uint64_t word, T (&out)[64]) noexcept {
  for (int half = 0; half < 2; ++half) {  // 32-bit words: their variable shifts vectorise
    const auto bits = static_cast<std::uint32_t>(word >> (32 * half));
    for (int i = 0; i < 32; ++i) out[32 * half + i] = static_cast<T>(0u - ((bits >> i) & 1u));
  }
}

// Bytes (0 or not) to words and back; the last word is padded with zeros.
inline void pack(const unsigned char* keep, std::int64_t numel, std::uint64_t* mask) noexcept {
  for (std::int64_t word = 0; word < words(numel); ++word) {
    std::uint64_t packed = 0;
    for (std::int64_t i = word * per_word; i < std::min(numel, (word + 1) * per_word); ++i)
      packed |= std::uint64_t{keep[i] != 0} << (i % per_word);
    mask[word] = packed;
  }
}

inline void unpack(const std::uint64_t* mask, std::int64_t numel, unsigned char* keep) noexcept {
  for (std::int64_t i = 0; i < numel; ++i) keep[i] = get(mask, i);
}

}  // namespace bittersweet::bits
