// How kernels see tensors: a table of rows, work in tiles of 1024 elements that a warp takes, elements loaded one by
// one in any storage, or as vectors of one storage, and the transposition between a lane's bits and mask words.
#pragma once

#include <bit>

#include "bittersweet/philox.hpp"
#include "bittersweet/score/score_view.hpp"
#include "device.cuh"

namespace bittersweet::cuda {

inline constexpr u32 tile_size = 1024;  // elements; a tile begins at a multiple of it in its tensor
inline constexpr u32 tile_words = 32;   // of 32 mask bits

// One tensor. It lies in device memory during a step, in kernel arguments elsewhere.
struct Row {
  const void* in[3];             // what the scorer reads, in the order of `reads`
  const std::uint64_t* live;     // keep bits of the elements that compete; null: all do
  const std::uint64_t* current;  // current keep bits; null: all ones
  std::uint64_t* next;           // new keep bits, or null
  float* scores;                 // write_scores
  std::int64_t numel;
  std::int64_t offset;  // of its first element in the whole sequence
  std::int64_t origin;  // of its random numbers
  Geometry geometry;
  MemoryOrder order;        // of all arrays and masks
  std::int64_t dimensions;  // the sum of its shape's sizes
  std::int64_t output_row;  // number of its first output row among all tensors'
  u32 tile;                 // number of its first tile among all tensors'
  u32 unit;                 // number of its selection among those of a launch, where every tensor is one of its own
  float modifier;
  float bias_correction1;
  DType dtype[3];
};

// Consecutive tiles of one row.
struct Piece {
  u32 first;  // number of the first within the launch
  u32 row;
  u32 from;  // number of the first within the row
};

// What one launch works on.
struct Work {
  const Row* rows;
  const Piece* pieces;
  u32 count;  // of pieces
  u32 tiles;
};

// f(row, its number, number of the tile within it) for every tile of the work, shared out to the warps of `part`.
template <class F>
BITTERSWEET_DEVICE void for_each_tile(const Work& work, const Part& part, F&& f) {
  u32 piece = 0;
  for (u64 t = part.first_warp(); t < work.tiles; t += part.warps()) {
    while (piece + 1 < work.count && t >= work.pieces[piece + 1].first) ++piece;
    const Piece& p = work.pieces[piece];
    f(work.rows[p.row], p.row, p.from + (static_cast<u32>(t) - p.first));
  }
}

template <class F>
BITTERSWEET_DEVICE void for_each_tile(const Work& work, F&& f) {
  for_each_tile(work, Part{blockIdx.x, gridDim.x}, f);
}

BITTERSWEET_DEVICE const u32* words32(const std::uint64_t* mask) { return reinterpret_cast<const u32*>(mask); }
BITTERSWEET_DEVICE u32* words32(std::uint64_t* mask) { return reinterpret_cast<u32*>(mask); }

// The bits of 32-bit word `word` of a tensor that exist.
BITTERSWEET_DEVICE u32 valid_bits(std::int64_t numel, std::int64_t word) {
  const std::int64_t left = numel - word * 32;
  return left >= 32 ? ~0u : left <= 0 ? 0u : (1u << left) - 1;
}

// Word `word` of a mask, or the valid bits where there is none; 0 behind the tensor.
BITTERSWEET_DEVICE u32 mask_word(const std::uint64_t* mask, std::int64_t numel, std::int64_t word) {
  const u32 valid = valid_bits(numel, word);
  return mask != nullptr && valid != 0 ? words32(mask)[word] & valid : valid;
}

// Stores a word of a mask whose words of 64 bits are all there, also the upper half behind an odd number of 32.
BITTERSWEET_DEVICE void store_word(std::uint64_t* mask, std::int64_t numel, std::int64_t word, u32 bits) {
  if (word / 2 * 64 < numel) words32(mask)[word] = bits;
}

BITTERSWEET_DEVICE bool is_live(const Row& row, std::int64_t index) {
  return row.live == nullptr || (words32(row.live)[index / 32] >> (index % 32) & 1u) != 0;
}

// The tensor that holds an element, by a number that rises from row to row.
template <class Of>
BITTERSWEET_DEVICE u32 row_of(u32 rows, const Of& begins_at_or_before) {
  u32 low = 0, high = rows;
  while (low + 1 < high) {
    const u32 middle = (low + high) / 2;
    (begins_at_or_before(middle) ? low : high) = middle;
  }
  return low;
}

// ---- which arrays a scorer reads, and where in Row::in they are ----

inline constexpr u32 array_roles = reads::weight | reads::exp_avg | reads::exp_avg_sq | reads::grad | reads::scores;

template <class S>
struct Slots {
  static constexpr u32 reads_of = S::info.reads;
  static constexpr int count = std::popcount(reads_of & array_roles);
  static constexpr bool has(u32 role) { return (reads_of & role) != 0; }
  static constexpr int of(u32 role) { return std::popcount(reads_of & array_roles & (role - 1)); }
  static constexpr int norm = count;  // input norms come last
  static_assert(count + std::popcount(reads_of & reads::input_norm) <= 3);
};

// Scorers whose bracket pass reads vectors. The others (a norm or a random number for each element; published forms,
// which are there to be compared with) read element by element.
template <class S>
inline constexpr bool has_vectors =
    (Slots<S>::reads_of & (reads::input_norm | reads::position)) == 0 && !std::is_same_v<S, Bitter5Published> &&
    !std::is_same_v<S, Bitter8Published> && !std::is_same_v<S, Bitter9HybridPublished>;

// Elements for the formula, from value(slot).
template <class S, class Value>
BITTERSWEET_DEVICE Elements<float> gather(const Value& value, float bias_correction1) {
  using In = Slots<S>;
  Elements<float> x{};
  if constexpr (In::has(reads::weight)) x.w = value(In::of(reads::weight));
  if constexpr (In::has(reads::exp_avg)) x.m = value(In::of(reads::exp_avg));
  if constexpr (In::has(reads::exp_avg_sq)) x.v = value(In::of(reads::exp_avg_sq));
  if constexpr (In::has(reads::grad)) x.g = value(In::of(reads::grad));
  if constexpr (In::has(reads::scores)) x.score = value(In::of(reads::scores));
  x.bias_correction1 = bias_correction1;
  return x;
}

// The score of element `index` in memory, whatever the storage: score_element of score_view.hpp.
template <class S>
BITTERSWEET_DEVICE float score_any(const S& scorer, const Row& row, std::int64_t index) {
  using In = Slots<S>;
  Elements<float> x =
      gather<S>([&](int slot) { return load_as_float(row.in[slot], row.dtype[slot], index); }, row.bias_correction1);
  if constexpr (In::has(reads::input_norm)) {
    x.norm = static_cast<const float*>(row.in[In::norm])[row.geometry.feature_of(row.order.logical_of(index))];
  }
  if constexpr (In::has(reads::position))
    x.uniform = uniform_at(scorer.seed, Purpose::random_score,
                           static_cast<std::uint64_t>(row.origin + row.order.logical_of(index)));
  return scorer(x) * row.modifier;
}

// ---- vectors of one storage: `Width` neighbours by one load of at most 16 bytes ----

template <DType Type>
BITTERSWEET_DEVICE float decode16(u32 bits) {
  return Type == DType::bf16 ? bf16_to_float(static_cast<u16>(bits)) : f16_to_float(static_cast<u16>(bits));
}

template <DType Type, int Width>
struct Vector;

template <>
struct Vector<DType::f32, 4> {
  uint4 raw;
  BITTERSWEET_DEVICE void load(const void* data, std::int64_t index) {
    raw = __ldcs(reinterpret_cast<const uint4*>(static_cast<const float*>(data) + index));
  }
  BITTERSWEET_DEVICE float operator[](int i) const {
    return std::bit_cast<float>(i == 0 ? raw.x : i == 1 ? raw.y : i == 2 ? raw.z : raw.w);
  }
};

template <DType Type>
struct Vector<Type, 4> {
  uint2 raw;
  BITTERSWEET_DEVICE void load(const void* data, std::int64_t index) {
    raw = __ldcs(reinterpret_cast<const uint2*>(static_cast<const u16*>(data) + index));
  }
  BITTERSWEET_DEVICE float operator[](int i) const {
    const u32 pair = i < 2 ? raw.x : raw.y;
    return decode16<Type>(i % 2 ? pair >> 16 : pair & 0xffffu);
  }
};

template <DType Type>
struct Vector<Type, 8> {
  uint4 raw;
  BITTERSWEET_DEVICE void load(const void* data, std::int64_t index) {
    raw = __ldcs(reinterpret_cast<const uint4*>(static_cast<const u16*>(data) + index));
  }
  BITTERSWEET_DEVICE u32 pair(int i) const { return i == 0 ? raw.x : i == 1 ? raw.y : i == 2 ? raw.z : raw.w; }
  BITTERSWEET_DEVICE float operator[](int i) const {
    return decode16<Type>(i % 2 ? pair(i / 2) >> 16 : pair(i / 2) & 0xffffu);
  }
};

// ---- a tile's bits: by lane, as vectors bring them, and by word, as masks keep them ----

// Lane l holds, for every segment of 32 * Width elements, the bits of elements l * Width ... of it; segment s at bit
// s * Width.
template <int Width>
BITTERSWEET_DEVICE u32 element_of_bit(u32 lane, u32 bit) {
  return bit / Width * (32 * Width) + lane * Width + bit % Width;
}

// The word of the tile that a lane holds after transpose().
template <int Width>
BITTERSWEET_DEVICE u32 word_of_lane(u32 lane) {
  constexpr u32 group = 32 / Width;  // segments, and lanes that share a word
  return lane % group * Width + lane / group;
}

// One stage: exchanges blocks of `bits` bits with the lane at `distance`.
BITTERSWEET_DEVICE u32 swap_blocks(u32 mine, u32 distance, u32 bits, u32 low) {
  const u32 other = __shfl_xor_sync(everyone, mine, distance);
  return lane_id() & distance ? (mine & ~low) | ((other >> bits) & low) : (mine & low) | ((other & low) << bits);
}

// From a lane's bits to words and back: its own inverse.
template <int Width>
BITTERSWEET_DEVICE u32 transpose(u32 bits) {
  if constexpr (Width == 4) {
    bits = swap_blocks(bits, 4, 16, 0x0000ffffu);
    bits = swap_blocks(bits, 2, 8, 0x00ff00ffu);
    return swap_blocks(bits, 1, 4, 0x0f0f0f0fu);
  } else {
    bits = swap_blocks(bits, 2, 16, 0x0000ffffu);
    return swap_blocks(bits, 1, 8, 0x00ff00ffu);
  }
}

}  // namespace bittersweet::cuda
