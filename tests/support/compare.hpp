// Comparisons that say where two results part, and the oracle of every selection: sort, then count.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <iomanip>
#include <ostream>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include "bittersweet/engine/summaries.hpp"
#include "bittersweet/mask/bit_layout.hpp"
#include "bittersweet/select/threshold.hpp"

namespace bittersweet {

inline void PrintTo(const BracketCounts& c, std::ostream* out) {
  *out << "{below " << c.below << ", equal_low " << c.equal_low << ", inside " << c.inside << ", equal_high "
       << c.equal_high << ", above " << c.above << ", nan " << c.nan << "}";
}

inline void PrintTo(const CountsAt& c, std::ostream* out) {
  *out << "{below " << c.below << ", equal " << c.equal << "}";
}

inline void PrintTo(Place place, std::ostream* out) { *out << name_of(place); }

namespace test {

// The same number to the last bit; NaN are one value, whatever their payload.
inline bool same_bits(float a, float b) {
  return (std::isnan(a) && std::isnan(b)) || std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
}

inline std::string show(float x) {
  std::ostringstream out;
  out << std::setprecision(9) << x << " (0x" << std::hex << std::bit_cast<std::uint32_t>(x) << ")";
  return out.str();
}

inline testing::AssertionResult same_floats(std::span<const float> expected, std::span<const float> actual) {
  if (expected.size() != actual.size())
    return testing::AssertionFailure() << expected.size() << " values expected, " << actual.size() << " found";
  for (std::size_t i = 0; i < expected.size(); ++i)
    if (!same_bits(expected[i], actual[i]))
      return testing::AssertionFailure() << "at " << i << " of " << expected.size() << ": expected "
                                         << show(expected[i]) << ", found " << show(actual[i]);
  return testing::AssertionSuccess();
}

inline testing::AssertionResult same_words(std::span<const std::uint64_t> expected,
                                           std::span<const std::uint64_t> actual) {
  if (expected.size() != actual.size())
    return testing::AssertionFailure() << expected.size() << " words expected, " << actual.size() << " found";
  for (std::size_t w = 0; w < expected.size(); ++w)
    if (const std::uint64_t differing = expected[w] ^ actual[w]; differing != 0)
      return testing::AssertionFailure() << "word " << w << " of " << expected.size() << ", first at bit "
                                         << std::countr_zero(differing) << ": expected 0x" << std::hex << expected[w]
                                         << ", found 0x" << actual[w];
  return testing::AssertionSuccess();
}

using Bits = std::vector<std::vector<std::uint64_t>>;  // mask words, tensor by tensor

inline testing::AssertionResult same_masks(const Bits& expected, const Bits& actual) {
  if (expected.size() != actual.size())
    return testing::AssertionFailure() << expected.size() << " masks expected, " << actual.size() << " found";
  for (std::size_t t = 0; t < expected.size(); ++t)
    if (const testing::AssertionResult same = same_words(expected[t], actual[t]); !same)
      return testing::AssertionFailure() << "tensor " << t << ": " << same.message();
  return testing::AssertionSuccess();
}

// New masks to be written, filled with rubbish, and what was written.
class FreshMasks {
 public:
  explicit FreshMasks(std::span<const ScoreInputs> tensors) {
    for (const ScoreInputs& tensor : tensors) {
      bits_.emplace_back(static_cast<std::size_t>(bits::words(tensor.numel)), 0xdeadbeefcafef00du);
      bits_.back().push_back(sentinel);
      pointers_.push_back(bits_.back().data());
    }
  }
  std::span<std::uint64_t* const> table() const { return pointers_; }
  std::vector<const std::uint64_t*> read_only() const { return {pointers_.begin(), pointers_.end()}; }
  Bits bits() const {
    Bits copy = bits_;
    for (auto& words : copy) {
      EXPECT_EQ(words.back(), sentinel) << "a word behind a mask was written";
      words.pop_back();
    }
    return copy;
  }

 private:
  static constexpr std::uint64_t sentinel = 0x5e47135e47135e47u;
  Bits bits_;
  std::vector<std::uint64_t*> pointers_;
};

// Sorts the live scores of all tensors as one sequence by (score, tensor, flat index), NaN apart.
class SortOracle {
 public:
  SortOracle(const std::vector<std::vector<float>>& scores, std::span<const ScoreInputs> tensors) {
    for (std::size_t t = 0; t < scores.size(); ++t) {
      live_.emplace_back(static_cast<std::size_t>(bits::words(tensors[t].numel)), 0);
      for (std::size_t i = 0; i < scores[t].size(); ++i) {
        if (tensors[t].mask && !bits::get(tensors[t].mask, static_cast<std::int64_t>(i))) continue;
        bits::set(live_[t].data(), static_cast<std::int64_t>(i));
        if (std::isnan(scores[t][i]))
          ++nan_;
        else
          order_.push_back({scores[t][i], static_cast<std::uint32_t>(t), static_cast<std::uint32_t>(i)});
      }
    }
    std::stable_sort(order_.begin(), order_.end(),
                     [](const Element& a, const Element& b) { return a.score < b.score; });
  }

  std::int64_t numbers() const { return static_cast<std::int64_t>(order_.size()); }
  std::int64_t nan() const { return nan_; }
  std::int64_t live() const { return numbers() + nan_; }

  // The rank-th smallest score, 1-based; the two zeros are +0.
  float value(std::int64_t rank) const { return order_[static_cast<std::size_t>(rank - 1)].score + 0.0f; }
  std::int64_t below(float value) const {
    return std::partition_point(order_.begin(), order_.end(), [&](const Element& e) { return e.score < value; }) -
           order_.begin();
  }
  std::int64_t at_or_below(float value) const {
    return std::partition_point(order_.begin(), order_.end(), [&](const Element& e) { return e.score <= value; }) -
           order_.begin();
  }

  // How many are pruned for the rank-th score as the threshold; 0 for rank 0 under every rule.
  std::int64_t pruned(std::int64_t rank, Ties ties) const {
    if (rank <= 0) return 0;
    return ties == Ties::exact ? rank : ties == Ties::below ? below(value(rank)) : at_or_below(value(rank));
  }

  // Keep bits after the first pruned(rank, ties) of the order are pruned.
  Bits masks(std::int64_t rank, Ties ties) const { return masks_without(pruned(rank, ties)); }
  Bits masks_without(std::int64_t count) const {
    Bits keep = live_;
    for (std::int64_t i = 0; i < count; ++i) {
      const Element& e = order_[static_cast<std::size_t>(i)];
      bits::clear(keep[e.tensor].data(), e.index);
    }
    return keep;
  }

 private:
  struct Element {
    float score;
    std::uint32_t tensor, index;
  };
  std::vector<Element> order_;
  Bits live_;
  std::int64_t nan_ = 0;
};

}  // namespace test
}  // namespace bittersweet
