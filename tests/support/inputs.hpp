// What the tests feed the library: named arrays that selections find hard, at sizes around every width, and the tensors
// of a small model in training.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bittersweet/mask/bit_layout.hpp"
#include "bittersweet/score/scorers.hpp"
#include "bittersweet/tensor_view.hpp"
#include "support/memory.hpp"

namespace bittersweet::test {

using Values = std::vector<float>;

inline constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();
inline constexpr float tiniest = std::numeric_limits<float>::denorm_min();

// ---- random numbers: the same on every standard library ----

class Generator {
 public:
  explicit Generator(std::uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 1) {}

  std::uint64_t bits() {  // SplitMix64
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
  std::int64_t below(std::int64_t n) { return static_cast<std::int64_t>(bits() % static_cast<std::uint64_t>(n)); }
  double normal() { return std::sqrt(-2.0 * std::log(1.0 - uniform())) * std::cos(6.283185307179586 * uniform()); }
  float any_float() { return std::bit_cast<float>(static_cast<std::uint32_t>(bits())); }  // any bits, NaN too

 private:
  std::uint64_t state_;
};

template <class F>
Values generate(std::int64_t n, F&& f) {
  Values values(static_cast<std::size_t>(n));
  for (std::int64_t i = 0; i < n; ++i) values[static_cast<std::size_t>(i)] = static_cast<float>(f(i));
  return values;
}

// Keep bits of which about `dead` (0 to 1) are clear.
inline Words random_mask(std::int64_t numel, double dead, std::uint64_t seed, Placement placement = Placement::offset) {
  Words mask(numel, placement);
  Generator random(seed);
  mask.fill(0);
  for (std::int64_t i = 0; i < numel; ++i)
    if (random.uniform() >= dead) bits::set(mask.data(), i);
  return mask;
}

// ---- named arrays ----

struct NamedValues {
  const char* name;
  Values (*make)(std::int64_t n, std::uint64_t seed);
};

inline Values half_normal(std::int64_t n, std::uint64_t seed) {
  return generate(n, [r = Generator(seed)](std::int64_t) mutable { return std::fabs(0.02 * r.normal()); });
}

// Gradients' second moments: log-normal around 1e-9, over many powers of ten.
inline Values second_moments(std::int64_t n, std::uint64_t seed) {
  return generate(n, [r = Generator(seed)](std::int64_t) mutable { return 1e-9 * std::exp(3.0 * r.normal()); });
}

inline Values with_zeros(Values values, double share, std::uint64_t seed) {
  Generator random(seed);
  for (float& value : values)
    if (random.uniform() < share) value = 0.0f;
  return values;
}

inline Values sorted(Values values) {
  std::sort(values.begin(), values.end());
  return values;
}

inline Values one_of(std::int64_t n, std::uint64_t seed, const Values& choice) {
  return generate(n, [&, r = Generator(seed)](std::int64_t) mutable {
    return choice[static_cast<std::size_t>(r.below(static_cast<std::int64_t>(choice.size())))];
  });
}

// Finite numbers and infinities; nothing here is NaN.
inline const std::vector<NamedValues>& named_values() {
  using N = std::int64_t;
  using S = std::uint64_t;
  static const std::vector<NamedValues> all{
      {"half_normal", half_normal},
      {"normal", [](N n, S s) { return generate(n, [r = Generator(s)](N) mutable { return r.normal(); }); }},
      {"bitter7_like",
       [](N n, S s) {
         const Values w = half_normal(n, s), v = second_moments(n, s + 1);
         return generate(n, [&](N i) {
           const auto at = static_cast<std::size_t>(i);
           return w[at] * std::sqrt(std::sqrt(v[at] + 1e-8f));
         });
       }},
      {"half_zeros", [](N n, S s) { return with_zeros(half_normal(n, s), 0.5, s + 1); }},
      {"mostly_zeros", [](N n, S s) { return with_zeros(half_normal(n, s), 0.9, s + 1); }},
      {"all_zero", [](N n, S) { return Values(static_cast<std::size_t>(n), 0.0f); }},
      {"all_equal", [](N n, S) { return Values(static_cast<std::size_t>(n), 0.125f); }},
      {"two_values", [](N n, S s) { return one_of(n, s, {0.25f, 0.5f}); }},
      {"three_values", [](N n, S s) { return one_of(n, s, {0.25f, 0.5f, 0.75f}); }},
      {"ternary", [](N n, S s) { return one_of(n, s, {-1.0f, 0.0f, 1.0f}); }},
      {"sorted", [](N n, S s) { return sorted(half_normal(n, s)); }},
      {"reversed",
       [](N n, S s) {
         Values values = sorted(half_normal(n, s));
         std::reverse(values.begin(), values.end());
         return values;
       }},
      {"student_t",  // 1.5 degrees of freedom: no variance
       [](N n, S s) {
         return generate(n, [r = Generator(s)](N) mutable {
           return r.normal() / std::pow(std::fabs(r.normal()) + 1e-30, 1.0 / 1.5);
         });
       }},
      {"pareto",  // infinite mean
       [](N n, S s) {
         return generate(n, [r = Generator(s)](N) mutable { return std::pow(1.0 - r.uniform(), -2.0); });
       }},
      {"row_scale",  // rows of 256 whose scales differ by nine powers of ten
       [](N n, S s) {
         const Values scale = generate(
             n / 256 + 1, [r = Generator(s + 1)](N) mutable { return std::pow(10.0, 9.0 * r.uniform() - 6.0); });
         return generate(n, [&, r = Generator(s)](N i) mutable {
           return scale[static_cast<std::size_t>(i / 256)] * std::fabs(r.normal());
         });
       }},
      {"signed_zeros", [](N n, S s) { return one_of(n, s, {0.0f, -0.0f, tiniest, -tiniest, 1.0f}); }},
      {"denormals",
       [](N n, S s) {
         return generate(n, [r = Generator(s)](N) mutable {
           return std::bit_cast<float>(static_cast<std::uint32_t>(r.bits()) & 0x007fffffu);
         });
       }},
      {"infinities", [](N n, S s) { return one_of(n, s, {infinity, -infinity, 0.0f, 1.0f, -3.0f}); }},
      {"any_number",  // every exponent, both signs
       [](N n, S s) {
         return generate(n, [r = Generator(s)](N) mutable {
           const float x = r.any_float();
           return std::isnan(x) ? 1.0f : x;
         });
       }},
      {"bf16_rounded",
       [](N n, S s) {
         Values values = half_normal(n, s);
         for (float& value : values) value = nearest_bf16(value);
         return values;
       }},
  };
  return all;
}

inline Values values_named(std::string_view name, std::int64_t n, std::uint64_t seed) {
  for (const NamedValues& named : named_values())
    if (named.name == name) return named.make(n, seed);
  throw std::invalid_argument("no values are called " + std::string(name));
}

// Around vector widths, mask words, tiles and chunks.
inline constexpr std::int64_t awkward_sizes[] = {0,  1,   2,    3,    15,   16,    17,    31,    63,     64,
                                                 65, 127, 2047, 2048, 2049, 65535, 65536, 65537, 131149, 300001};

// ---- tensors ----

struct Tensor {
  std::string name{};
  std::int64_t numel = 0;
  Geometry geometry{};
  MemoryOrder order{};
  Array weight{}, exp_avg{}, exp_avg_sq{}, grad{}, input_norm{}, scores{}, max_exp_avg_sq{};
  Words mask{};
  bool masked = false;
  float modifier = 1.0f;
  float bias_correction1 = 1.0f;

  ScoreInputs inputs() const {
    return {.weight = weight.view(),
            .exp_avg = exp_avg.view(),
            .exp_avg_sq = exp_avg_sq.view(),
            .grad = grad.view(),
            .input_norm = input_norm.view(),
            .scores = scores.view(),
            .max_exp_avg_sq = max_exp_avg_sq.view(),
            .mask = masked ? mask.data() : nullptr,
            .numel = numel,
            .geometry = geometry,
            .order = order,
            .modifier = modifier,
            .bias_correction1 = bias_correction1,
            .name = name};
  }
  std::vector<const Array*> arrays() const {
    return {&weight, &exp_avg, &exp_avg_sq, &grad, &input_norm, &scores, &max_exp_avg_sq};
  }
  bool intact() const {
    return mask.intact() && std::ranges::all_of(arrays(), [](const Array* array) { return array->intact(); });
  }
};

struct Model {
  std::vector<Tensor> tensors;

  std::vector<ScoreInputs> inputs() const {  // borrows from this model
    std::vector<ScoreInputs> all;
    for (const Tensor& tensor : tensors) all.push_back(tensor.inputs());
    return all;
  }
  std::int64_t numel() const {
    std::int64_t total = 0;
    for (const Tensor& tensor : tensors) total += tensor.numel;
    return total;
  }
  bool intact() const {
    return std::ranges::all_of(tensors, [](const Tensor& tensor) { return tensor.intact(); });
  }
  std::vector<std::vector<unsigned char>> bytes() const {  // of everything a mistake could write to
    std::vector<std::vector<unsigned char>> all;
    for (const Tensor& tensor : tensors)
      for (const Array* array : tensor.arrays()) all.push_back(array->bytes());
    return all;
  }
  void set_masks(double dead, std::uint64_t seed) {
    for (Tensor& tensor : tensors) {
      tensor.mask = random_mask(tensor.numel, dead, ++seed);
      tensor.masked = true;
    }
  }
};

// Tensors whose weights and scores are the given values: `Identity` orders by them, `Magnitude` by their size.
inline Model model_of(const std::vector<Values>& values, DType dtype = DType::f32,
                      Placement placement = Placement::offset) {
  Model model;
  for (const Values& scores : values) {
    const auto numel = static_cast<std::int64_t>(scores.size());
    model.tensors.push_back({.name = "tensor" + std::to_string(model.tensors.size()),
                             .numel = numel,
                             .geometry = flat(numel),
                             .weight = Array(scores, dtype, placement),
                             .scores = Array(scores, dtype, placement)});
  }
  return model;
}

// Weights and optimizer state as training leaves them, with some zeros; tensor i stores its arrays as dtypes[i...] in
// turn.
inline Model training_model(const std::vector<std::int64_t>& sizes, const std::vector<DType>& dtypes,
                            std::uint64_t seed = 1, Placement placement = Placement::offset) {
  Model model;
  std::size_t next = 0;
  const auto array = [&](const Values& values) { return Array(values, dtypes[next++ % dtypes.size()], placement); };
  for (const std::int64_t n : sizes) {
    seed += 10;
    const auto gradients = [&](double scale, std::uint64_t purpose) {
      const Values values =
          generate(n, [&, r = Generator(seed + purpose)](std::int64_t) mutable { return scale * r.normal(); });
      return with_zeros(values, 0.1, seed + purpose);
    };
    next = model.tensors.size();
    Tensor tensor{.name = "layer" + std::to_string(model.tensors.size()), .numel = n, .geometry = flat(n)};
    tensor.weight = array(gradients(0.02, 1));
    tensor.exp_avg = array(gradients(1e-4, 2));
    tensor.exp_avg_sq = array(with_zeros(second_moments(n, seed + 3), 0.1, seed + 3));
    tensor.grad = array(gradients(1e-3, 4));
    tensor.scores = array(gradients(1.0, 5));
    tensor.max_exp_avg_sq = array(second_moments(n, seed + 6));
    tensor.input_norm = Array(half_normal(n, seed + 7), DType::f32, placement);
    tensor.bias_correction1 = 0.25f + 0.125f * static_cast<float>(model.tensors.size() % 4);
    model.tensors.push_back(std::move(tensor));
  }
  return model;
}

// Every scorer of THE LIST, and those whose parameters change the formula.
inline std::vector<Scorer> all_scorers() {
  std::vector<Scorer> all;
  for_each_scorer([&](const auto& scorer) { all.push_back(scorer); });
  all.insert(all.end(), {Bitter7{.eps = 0.0f}, Bitter8Published{.eps = 1e-5f}, AdamVariance{.eps = 0.0f, .roots = 1},
                         AdamVariance{.eps = 1e-8f, .roots = 3}, Random{.seed = 12345678901234567u}});
  return all;
}

}  // namespace bittersweet::test
