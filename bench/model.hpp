// A model for the benchmarks: matrices with the columns of GPT-2, two odd tensors, everything that a scorer may read,
// and masks that keep about half. All memory has been written once before anything is timed.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "bittersweet/bittersweet.hpp"

namespace bittersweet::bench {

// Weights of a benchmark's model: BITTERSWEET_BENCH_WEIGHTS, or what suits the benchmark.
inline std::int64_t weights_or(std::int64_t usual) {
  const char* const asked = std::getenv("BITTERSWEET_BENCH_WEIGHTS");
  const std::int64_t n = asked ? std::atoll(asked) : 0;
  return n > 0 ? n : usual;
}

class Random {  // SplitMix64
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t bits() {
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  float normal() {  // nearly: the sum of four uniform numbers, scaled
    float sum = 0;
    const std::uint64_t word = bits();
    for (int part = 0; part < 4; ++part) sum += static_cast<float>((word >> (16 * part)) & 0xffffu);
    return (sum / 65536.0f - 2.0f) * 1.7320508f;
  }

 private:
  std::uint64_t state_;
};

class Model {
 public:
  // At least `weights` weights, w, m, v and gradients stored as `dtype` (f32 or bf16).
  Model(std::int64_t weights, DType dtype) : dtype_(dtype) {
    constexpr std::int64_t columns = 768, matrices = 12;
    add(7, 13);
    add(1, 1003);
    for (std::int64_t i = 0; i < matrices; ++i) add(weights / (matrices * columns) + 1, columns);
  }

  std::span<const ScoreInputs> inputs() const { return inputs_; }
  std::span<std::uint64_t* const> masks() const { return masks_; }
  std::span<const std::uint64_t* const> kept() const { return kept_; }
  std::span<float* const> scores() const { return scores_; }
  std::int64_t weights() const { return weights_; }
  DType dtype() const { return dtype_; }

  // Bytes that one read of the arrays in `reads` touches.
  std::int64_t bytes_read(std::uint32_t reads) const {
    const auto stored = reads::weight | reads::exp_avg | reads::exp_avg_sq | reads::grad;
    const std::int64_t scores = (reads & reads::scores) ? 4 : 0;
    return weights_ * (std::popcount(reads & stored) * static_cast<std::int64_t>(size_of(dtype_)) + scores);
  }

  // What prune may write: w, m and v, as they are now, and back again.
  void save() {
    saved_.clear();
    each_written([&](std::byte* data, std::size_t bytes) { saved_.insert(saved_.end(), data, data + bytes); });
  }
  void restore() const {
    const std::byte* from = saved_.data();
    each_written([&](std::byte* data, std::size_t bytes) {
      std::memcpy(data, from, bytes);
      from += bytes;
    });
  }

 private:
  void add(std::int64_t rows, std::int64_t columns) {
    const std::int64_t n = rows * columns;
    Random random(inputs_.size() + 1);
    const auto normal = [&](float scale) { return [&random, scale] { return scale * random.normal(); }; };
    ScoreInputs tensor;
    tensor.weight = array(n, dtype_, normal(0.02f));
    tensor.exp_avg = array(n, dtype_, normal(1e-5f));
    tensor.exp_avg_sq = array(n, dtype_, [&] { return 1e-9f * std::exp(2.3f * random.normal()); });
    tensor.grad = array(n, dtype_, normal(1e-4f));
    tensor.scores = array(n, DType::f32, normal(1.0f));
    tensor.input_norm = array(columns, DType::f32, [&] { return 1.0f + std::fabs(random.normal()); });
    tensor.numel = n;
    tensor.geometry = matrix(rows, columns);
    inputs_.push_back(tensor);
    scores_.push_back(static_cast<float*>(array(n, DType::f32, [] { return 0.0f; }).data));
    masks_.push_back(words(n, [] { return ~std::uint64_t{0}; }));
    kept_.push_back(words(n, [&] { return random.bits(); }));
    weights_ += n;
  }

  template <class F>
  TensorView array(std::int64_t n, DType dtype, F&& next) {
    std::byte* const data = allocate(static_cast<std::size_t>(n) * size_of(dtype));
    for (std::int64_t i = 0; i < n; ++i) {
      const auto bits = std::bit_cast<std::uint32_t>(static_cast<float>(next()));
      if (dtype == DType::f32)
        std::memcpy(data + 4 * i, &bits, 4);
      else
        reinterpret_cast<std::uint16_t*>(data)[i] = static_cast<std::uint16_t>(bits >> 16);
    }
    return {data, dtype};
  }

  template <class F>
  std::uint64_t* words(std::int64_t n, F&& next) {
    const std::int64_t count = bits::words(n);
    auto* const mask = reinterpret_cast<std::uint64_t*>(allocate(static_cast<std::size_t>(count) * 8));
    for (std::int64_t word = 0; word < count; ++word) mask[word] = next() & bits::valid(n, word);
    return mask;
  }

  std::byte* allocate(std::size_t bytes) {
    memory_.push_back(std::make_unique<std::byte[]>(bytes));
    return memory_.back().get();
  }

  template <class F>
  void each_written(F&& f) const {
    for (const ScoreInputs& tensor : inputs_)
      for (const TensorView* const array : {&tensor.weight, &tensor.exp_avg, &tensor.exp_avg_sq})
        f(static_cast<std::byte*>(array->data), static_cast<std::size_t>(tensor.numel) * size_of(dtype_));
  }

  DType dtype_;
  std::int64_t weights_ = 0;
  std::vector<std::unique_ptr<std::byte[]>> memory_;
  std::vector<ScoreInputs> inputs_;
  std::vector<float*> scores_;
  std::vector<std::uint64_t*> masks_;
  std::vector<const std::uint64_t*> kept_;
  std::vector<std::byte> saved_;
};

}  // namespace bittersweet::bench
