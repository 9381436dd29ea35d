// How masks lie in memory: one keep bit per element, in the order of the tensor's elements in memory, 64 to a word,
// lowest bit first; each tensor starts on its own word and the bits after its last element are 0. The only file that
// shifts mask bits.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <utility>
#include <vector>

#include "bittersweet/config.hpp"
#include "bittersweet/memory_order.hpp"

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
BITTERSWEET_FORMULA constexpr std::uint64_t valid(std::int64_t numel, std::int64_t word) noexcept {
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

// The first bit of every run of `size` bits that are all 0; `size` divides 64.
constexpr std::uint64_t empty_runs(std::uint64_t word, std::int64_t size) noexcept {
  const std::uint64_t firsts = size == per_word ? 1 : ~std::uint64_t{0} / ((std::uint64_t{1} << size) - 1);
  for (std::int64_t width = size / 2; width > 0; width /= 2) word |= word >> width;  // of the run, and of the next
  return ~word & firsts;
}

// Clears all set bits but the first `count`.
constexpr void keep_first(std::uint64_t* mask, std::int64_t words, std::int64_t count) noexcept {
  for (std::int64_t word = 0; word < words; ++word) {
    const std::int64_t present = std::popcount(mask[word]);
    if (present > count) {
      std::uint64_t beyond = mask[word];
      for (; count > 0; --count) beyond = without_lowest(beyond);
      mask[word] &= ~beyond;
    } else {
      count -= present;
    }
  }
}

// Up to 64 bits of a mask, from bit `first` on, as the lowest.
constexpr std::uint64_t read(const std::uint64_t* mask, std::int64_t first, std::int64_t count) noexcept {
  const std::int64_t word = first / per_word, shift = first % per_word;
  std::uint64_t found = mask[word] >> shift;
  if (shift + count > per_word) found |= mask[word + 1] << (per_word - shift);
  return found & valid(count, 0);
}

// Sets the bits of a mask, from bit `first` on, that `bits` has set, of which there are no more than `count`.
constexpr void add(std::uint64_t* mask, std::int64_t first, std::int64_t count, std::uint64_t bits) noexcept {
  const std::int64_t word = first / per_word, shift = first % per_word;
  mask[word] |= bits << shift;
  if (shift + count > per_word) mask[word + 1] |= bits >> (per_word - shift);
}

// The same for words that other threads add to.
inline void add_shared(std::uint64_t* mask, std::int64_t first, std::int64_t count, std::uint64_t bits) noexcept {
  const std::int64_t word = first / per_word, shift = first % per_word;
  __atomic_fetch_or(mask + word, bits << shift, __ATOMIC_RELAXED);
  if (shift + count > per_word) __atomic_fetch_or(mask + word + 1, bits >> (per_word - shift), __ATOMIC_RELAXED);
}

// Sets bits one after another, from bit `first` of a mask on.
class Appender {
 public:
  constexpr Appender(std::uint64_t* mask, std::int64_t first) noexcept
      : word_(mask + first / per_word), shift_(first % per_word) {}

  // `count` bits, 1 to 64, that have nothing set behind them.
  BITTERSWEET_FORMULA constexpr void add(std::uint64_t bits, std::int64_t count) noexcept {
    held_ |= bits << shift_;
    shift_ += count;
    if (shift_ < per_word) return;
    *word_++ |= held_;
    shift_ -= per_word;
    held_ = shift_ > 0 ? bits >> (count - shift_) : 0;
  }

  BITTERSWEET_FORMULA constexpr void end() noexcept {
    if (held_ != 0) *word_ |= held_;
  }

 private:
  std::uint64_t* word_;
  std::int64_t shift_;
  std::uint64_t held_ = 0;
};

// Words as `side` by `side` matrices beside each other, each transposed: in the m-th, bit j of word i becomes bit i of
// word j. Source: Warren, Hacker's Delight, 7-3.
constexpr void transpose(std::uint64_t* block, std::int64_t side) noexcept {
  for (std::int64_t width = side / 2; width > 0; width /= 2) {
    const std::uint64_t low = ~std::uint64_t{0} / ((std::uint64_t{1} << width) + 1);  // every second `width` bits
    for (std::int64_t begin = 0; begin < side; begin += 2 * width)
      for (std::int64_t i = begin; i < begin + width; ++i) {
        const std::uint64_t differing = ((block[i] >> width) ^ block[i + width]) & low;
        block[i] ^= differing << width;
        block[i + width] ^= differing;
      }
  }
}

// Bit (r, c) of a matrix that begins at bit `first` becomes bit (c, r) of one that begins there in `to`, whose bits are
// clear. By pieces of 64 x 64; a narrow piece is as many squares.
constexpr void transpose(const std::uint64_t* from, std::int64_t first, std::int64_t rows, std::int64_t columns,
                         std::uint64_t* to) noexcept {
  for (std::int64_t r = 0; r < rows; r += per_word)
    for (std::int64_t c = 0; c < columns; c += per_word) {
      const std::int64_t height = std::min(per_word, rows - r), width = std::min(per_word, columns - c);
      const auto side = static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(std::min(height, width))));
      std::uint64_t block[per_word]{};
      if (height <= width) {  // the squares lie along the rows
        for (std::int64_t i = 0; i < height; ++i) block[i] = read(from, first + (r + i) * columns + c, width);
        transpose(block, side);
        Appender next(to, first + c * rows);  // if these are all rows
        for (std::int64_t square = 0; square < width; square += side)
          for (std::int64_t j = square; j < std::min(square + side, width); ++j) {
            const std::uint64_t own = (block[j - square] >> square) & valid(height, 0);
            if (height == rows)
              next.add(own, height);
            else
              add(to, first + (c + j) * rows + r, height, own);
          }
        next.end();
      } else {  // along the columns
        for (std::int64_t square = 0; square < height; square += side)
          for (std::int64_t i = square; i < std::min(square + side, height); ++i)
            block[i - square] |= read(from, first + (r + i) * columns + c, width) << square;
        transpose(block, side);
        for (std::int64_t j = 0; j < width; ++j) add(to, first + (c + j) * rows + r, height, block[j]);
      }
    }
}

// The bits of `numel` elements from one order to the other; `to` is another array.
constexpr void to_logical(const std::uint64_t* memory, std::int64_t numel, const MemoryOrder& order,
                          std::uint64_t* to) noexcept {
  std::fill_n(to, words(numel), std::uint64_t{0});
  for (std::int64_t first = 0; first < numel; first += order.size()) transpose(memory, first, order.q, order.p, to);
}

constexpr void to_memory(const std::uint64_t* logical, std::int64_t numel, const MemoryOrder& order,
                         std::uint64_t* to) noexcept {
  std::fill_n(to, words(numel), std::uint64_t{0});
  for (std::int64_t first = 0; first < numel; first += order.size()) transpose(logical, first, order.p, order.q, to);
}

// Clears all set bits of a mask in memory but the first `count` by logical index.
inline void keep_first(std::uint64_t* mask, std::int64_t numel, const MemoryOrder& order, std::int64_t count) {
  std::int64_t present = 0;
  for (std::int64_t word = 0; word < words(numel); ++word) present += std::popcount(mask[word]);
  if (present <= count) return;
  if (present > numel / 32) {  // many: as bits
    std::vector<std::uint64_t> logical(static_cast<std::size_t>(words(numel)));
    to_logical(mask, numel, order, logical.data());
    keep_first(logical.data(), words(numel), count);
    return to_memory(logical.data(), numel, order, mask);
  }
  std::vector<std::pair<std::int64_t, std::int64_t>> places;  // (logical index, index in memory)
  for (std::int64_t word = 0; word < words(numel); ++word)
    for (std::uint64_t left = mask[word]; left != 0; left = without_lowest(left)) {
      const std::int64_t at = word * per_word + lowest_or_width(left);
      places.emplace_back(order.logical_of(at), at);
    }
  const auto rest = places.begin() + count;
  std::nth_element(places.begin(), rest, places.end());
  for (auto place = rest; place != places.end(); ++place) clear(mask, place->second);
}

}  // namespace bittersweet::bits
