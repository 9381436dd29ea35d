// A model on the device: the shapes of GPT-2 at any size, values from a hash of (seed, place), so that the same model
// is made anywhere. Its host twin serves the dry runs.
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <numeric>
#include <utility>
#include <vector>

#include "bittersweet/dtype.hpp"
#include "bittersweet/mask/bit_layout.hpp"
#include "bittersweet/tensor_view.hpp"
#include "device.hpp"
#include "spans.cuh"

namespace bittersweet::bench {

// The shapes of bench/models.py, as rows and columns: 148 or 149 tensors that sum to exactly `total`, from 100,000.
inline std::vector<std::pair<std::int64_t, std::int64_t>> gpt_shapes(std::int64_t total) {
  const auto d = std::max<std::int64_t>(1, std::llround(768.0 * std::sqrt(static_cast<double>(total) / 100e6)));
  std::vector<std::pair<std::int64_t, std::int64_t>> shapes{{7, 13}, {1, 1003}};
  for (int layer = 0; layer < 12; ++layer)
    shapes.insert(shapes.end(), {{1, d},
                                 {1, d},
                                 {3 * d, d},
                                 {1, 3 * d},
                                 {d, d},
                                 {1, d},  //
                                 {1, d},
                                 {1, d},
                                 {4 * d, d},
                                 {1, 4 * d},
                                 {d, 4 * d},
                                 {1, d}});
  std::int64_t rest = total;
  for (const auto& [rows, columns] : shapes) rest -= rows * columns;
  const std::int64_t last = rest % d;
  shapes.emplace_back(last ? rest / d : rest / d - 1, d);
  shapes.emplace_back(1, last ? last : d);
  return shapes;
}

// How values are drawn. `share` of them are replaced by `value`.
struct Draw {
  enum Kind { normal, log_normal } kind = normal;
  float scale = 1;
  float share = 0, value = 0;
};
inline constexpr Draw draw_weights{Draw::normal, 0.02f};
inline constexpr Draw draw_moments{Draw::normal, 1e-5f};
inline constexpr Draw draw_squares{Draw::log_normal, 1e-9f};  // a decade of spread

BITTERSWEET_FORMULA std::uint64_t hash(std::uint64_t seed, std::uint64_t place) {  // SplitMix64
  std::uint64_t z = seed * 0x9e3779b97f4a7c15u + (place + 1) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

BITTERSWEET_FORMULA float uniform(std::uint64_t seed, std::uint64_t place) {
  return static_cast<float>(hash(seed, place) >> 40) * 0x1p-24f;
}
BITTERSWEET_FORMULA bool is_alive(float dead, std::uint64_t seed, std::uint64_t place) {
  return uniform(seed, place) >= dead;
}

BITTERSWEET_FORMULA float drawn(const Draw& draw, std::uint64_t seed, std::uint64_t place) {
  const std::uint64_t word = hash(seed, place);
  if (draw.share > 0 && uniform(77, place) < draw.share) return draw.value;  // the same places in every array
  const float a = (static_cast<float>(word >> 40) + 1.0f) * 0x1p-24f,
              b = static_cast<float>(word & 0xffffffu) * 0x1p-24f;
  const float z = std::sqrt(-2.0f * std::log(a)) * std::cos(6.2831853f * b);
  return draw.kind == Draw::normal ? draw.scale * z : draw.scale * std::exp(2.3f * z);
}

BITTERSWEET_FORMULA void store(void* data, DType dtype, std::int64_t i, float x) {
  if (dtype == DType::f32)
    static_cast<float*>(data)[i] = x;
  else if (dtype == DType::bf16)  // to the nearest; the values drawn are finite
    static_cast<std::uint16_t*>(data)[i] = static_cast<std::uint16_t>(
        (std::bit_cast<std::uint32_t>(x) + 0x7fffu + ((std::bit_cast<std::uint32_t>(x) >> 16) & 1u)) >> 16);
}

#if defined(__CUDACC__)
static __global__ void fill_kernel(void* data, DType dtype, std::int64_t n, Draw draw, std::uint64_t seed,
                                   std::uint64_t first) {
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += stride)
    store(data, dtype, i, drawn(draw, seed, first + static_cast<std::uint64_t>(i)));
}

static __global__ void keep_kernel(std::uint64_t* mask, std::int64_t n, float dead, std::uint64_t seed,
                                   std::uint64_t first) {
  const std::int64_t words = bits::words(n), stride = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t w = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; w < words; w += stride) {
    std::uint64_t word = 0;
    for (int bit = 0; bit < 64; ++bit) {
      const auto place = first + static_cast<std::uint64_t>(w) * 64 + static_cast<std::uint64_t>(bit);
      word |= std::uint64_t{is_alive(dead, seed, place)} << bit;
    }
    mask[w] = word & bits::valid(n, w);
  }
}

class Model {
 public:
  // Arrays of type none are absent. `columns` gives rows and columns, one tensor each.
  Model(const std::vector<std::pair<std::int64_t, std::int64_t>>& shapes, DType w, DType m, DType v,
        bool masked = false)
      : masked_(masked) {
    for (const auto& [rows, columns] : shapes) total_ += rows * columns;
    w_ = Column(shapes, w), m_ = Column(shapes, m), v_ = Column(shapes, v);
    std::size_t words = 0;
    for (const auto& [rows, columns] : shapes)
      words += padded(static_cast<std::size_t>(bits::words(rows * columns)) * 8);
    new_ = Buffer(words);
    if (masked) old_ = Buffer(words);
    std::size_t at = 0;
    for (std::size_t t = 0; t < shapes.size(); ++t) {
      const auto [rows, columns] = shapes[t];
      ScoreInputs tensor;
      tensor.weight = w_.view(t), tensor.exp_avg = m_.view(t), tensor.exp_avg_sq = v_.view(t);
      tensor.numel = rows * columns;
      tensor.geometry = matrix(rows, columns);
      if (masked) tensor.mask = reinterpret_cast<std::uint64_t*>(old_.data() + at);
      masks_.push_back(reinterpret_cast<std::uint64_t*>(new_.data() + at));
      inputs_.push_back(tensor);
      at += padded(static_cast<std::size_t>(bits::words(tensor.numel)) * 8);
    }
  }

  std::int64_t weights() const { return total_; }
  std::span<const ScoreInputs> inputs() const { return inputs_; }
  std::span<std::uint64_t* const> masks() const { return masks_; }
  std::vector<const std::uint64_t*> kept() const { return {masks_.begin(), masks_.end()}; }

  void fill(const Draw& w = draw_weights, const Draw& v = draw_squares, float dead = 0) {
    std::uint64_t first = 0;
    for (const ScoreInputs& tensor : inputs_) {
      fill_array(tensor.weight, tensor.numel, w, 1, first);
      fill_array(tensor.exp_avg, tensor.numel, draw_moments, 2, first);
      fill_array(tensor.exp_avg_sq, tensor.numel, v, 3, first);
      if (masked_) keep_kernel<<<1024, 256>>>(const_cast<std::uint64_t*>(tensor.mask), tensor.numel, dead, 4, first);
      first += static_cast<std::uint64_t>(tensor.numel);
    }
    synchronize("filling the model");
  }
  // Random keep bits in the new masks, for passes that are measured without a step.
  void draw_new_masks(float dead) {
    for (std::size_t t = 0; t < masks_.size(); ++t)
      keep_kernel<<<1024, 256>>>(masks_[t], inputs_[t].numel, dead, 5 + t, 0);
    synchronize("drawing masks");
  }

  // The bytes of chosen arrays (bits of reads::, as a scorer names them), for the bare passes.
  std::vector<Array> arrays(bool w, bool m, bool v) const {
    std::vector<Array> all;
    for (std::size_t t = 0; t < inputs_.size(); ++t)
      for (const auto& [wanted, view] :
           {std::pair{w, inputs_[t].weight}, {m, inputs_[t].exp_avg}, {v, inputs_[t].exp_avg_sq}})
        if (wanted && view.dtype != DType::none)
          all.push_back({static_cast<std::byte*>(view.data),
                         inputs_[t].numel * static_cast<std::int64_t>(size_of(view.dtype)),
                         reinterpret_cast<const std::uint32_t*>(masks_[t])});
    return all;
  }

  // What a step may write, as it is now, and back again.
  void save() {
    for (Column* c : {&w_, &m_, &v_}) c->save();
  }
  void restore() const {
    for (const Column* c : {&w_, &m_, &v_}) c->restore();
  }

 private:
  static std::size_t padded(std::size_t bytes) { return (bytes + 255) / 256 * 256; }

  struct Column {  // one array of every tensor, in one allocation
    DType dtype = DType::none;
    Buffer memory, saved;
    std::vector<std::size_t> offset;
    Column() = default;
    Column(const std::vector<std::pair<std::int64_t, std::int64_t>>& shapes, DType type) : dtype(type) {
      std::size_t bytes = 0;
      for (const auto& [rows, columns] : shapes) {
        offset.push_back(bytes);
        bytes += padded(static_cast<std::size_t>(rows * columns) * size_of(type));
      }
      memory = Buffer(bytes);
    }
    TensorView view(std::size_t t) const {
      return dtype == DType::none ? TensorView{} : TensorView{memory.data() + offset[t], dtype};
    }
    void save() {
      if (saved.size() != memory.size()) saved = Buffer(memory.size());
      copy(saved, memory);
    }
    void restore() const { copy(memory, saved); }
    static void copy(const Buffer& to, const Buffer& from) {
      if (from.size())
        check(cudaMemcpyAsync(to.data(), from.data(), from.size(), cudaMemcpyDeviceToDevice), "copy on the device");
    }
  };

  static void fill_array(const TensorView& view, std::int64_t n, const Draw& draw, std::uint64_t seed,
                         std::uint64_t first) {
    if (view.dtype == DType::none || n == 0) return;
    fill_kernel<<<static_cast<unsigned>(std::min<std::int64_t>((n + 255) / 256, 4096)), 256>>>(view.data, view.dtype, n,
                                                                                               draw, seed, first);
    check_launch("fill");
  }

  bool masked_;
  std::int64_t total_ = 0;
  Column w_, m_, v_;
  Buffer new_, old_;
  std::vector<ScoreInputs> inputs_;
  std::vector<std::uint64_t*> masks_;
};
#endif  // __CUDACC__

}  // namespace bittersweet::bench
