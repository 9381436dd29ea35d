// Groups that are cut 64 at a time, a lane each: those that interleave in memory, and short ones.
#pragma once

#include <algorithm>
#include <array>
#include <deque>
#include <span>

#include "bittersweet/engine/workspace.hpp"
#include "bittersweet/mask/bit_layout.hpp"
#include "cpu/tiles.hpp"

namespace bittersweet::cpu {

// One thread's groups, 64 to a block: their keys in halves, element by element, and their keep bits, a word for each.
class Lanes {
 public:
  // `shared`: do other threads write to words of the mask that `columns` and `keep_live` add to?
  Lanes(const Kernels& kernels, const ScoreView& view, std::size_t t, bool shared)
      : kernels_(kernels), view_(view), t_(t), tensor_(view.tensors[t]), shared_(shared) {}

  // So many lanes of groups of `size` are taken together: few enough for a second cache to hold their upper halves, but
  // two words of them up to twice as many elements: longer runs are read better.
  static std::int64_t together(std::int64_t size) {
    constexpr std::int64_t scores = std::int64_t{1} << 18;
    const auto whole = [&](std::int64_t most) { return most / size / width * width; };
    return std::clamp(whole(scores), std::clamp(whole(2 * scores), width, 2 * width), tile_size);
  }

  // A group each of `count` rows, or of places in them, that are neighbours in memory: the element of the first one at
  // its first input lies at `start`, and those of the next input `stride` on. The first `more` lanes give one more than
  // the share. The mask's bits are clear. Returns the live NaN.
  std::int64_t columns(std::int64_t start, std::int64_t stride, std::int64_t count, std::int64_t size,
                       std::int64_t share, std::int64_t more, std::uint64_t* mask) {
    const std::int64_t words = bits::words(count);
    if (size <= few_lanes) return few_columns(start, stride, count, size, share, more, mask);
    reserve(words, size, tile_size);
    std::int64_t nan = 0;
    for (std::int64_t j = 0; j < size; ++j) {
      const std::int64_t first = start + j * stride;
      tiles(0).prefetch(first + ahead * stride, count);
      score(first, count, scores_);
      std::fill(scores_ + count, scores_ + words * width, 0.0f);
      for (std::int64_t word = 0; word < words; ++word) {
        const std::int64_t n = std::min(width, count - word * width);
        keep_[word * size + j] = tensor_.mask ? bits::read(tensor_.mask, first + word * width, n) : bits::valid(n, 0);
      }
      nan += kernels_.split_keys(scores_, keep_ + j, words, size, upper_ + j * width, lower_ + j * width);
    }
    for (std::int64_t word = 0; word < words; ++word)
      cut(word * size, size, share, more - word * width, nan != 0, nullptr, {});
    constexpr std::int64_t soon = 16;  // inputs: the mask's words lie apart, and are read before they are written
    for_each_word(start, stride, count, size, [&](std::int64_t place, std::int64_t n, std::int64_t at) {
      __builtin_prefetch(mask + (place + soon * stride) / width, 1);
      add(mask, place, n, keep_[at]);
    });
    return nan;
  }

  // Inputs that are in no group: what lives is kept.
  void keep_live(std::int64_t start, std::int64_t count, std::uint64_t* mask) {
    for_each_word(start, 0, count, 1, [&](std::int64_t place, std::int64_t n, std::int64_t) {
      add(mask, place, n, tensor_.mask ? bits::read(tensor_.mask, place, n) : bits::valid(n, 0));
    });
  }

  // Of groups that lie one after another: `count` from `first` on, which is a multiple of 64. Those before `extra`, in
  // groups, give one more. Writes whole words of the mask.
  std::int64_t runs(std::int64_t first, std::int64_t count, std::int64_t size, std::int64_t base, std::int64_t extra,
                    std::uint64_t* mask) {
    const std::int64_t start = first * size, elements = count * size;
    reserve(1, size, (size + 1) * width);  // turning reads a vector behind them
    words_ = memory_.get<std::uint64_t>(6, static_cast<std::size_t>(size));
    for (std::int64_t i = 0; i < elements; i += tile_size)
      score(start + i, std::min(tile_size, elements - i), scores_ + i);
    std::fill(scores_ + elements, scores_ + (size + 1) * width, 0.0f);
    if (tensor_.mask) {
      bits::extract(tensor_.mask, start, elements, words_);
      std::fill(words_ + bits::words(elements), words_ + size, 0);
      std::fill_n(keep_, size, 0);
      bits::transpose(words_, 0, width, size, keep_);
    } else {
      for (std::int64_t word = 0; word < size; ++word) words_[word] = bits::valid(elements, word);
      std::fill_n(keep_, size, bits::valid(count, 0));
    }
    const std::int64_t next = start + elements, after = std::min(elements, tensor_.numel - next);
    std::int64_t nan = 0;
    if (size <= few_lanes) {
      tiles(0).prefetch(next, after);
      turned_ = memory_.get<float>(5, static_cast<std::size_t>(size * width));
      kernels_.turn_groups(scores_, size, turned_);
      nan =
          kernels_.drop_lowest_of_turned(turned_, size, base, std::clamp<std::int64_t>(extra - first, 0, width), keep_);
    } else {
      as_they_lie_ = memory_.get<std::int16_t>(7, static_cast<std::size_t>(size * width));
      nan = kernels_.split_groups(scores_, words_, size, as_they_lie_, upper_);
      cut(0, size, base, extra - first, nan != 0, scores_, tiles(0).next(next, after));
    }
    std::fill_n(words_, size, 0);
    bits::transpose(keep_, 0, size, width, words_);
    std::copy_n(words_, bits::words(elements), mask + start / bits::per_word);
    return nan;
  }

  static constexpr std::int64_t width = bits::per_word;

 private:
  static constexpr std::int64_t ahead = 4;  // inputs

  void add(std::uint64_t* mask, std::int64_t first, std::int64_t count, std::uint64_t live) const {
    if (shared_)
      bits::add_shared(mask, first, count, live);
    else
      bits::add(mask, first, count, live);
  }

  // For so many times 64 groups of `size`, scored so many elements at a time.
  void reserve(std::int64_t words, std::int64_t size, std::int64_t scores) {
    const auto all = static_cast<std::size_t>(words * size);
    upper_ = memory_.get<std::int16_t>(0, all * width);
    lower_ = memory_.get<std::int16_t>(1, all * width);
    keep_ = memory_.get<std::uint64_t>(2, all);
    listed_ = memory_.get<std::uint64_t>(3, static_cast<std::size_t>(size * width));
    scores_ = memory_.get<float>(4, static_cast<std::size_t>(scores));
  }

  // f(place, lanes, at) for every input and every 64 lanes of it: word `at` of all, those of 64 lanes together.
  template <class F>
  void for_each_word(std::int64_t start, std::int64_t stride, std::int64_t count, std::int64_t size, F&& f) {
    for (std::int64_t j = 0; j < size; ++j)
      for (std::int64_t lane = 0; lane < count; lane += width)
        f(start + j * stride + lane, std::min(width, count - lane), lane / width * size + j);
  }

  void score(std::int64_t first, std::int64_t count, float* to) {
    tiles(0).score(tiles(0).at(first, count), count, to);
  }

  // Of the j-th input that is read side by side with others.
  Tiles& tiles(std::size_t j) {
    while (tiles_.size() <= j) tiles_.emplace_back(kernels_, view_, t_);
    return tiles_[j];
  }

  // `columns` of few inputs: they are read side by side.
  std::int64_t few_columns(std::int64_t start, std::int64_t stride, std::int64_t count, std::int64_t size,
                           std::int64_t share, std::int64_t more, std::uint64_t* mask) {
    const std::int64_t words = bits::words(count);
    keep_ = memory_.get<std::uint64_t>(2, static_cast<std::size_t>(words * size));
    std::array<RowTile, RowTile::room> inputs;
    for (std::int64_t j = 0; j < size; ++j) {
      const std::int64_t first = start + j * stride;
      std::uint64_t* const keep = keep_ + j * words;
      if (tensor_.mask) bits::extract(tensor_.mask, first, count, keep);
      inputs[static_cast<std::size_t>(j)] = {.in = tiles(static_cast<std::size_t>(j)).at(first, count),
                                             .live = tensor_.mask ? keep : nullptr,
                                             .keep = keep,
                                             .gap = size * stride - count};
    }
    const std::int64_t nan = kernels_.drop_lowest_of_few[view_.scorer.index()][tiles(0).stored()](
        view_.scorer, std::span(inputs).first(static_cast<std::size_t>(size)), count, share, more);
    for (std::int64_t j = 0; j < size; ++j)
      for (std::int64_t lane = 0; lane < count; lane += width)
        add(mask, start + j * stride + lane, std::min(width, count - lane), keep_[j * words + lane / width]);
    return nan;
  }

  // `scores` may be null: then there are lower halves.
  void cut(std::int64_t from, std::int64_t size, std::int64_t share, std::int64_t more, bool nans, const float* scores,
           const ReadNext& next) {
    LaneBlock block{.size = size,
                    .upper = upper_ + from * width,
                    .lower = lower_ + from * width,
                    .scores = scores,
                    .as_they_lie = as_they_lie_,
                    .nans = nans,
                    .keep = keep_ + from,
                    .next = next,
                    .listed = listed_};
    kernels_.drop_lowest_across(block, share, std::clamp<std::int64_t>(more, 0, width), guess_);
    for (std::uint64_t open = block.open; open != 0; open = bits::without_lowest(open)) {
      const int lane = bits::lowest_or_width(open);
      const std::int64_t go = block.more_go[static_cast<std::size_t>(lane)];
      const std::span listed(listed_ + lane * size,
                             static_cast<std::size_t>(block.listed_of[static_cast<std::size_t>(lane)]));
      if (!std::is_sorted(listed.begin(), listed.end()))  // equal keys are
        std::nth_element(listed.begin(), listed.begin() + go - 1, listed.end());
      for (const std::uint64_t one : listed.first(static_cast<std::size_t>(go)))
        bits::clear(block.keep + static_cast<std::uint32_t>(one), lane);
    }
  }

  const Kernels& kernels_;
  const ScoreView& view_;
  const std::size_t t_;
  const ScoreInputs& tensor_;
  std::deque<Tiles> tiles_;
  const bool shared_;
  LaneGuess guess_;
  Workspace memory_;
  std::int16_t* upper_ = nullptr;  // keys in halves, and live bits, of 64 groups at a time element by element
  std::int16_t* lower_ = nullptr;
  std::uint64_t* keep_ = nullptr;
  std::uint64_t* listed_ = nullptr;
  float* scores_ = nullptr;  // of one input, or group by group
  // Of groups that lie one after another: scores, element by element, or halves; and live bits.
  float* turned_ = nullptr;
  std::int16_t* as_they_lie_ = nullptr;
  std::uint64_t* words_ = nullptr;
};

}  // namespace bittersweet::cpu
