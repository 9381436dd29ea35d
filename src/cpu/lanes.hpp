// Groups that are cut 64 at a time, a lane each: those that interleave in memory, and short ones.
#pragma once

#include <algorithm>
#include <vector>

#include "bittersweet/mask/bit_layout.hpp"
#include "cpu/tiles.hpp"

namespace bittersweet::cpu {

// One thread's 64 groups: their scores element by element, and their keep bits, a word for each.
class Lanes {
 public:
  // `shared`: do other threads write to words of the mask that `columns` and `keep_live` add to?
  Lanes(const Kernels& kernels, const ScoreView& view, std::size_t t, bool shared)
      : kernels_(kernels), tensor_(view.tensors[t]), tiles_(kernels, view, t), shared_(shared) {}

  // So many lanes of groups of `size` are taken together: runs as long as that are read well, and the first one's
  // scores are still near when the last one's are read.
  static std::int64_t together(std::int64_t size) {
    constexpr std::int64_t scores = std::int64_t{1} << 20;
    return std::clamp(scores / size / width * width, width, tile_size);
  }

  // A group each of `count` rows, or of places in them, that are neighbours in memory: the element of the first one at
  // its first input lies at `start`, and those of the next input `stride` on. The first `more` lanes give one more than
  // the share. The mask's bits are clear. Returns the live NaN.
  std::int64_t columns(std::int64_t start, std::int64_t stride, std::int64_t count, std::int64_t size,
                       std::int64_t share, std::int64_t more, std::uint64_t* mask) {
    reserve((count + width - 1) / width * size);
    alignas(64) float line[tile_size];
    for (std::int64_t j = 0; j < size; ++j) {
      const std::int64_t first = start + j * stride;
      tiles_.prefetch(first + ahead * stride, count);
      score(first, count, line);
      std::fill(line + count, line + bits::words(count) * width, 0.0f);
      for (std::int64_t lane = 0; lane < count; lane += width) {
        const std::int64_t n = std::min(width, count - lane), at = lane / width * size + j;
        std::copy_n(line + lane, width, scores_.data() + at * width);
        keep_[static_cast<std::size_t>(at)] =
            tensor_.mask ? bits::read(tensor_.mask, first + lane, n) : bits::valid(n, 0);
      }
    }
    std::int64_t nan = 0;
    for (std::int64_t lane = 0; lane < count; lane += width) nan += cut(lane / width * size, size, share, more - lane);
    for_each_word(start, stride, count, size, [&](std::int64_t place, std::int64_t n, std::int64_t at) {
      add(mask, place, n, keep_[static_cast<std::size_t>(at)]);
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
    reserve(size);
    rows_.resize(static_cast<std::size_t>(size * width));
    words_.assign(static_cast<std::size_t>(size), 0);
    tiles_.prefetch(start + elements, std::min({elements, tile_size, tensor_.numel - start - elements}));
    for (std::int64_t i = 0; i < elements; i += tile_size)
      score(start + i, std::min(tile_size, elements - i), rows_.data() + i);
    std::fill(rows_.begin() + elements, rows_.end(), 0.0f);
    kernels_.turn_groups(rows_.data(), size, scores_.data());
    if (tensor_.mask) {
      bits::extract(tensor_.mask, start, elements, words_.data());
      std::fill_n(keep_.begin(), size, 0);
      bits::transpose(words_.data(), 0, width, size, keep_.data());
      std::fill(words_.begin(), words_.end(), 0);
    } else {
      std::fill_n(keep_.begin(), size, bits::valid(count, 0));
    }
    const std::int64_t nan = cut(0, size, base, extra - first);
    bits::transpose(keep_.data(), 0, size, width, words_.data());
    std::copy_n(words_.data(), bits::words(elements), mask + start / bits::per_word);
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

  void reserve(std::int64_t words) {
    if (std::ssize(keep_) >= words) return;
    keep_.resize(static_cast<std::size_t>(words));
    scores_.resize(static_cast<std::size_t>(words * width));
  }

  // f(place, lanes, at) for every input and every 64 lanes of it: word `at` of all, those of 64 lanes together.
  template <class F>
  void for_each_word(std::int64_t start, std::int64_t stride, std::int64_t count, std::int64_t size, F&& f) {
    for (std::int64_t j = 0; j < size; ++j)
      for (std::int64_t lane = 0; lane < count; lane += width)
        f(start + j * stride + lane, std::min(width, count - lane), lane / width * size + j);
  }

  void score(std::int64_t first, std::int64_t count, float* to) { tiles_.score(tiles_.at(first, count), count, to); }

  std::int64_t cut(std::int64_t from, std::int64_t size, std::int64_t share, std::int64_t more) {
    return kernels_.drop_lowest_across(scores_.data() + from * width, size, share,
                                       std::clamp<std::int64_t>(more, 0, width), guess_,
                                       keep_.data() + static_cast<std::ptrdiff_t>(from));
  }

  const Kernels& kernels_;
  const ScoreInputs& tensor_;
  Tiles tiles_;
  const bool shared_;
  LaneGuess guess_;
  std::vector<float> scores_, rows_;  // 64 lanes element by element; groups one by one
  std::vector<std::uint64_t> keep_, words_;
};

}  // namespace bittersweet::cpu
