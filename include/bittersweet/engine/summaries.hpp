// What an engine tells a selector: small mergeable integers (and, for moments, doubles in a fixed order). Threads,
// tensors and processes merge them the same way. Integers decide; floats only propose.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "bittersweet/score/score_view.hpp"

namespace bittersweet {

// Work is cut into the same pieces whatever the number of threads: up to 65,536 consecutive elements of one tensor,
// in order of (tensor, flat index). A piece starts on a mask word.
struct Chunk {
  static constexpr std::int64_t size = 65536;
  std::uint32_t tensor;
  std::uint32_t count;
  std::int64_t first;
};

inline std::vector<Chunk> make_chunks(std::span<const ScoreInputs> tensors) {
  std::vector<Chunk> chunks;
  for (std::size_t t = 0; t < tensors.size(); ++t)
    for (std::int64_t first = 0; first < tensors[t].numel; first += Chunk::size)
      chunks.push_back({static_cast<std::uint32_t>(t),
                        static_cast<std::uint32_t>(std::min(Chunk::size, tensors[t].numel - first)), first});
  return chunks;
}

// A bracket around the wanted rank. Scores outside [low, high] are decided by it; those strictly inside are collected.
struct Bracket {
  float low = 0;
  float high = 0;
  bool heavy_ends = false;  // one end is a value of many elements: count it in registers rather than one by one
};

// Is a value with so many copies among those drawn from a model an end of many elements? Fewer are cheaper one by one.
inline bool is_heavy(double copies, double drawn) { return copies >= std::max(16.0, drawn / 128); }

// How live scores lie against a bracket. `equal_high` stays 0 when low == high.
struct BracketCounts {
  std::int64_t below = 0;
  std::int64_t equal_low = 0;
  std::int64_t inside = 0;
  std::int64_t equal_high = 0;
  std::int64_t above = 0;
  std::int64_t nan = 0;

  BracketCounts& operator+=(const BracketCounts& other) noexcept {
    below += other.below;
    equal_low += other.equal_low;
    inside += other.inside;
    equal_high += other.equal_high;
    above += other.above;
    nan += other.nan;
    return *this;
  }
  std::int64_t total() const noexcept { return below + equal_low + inside + equal_high + above + nan; }
  bool operator==(const BracketCounts&) const = default;
};

// The scores strictly inside the bracket that one chunk holds, in order of index. Borrowed from the workspace.
struct Candidates {
  const float* scores = nullptr;
  const std::uint16_t* offsets = nullptr;  // index within the chunk
  std::uint32_t count = 0;
};

struct BracketResult {
  BracketCounts total;
  std::vector<BracketCounts> chunk;               // one per chunk; a read without masks or NaN may leave it empty
  std::vector<Candidates> candidates;             // one per chunk; incomplete when `overflow`
  std::vector<std::span<const float>> collected;  // the same scores in a few pieces, in no order
  bool overflow = false;                          // more inside than the capacity; the counts are exact all the same
  std::int64_t bytes = 0;                         // of workspace used
  double passes = 1;                              // reads that it took
};

// What a bracket pass and its completion leave of new masks. By chunk: the live bits that its words have now, or -1
// where that is not known; and, unless these are empty, the candidates whose bits below the threshold, and the first
// `ties` at it, have yet to be cleared.
struct Unsettled {
  std::vector<std::int64_t> live;
  std::vector<Candidates> candidates;
  std::vector<std::int64_t> ties;
  float threshold = 0.0f;
};

// One digit of the radix search: the keys whose leading `prefix_bits` bits are `prefix`, by their next `digit_bits`.
struct Digit {
  std::uint32_t prefix = 0;
  int prefix_bits = 0;
  int digit_bits = 16;

  constexpr int shift() const noexcept { return 32 - prefix_bits - digit_bits; }
  constexpr bool matches(std::uint32_t key) const noexcept {
    return prefix_bits == 0 || (key >> (32 - prefix_bits)) == prefix;
  }
  constexpr std::uint32_t bin(std::uint32_t key) const noexcept { return (key >> shift()) & ((1u << digit_bits) - 1); }
};

// The bin of a histogram that holds the order-th smallest, and how many lie in the bins before it.
struct Found {
  std::uint64_t bin = 0;
  std::uint64_t below = 0;
  std::uint64_t count = 0;
  std::uint64_t total = 0;  // of all bins
};

// Sums of the finite live scores. Doubles are added in one fixed order: within blocks of 4,096 consecutive elements
// of a tensor in 16 interleaved lanes (element i to lane i mod 16), the lanes pairwise; then the blocks of all tensors,
// numbered in their order, in 256 interleaved lanes, and these pairwise.
struct Moments {
  std::int64_t finite = 0;
  std::int64_t nan = 0;
  std::int64_t total = 0;
  double sum = 0;
  double sum_of_squares = 0;

  static constexpr std::int64_t block = 4096;
  static constexpr int lanes = 16;
  static constexpr std::size_t block_lanes = 256;

  Moments& operator+=(const Moments& other) noexcept {
    finite += other.finite;
    nan += other.nan;
    total += other.total;
    sum += other.sum;
    sum_of_squares += other.sum_of_squares;
    return *this;
  }
};

// Lanes folded pairwise: of 16, (0+8, 1+9, ...), then (0+4, ...), down to one.
template <class T, std::size_t N>
BITTERSWEET_FORMULA T fold_lanes(std::array<T, N> lane) noexcept {
  for (std::size_t width = N / 2; width > 0; width /= 2)
    for (std::size_t i = 0; i < width; ++i) lane[i] += lane[i + width];
  return lane[0];
}

inline Moments fold_blocks(std::span<const Moments> blocks) {
  Moments total;
  std::array<double, Moments::block_lanes> sum{}, squares{};
  for (std::size_t j = 0; j < blocks.size(); ++j) {
    total += blocks[j];
    sum[j % Moments::block_lanes] += blocks[j].sum;
    squares[j % Moments::block_lanes] += blocks[j].sum_of_squares;
  }
  total.sum = fold_lanes(sum);
  total.sum_of_squares = fold_lanes(squares);
  return total;
}

struct CountsAt {  // of one threshold
  std::int64_t below = 0;
  std::int64_t equal = 0;
  bool operator==(const CountsAt&) const = default;
  CountsAt& operator+=(const CountsAt& other) {
    below += other.below;
    equal += other.equal;
    return *this;
  }
};

// Which chunks to write a mask for, and how many of the scores equal to the threshold to prune in each (the first).
struct ChunkQuota {
  std::uint32_t chunk;
  std::int64_t ties;
};
inline constexpr std::int64_t all_ties = INT64_MAX;

// A chunk whose mask needs no scores: all that is live stays, or nothing.
struct ChunkFill {
  std::uint32_t chunk;
  bool keep;
};

// A sample: short runs of neighbours in memory (128 bytes of f32: two cache lines that one page look-up brings in), one
// per stratum of the sequence, at a hashed place in it. A place is an element of the line; with `first`, the number of
// each tensor's first line and of all lines, it is the line's number, and every line is as likely as any other.
struct LineSample {
  static constexpr std::int64_t width = 32;
  std::int64_t lines = 0;
  std::uint64_t seed = 0;
  std::span<const std::int64_t> first{};
};

// Begin of the j-th of `parts` nearly equal stretches of 0..n.
constexpr std::int64_t stretch(std::int64_t j, std::int64_t n, std::int64_t parts) noexcept {
  return j * (n / parts) + std::min(j, n % parts);
}

// The place of line `line` in its stretch of 0..n.
constexpr std::int64_t line_place(std::int64_t n, std::int64_t lines, std::int64_t line,
                                  std::uint32_t random) noexcept {
  const std::int64_t begin = stretch(line, n, lines), end = stretch(line + 1, n, lines);
  return begin + (end > begin ? static_cast<std::int64_t>(random) % (end - begin) : 0);
}

// The position of an element of line `line`.
inline std::int64_t line_position(const ScoreView& view, const LineSample& plan, std::int64_t line,
                                  std::uint32_t random) noexcept {
  if (plan.first.empty()) return view.offset[0] + line_place(view.size(), plan.lines, line, random);
  const std::int64_t number = line_place(plan.first.back(), plan.lines, line, random);
  const auto t = static_cast<std::size_t>(std::ranges::upper_bound(plan.first, number) - plan.first.begin() - 1);
  return view.offset[t] + (number - plan.first[t]) * LineSample::width;
}

// Where line `line` of a sample begins: its tensor and flat index, a multiple of LineSample::width.
inline std::pair<std::size_t, std::int64_t> line_at(const ScoreView& view, const LineSample& plan, std::int64_t line) {
  const auto random = philox(static_cast<std::uint64_t>(line) / 4, plan.seed, Purpose::bracket_sample);
  const std::int64_t position = line_position(view, plan, line, random[static_cast<std::size_t>(line % 4)]);
  const std::size_t t = tensor_at(view, position);
  const std::int64_t index = position - view.offset[t];
  return {t, index - index % LineSample::width};
}

// How many of each group's lowest scores to prune: group g of a tensor gives `base`, the first `extra` rows one more.
struct GroupRule {
  std::int64_t group = 0;  // 0: a whole output row; M: every M consecutive inputs at one inner position
  std::int64_t base = 0;
  std::int64_t extra = 0;
};

// Collected candidates by key and unit: the keys first .. first + keys in groups of 2^shift neighbours, and in each
// group `parts` bins of `width` units. Units number the stretches that several ranks hold of tensors (shard_map.hpp).
struct KeyRange {
  std::uint32_t first = 0;
  std::uint32_t keys = 0;
  int shift = 0;
  std::int64_t parts = 1;
  std::int64_t width = 1;

  constexpr bool holds(std::uint32_t key) const noexcept { return key - first < keys; }
  constexpr std::int64_t bin(std::uint32_t key, std::int64_t unit) const noexcept {
    return static_cast<std::int64_t>((key - first) >> shift) * parts + unit / width;
  }
  constexpr std::int64_t groups() const noexcept {
    return keys == 0 ? 0 : static_cast<std::int64_t>((keys - 1) >> shift) + 1;
  }
  constexpr std::int64_t bins() const noexcept { return groups() * parts; }
};

// A tensor that is a box of a whole one, as runs: elements that are neighbours in the whole, too. Runs are numbered in
// order of the whole's flat index: by the position along the axes outside the innermost that is split, then by the
// part of that one.
struct RunMap {
  static constexpr std::size_t most_axes = 8;
  std::int64_t length = 1;  // elements of a run
  std::int64_t parts = 1;   // into which the axis is split, anywhere in the tensor
  std::int64_t part = 0;    // that this box is
  std::size_t axes = 0;     // outside that axis: size of the whole, begin and size of the box
  std::array<std::int64_t, most_axes> shape{}, offset{}, size{};

  constexpr std::int64_t run_of(std::int64_t logical) const noexcept {
    std::int64_t outer = logical / length, run = 0, stride = 1;
    for (std::size_t a = axes; a-- > 0; outer /= size[a], stride *= shape[a])
      run += (outer % size[a] + offset[a]) * stride;
    return run * parts + part;
  }
};

// The runs first .. first + runs in bins of `width`.
struct RunRange {
  RunMap map{};
  std::int64_t first = 0;
  std::int64_t runs = 0;
  std::int64_t width = 1;

  constexpr std::int64_t bins() const noexcept { return (runs + width - 1) / width; }
};

}  // namespace bittersweet
