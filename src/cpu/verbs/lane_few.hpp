// Groups of few elements that lie side by side, a lane each: ranked by comparing every two.
#pragma once

#include "cpu/verbs/group_ranks.hpp"

namespace bittersweet {
namespace {

// What the groups of a vector give: `share`, the first `more` of all one more.
BITTERSWEET_INLINE IntVector shares_of(int v, std::int64_t share, std::int64_t more) {
  IntVector wanted{};
  for (int lane = 0; lane < lanes; ++lane) wanted[lane] = static_cast<std::int32_t>(share + (v * lanes + lane < more));
  return wanted;
}

// Of 64 groups, element by element: scores or keys.
template <class V>
using FewOf = V[cpu::few_lanes][vectors_per_word];

// Bits of the groups of which element j is among the lowest; of equal ones the first is the lower.
template <class V>
BITTERSWEET_INLINE void rank_any(const FewOf<V>& of, std::int64_t size, std::int64_t share, std::int64_t more,
                                 std::uint64_t* lowest) {
  IntVector wanted[vectors_per_word];
  for (int v = 0; v < vectors_per_word; ++v) wanted[v] = shares_of(v, share, more);
  for (std::int64_t j = 0; j < size; ++j) {
    Mask low[vectors_per_word];
    for (int v = 0; v < vectors_per_word; ++v) {
      IntVector rank = IntVector{} + static_cast<std::int32_t>(j);
      for (std::int64_t i = 0; i < j; ++i) rank = one_less(rank, less(of[j][v], of[i][v]));
      for (std::int64_t i = j + 1; i < size; ++i) rank = one_more(rank, less(of[i][v], of[j][v]));
      low[v] = less(rank, wanted[v]);
    }
    lowest[j] = pack(low);
  }
}

// The same of as many as can be kept in registers: of two, one is the lower.
template <int Size, class V>
BITTERSWEET_INLINE void rank_all(const FewOf<V>& of, std::int64_t share, std::int64_t more, std::uint64_t* lowest) {
  Mask low[Size][vectors_per_word];
  for (int v = 0; v < vectors_per_word; ++v) {
    IntVector rank[Size];
    for (int j = 0; j < Size; ++j) {
      rank[j] = IntVector{} + j;
      for (int i = 0; i < j; ++i) {
        const Mask swapped = less(of[j][v], of[i][v]);
        rank[i] = one_more(rank[i], swapped);
        rank[j] = one_less(rank[j], swapped);
      }
    }
    const IntVector wanted = shares_of(v, share, more);
    for (int j = 0; j < Size; ++j) low[j][v] = less(rank[j], wanted);
  }
  for (int j = 0; j < Size; ++j) lowest[j] = pack(low[j]);
}

template <class V>
BITTERSWEET_INLINE void rank_four(const FewOf<V>& of, std::int64_t share, std::int64_t more, std::uint64_t* lowest) {
  const auto lower = [&](int a, int b) {  // which of two is b?
    Mask low[vectors_per_word];
    for (int v = 0; v < vectors_per_word; ++v) low[v] = less(of[b][v], of[a][v]);
    return pack(low);
  };
  const std::uint64_t of01 = lower(0, 1), of02 = lower(0, 2), of03 = lower(0, 3), of12 = lower(1, 2),
                      of13 = lower(1, 3), of23 = lower(2, 3), first = more > 0 ? bits::valid(more, 0) : 0;
  const auto choose = [&](std::uint64_t a, std::uint64_t b, std::uint64_t c) {
    const std::uint64_t all = fewer_lower(share, a, b, c);
    return first == 0 ? all : (all & ~first) | (fewer_lower(share + 1, a, b, c) & first);
  };
  lowest[0] = choose(of01, of02, of03);
  lowest[1] = choose(~of01, of12, of13);
  lowest[2] = choose(~of02, ~of12, of23);
  lowest[3] = choose(~of03, ~of13, ~of23);
}

template <class V>
void rank_few(const FewOf<V>& of, std::int64_t size, std::int64_t share, std::int64_t more, std::uint64_t* lowest) {
  switch (size) {
    case 4: return rank_four(of, share, more, lowest);
    case 8: return rank_all<8>(of, share, more, lowest);
    default: return rank_any(of, size, share, more, lowest);
  }
}

// 64 groups of few elements, taken in one by one.
class FewLanes {
 public:
  BITTERSWEET_INLINE void add(const WordOfScores& scores, std::uint64_t live) {
    plain_ &= live == ~std::uint64_t{0} && !any_nan(scores);
    for (int v = 0; v < vectors_per_word; ++v) scores_[size_][v] = scores[v];
    live_[size_++] = live;
  }

  // Their bits without the `share` lowest of every group, and of the first `more` groups one more. Dead elements go
  // first. Returns the live NaN, which stay.
  std::int64_t keep_highest(std::int64_t share, std::int64_t more, std::uint64_t* keep) const {
    std::uint64_t lowest[cpu::few_lanes];
    std::int64_t nans = 0;
    if (plain_) {
      rank_few(scores_, size_, share, more, lowest);
    } else {
      FewOf<IntVector> keys;
      std::uint64_t nan[cpu::few_lanes];
      for (std::int64_t j = 0; j < size_; ++j) {
        const KeyedWord own = keyed(scores_[j], live_[j]);
        for (int v = 0; v < vectors_per_word; ++v) keys[j][v] = own.keys[v];
        nans += bits::count(nan[j] = own.nan);
      }
      rank_few(keys, size_, share, more, lowest);
      for (std::int64_t j = 0; j < size_; ++j) lowest[j] &= ~nan[j];
    }
    for (std::int64_t j = 0; j < size_; ++j) keep[j] = live_[j] & ~lowest[j];
    return nans;
  }

  BITTERSWEET_INLINE void clear() { size_ = 0, plain_ = true; }

 private:
  FewOf<Vec> scores_;
  std::uint64_t live_[cpu::few_lanes];
  std::int64_t size_ = 0;
  bool plain_ = true;
};

// `inputs` are the elements of `count` groups, 2 to few_lanes of them. Writes their bits as FewLanes says.
template <class S, std::size_t St>
std::int64_t drop_lowest_of_few(const Scorer& scorer, std::span<const cpu::RowTile> inputs, std::int64_t count,
                                std::int64_t share, std::int64_t more) {
  const auto size = static_cast<std::int64_t>(inputs.size());
  FewLanes all;
  std::int64_t nans = 0;
  for_each_word_of_rows<S, StoredType<St>>(
      scorer, inputs, count,
      [&](const cpu::RowTile& input, std::int64_t word, std::uint64_t live, const WordOfScores& scores) {
        all.add(scores, live);
        if (&input != &inputs.back()) return;
        std::uint64_t keep[cpu::few_lanes];
        nans +=
            all.keep_highest(share, std::clamp<std::int64_t>(more - word * bits::per_word, 0, bits::per_word), keep);
        for (std::int64_t j = 0; j < size; ++j) inputs[static_cast<std::size_t>(j)].keep[word] = keep[j];
        all.clear();
      });
  return nans;
}

// The same of 64 groups of scores, those of their first elements, and so on. `keep` has their live bits.
inline std::int64_t drop_lowest_of_turned(const float* scores, std::int64_t size, std::int64_t share, std::int64_t more,
                                          std::uint64_t* keep) {
  FewLanes all;
  for (std::int64_t j = 0; j < size; ++j) {
    WordOfScores own;
    for (int v = 0; v < vectors_per_word; ++v) own[v] = load(scores, j * bits::per_word + v * lanes);
    all.add(own, keep[j]);
  }
  return all.keep_highest(share, more, keep);
}

}  // namespace
}  // namespace bittersweet
