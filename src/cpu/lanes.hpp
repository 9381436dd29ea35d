// Groups that are cut 64 at a time, a lane each: those that interleave in memory, and short ones.
#pragma once

#include <algorithm>
#include <array>
#include <deque>
#include <span>

#include "bittersweet/engine/workspace.hpp"
#include "bittersweet/mask/bit_layout.hpp"
#include "bittersweet/radix_key.hpp"
#include "cpu/tiles.hpp"

namespace bittersweet::cpu {

// One thread's groups, 64 to a block: halves of their keys (lane_halves.hpp), and their keep bits, a word for each
// element.
class Lanes {
 public:
  // `shared`: do other threads write to words of the mask that `columns` and `keep_live` add to?
  Lanes(const Kernels& kernels, const ScoreView& view, std::size_t t, bool shared)
      : kernels_(kernels), view_(view), t_(t), tensor_(view.tensors[t]), shared_(shared) {}

  // So many lanes of groups of `size` are taken together: each input of them is a run of memory, which is read the
  // better the longer it is: so many that some megabytes hold what is kept of them, but four words of rows up to four
  // times as long.
  static std::int64_t together(std::int64_t size) {
    constexpr std::int64_t scores = std::int64_t{1} << 20;
    const auto whole = [&](std::int64_t most) { return most / size / width * width; };
    return std::clamp(whole(scores), std::clamp(whole(4 * scores), width, 4 * width), tile_size);
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
    std::array<RowTile, RowTile::most> inputs;
    for (std::int64_t j = 0, n = 0; j < size; j += n) {
      n = std::min<std::int64_t>(RowTile::most, size - j);
      for (std::int64_t i = 0; i < n; ++i) {
        const std::int64_t first = start + (j + i) * stride;
        std::uint64_t* const live = live_ + i * words;
        if (tensor_.mask) bits::extract(tensor_.mask, first, count, live);
        if (!tiles(0).in_place()) tiles(0).prefetch(first + std::int64_t{RowTile::most} * stride, count);
        inputs[static_cast<std::size_t>(i)] = {.in = tiles(static_cast<std::size_t>(i)).at(first, count),
                                               .live = tensor_.mask ? live : nullptr,
                                               .gap = std::int64_t{RowTile::most} * stride - words * width};
      }
      nan += kernels_.split_columns[view_.scorer.index()][tiles(0).stored()](
          view_.scorer, std::span(inputs).first(static_cast<std::size_t>(n)), count, j, size, upper_, keep_);
    }
    for (std::int64_t word = 0; word < words; ++word)
      cut({.size = size,
           .upper = upper_ + word * size * width,
           .nans = nan != 0,
           .keep = keep_ + word * size,
           .next = {},
           .listed = listed_},
          share, more - word * width, {start + word * width, 1, stride, std::min(width, count - word * width)});
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
      score_runs(start, elements, size);
      tiles(0).prefetch(next, after);
      turned_ = memory_.get<float>(5, static_cast<std::size_t>(size * width));
      kernels_.turn_groups(scores_, size, turned_);
      nan =
          kernels_.drop_lowest_of_turned(turned_, size, base, std::clamp<std::int64_t>(extra - first, 0, width), keep_);
    } else {
      as_they_lie_ = memory_.get<std::int16_t>(7, static_cast<std::size_t>(size * width));
      for (std::int64_t i = 0; i < elements; i += tile_size) {
        const std::int64_t n = std::min(tile_size, elements - i);
        std::uint64_t* const live = words_ + i / width;
        // What is read next is asked for while this is worked on: here for no more than is read now.
        const RowTile tile{.in = tiles(0).at(start + i, n), .live = live, .gap = -bits::words(n) * width};
        nan += kernels_.split_columns[view_.scorer.index()][tiles(0).stored()](view_.scorer, std::span(&tile, 1), n, 0,
                                                                               1, as_they_lie_ + i, live);
      }
      std::fill(as_they_lie_ + bits::words(elements) * width, as_they_lie_ + size * width, half_of_dead);
      kernels_.turn_halves(as_they_lie_, size, upper_);
      cut({.size = size,
           .upper = upper_,
           .nans = nan != 0,
           .keep = keep_,
           .next = tiles(0).next(next, after),
           .listed = listed_},
          base, extra - first, {start, size, 1, count});
    }
    std::fill_n(words_, size, 0);
    bits::transpose(keep_, 0, size, width, words_);
    std::copy_n(words_, bits::words(elements), mask + start / bits::per_word);
    return nan;
  }

  static constexpr std::int64_t width = bits::per_word;

 private:
  static constexpr std::int16_t half_of_dead = std::numeric_limits<std::int16_t>::min();  // of a key

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
    lower_ = memory_.get<std::int16_t>(1, static_cast<std::size_t>(size * width));
    keep_ = memory_.get<std::uint64_t>(2, all);
    listed_ = memory_.get<std::uint64_t>(3, static_cast<std::size_t>(size * width));
    scores_ = memory_.get<float>(4, static_cast<std::size_t>(scores));
    live_ = memory_.get<std::uint64_t>(8, RowTile::most * static_cast<std::size_t>(words));
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

  // Scores of groups that lie one after another; behind them are zeros.
  void score_runs(std::int64_t start, std::int64_t elements, std::int64_t size) {
    for (std::int64_t i = 0; i < elements; i += tile_size)
      score(start + i, std::min(tile_size, elements - i), scores_ + i);
    std::fill(scores_ + elements, scores_ + (size + 1) * width, 0.0f);
  }

  // Where the elements of `count` groups lie: from the first one's first, so far apart are groups, and their elements.
  struct Place {
    std::int64_t start, group, element, count;
  };

  void cut(LaneBlock block, std::int64_t share, std::int64_t more, const Place& place) {
    more = std::clamp<std::int64_t>(more, 0, width);
    if (!kernels_.drop_lowest_across(block, share, more, guess_)) {
      make_lower(block.size, place);
      block.lower = lower_;
      kernels_.drop_lowest_across(block, share, more, guess_);
    }
    find_keys(block, place);
    for (std::uint64_t open = block.open; open != 0; open = bits::without_lowest(open)) {
      const int lane = bits::lowest_or_width(open);
      const std::int64_t go = block.more_go[static_cast<std::size_t>(lane)];
      const std::span<std::uint64_t> listed = list_of(block, lane);
      if (!std::is_sorted(listed.begin(), listed.end()))  // equal keys are
        std::nth_element(listed.begin(), listed.begin() + go - 1, listed.end());
      for (const std::uint64_t one : listed.first(static_cast<std::size_t>(go)))
        bits::clear(block.keep + static_cast<std::uint32_t>(one), lane);
    }
  }

  static std::span<std::uint64_t> list_of(const LaneBlock& block, int lane) {
    return {block.listed + lane * block.size,
            static_cast<std::size_t>(block.listed_of[static_cast<std::size_t>(lane)])};
  }

  // The lower halves of 64 groups.
  void make_lower(std::int64_t size, const Place& place) {
    if (place.group > 1) {  // one after another
      score_runs(place.start, place.count * size, size);
      for (std::int64_t word = 0; word < size; ++word)
        kernels_.lower_halves(scores_ + word * width, 0, 1, as_they_lie_ + word * width);
      kernels_.turn_halves(as_they_lie_, size, lower_);
      return;
    }
    std::fill_n(scores_, width, 0.0f);
    for (std::int64_t j = 0; j < size; ++j) {
      score(place.start + j * place.element, place.count, scores_);
      kernels_.lower_halves(scores_, j, size, lower_);
    }
  }

  // Puts its key (radix_key.hpp) above the place of each element that is listed.
  void find_keys(const LaneBlock& block, const Place& place) {
    constexpr std::size_t most = 512;
    std::array<std::int64_t, most> elements;
    std::array<std::uint64_t*, most> listed;
    std::array<float, most> scores;
    std::size_t count = 0;
    const auto find = [&] {
      const auto n = static_cast<std::int64_t>(count);
      tiles(0).score(tiles(0).at(elements.data(), n, 1), n, scores.data());
      for (std::size_t i = 0; i < count; ++i) *listed[i] |= std::uint64_t{key_of(scores[i])} << 32;
      count = 0;
    };
    for (std::uint64_t open = block.open; open != 0; open = bits::without_lowest(open)) {
      const int lane = bits::lowest_or_width(open);
      for (std::uint64_t& one : list_of(block, lane)) {
        elements[count] = place.start + lane * place.group + static_cast<std::int64_t>(one) * place.element;
        listed[count++] = &one;
        if (count == most) find();
      }
    }
    if (count > 0) find();
  }

  const Kernels& kernels_;
  const ScoreView& view_;
  const std::size_t t_;
  const ScoreInputs& tensor_;
  std::deque<Tiles> tiles_;
  const bool shared_;
  LaneGuess guess_;
  Workspace memory_;
  std::int16_t* upper_ = nullptr;
  std::int16_t* lower_ = nullptr;  // of 64 groups
  std::uint64_t* keep_ = nullptr;
  std::uint64_t* listed_ = nullptr;
  std::uint64_t* live_ = nullptr;  // of a few inputs
  float* scores_ = nullptr;        // of one input, or group by group
  // Of groups that lie one after another: scores, element by element, or halves; and live bits.
  float* turned_ = nullptr;
  std::int16_t* as_they_lie_ = nullptr;
  std::uint64_t* words_ = nullptr;
};

}  // namespace bittersweet::cpu
