// Matrices for the tests of calibration, in memory that ends where they end, and what an engine makes of them.
#pragma once

#include <vector>

#include "bittersweet/calibration.hpp"
#include "support/inputs.hpp"

namespace bittersweet::test {

struct Calibrated {
  std::vector<double> sums;
  std::vector<std::int64_t> counts;
  bool operator==(const Calibrated&) const = default;
};

// One matrix and what is said of its rows. `shift`: elements between a multiple of 64 bytes and its first.
class Layer {
 public:
  Layer(std::int64_t rows, std::int64_t columns, DType type, std::size_t shift = 0, std::uint64_t seed = 1)
      : rows_(rows), columns_(columns), type_(type), shift_(shift) {
    Generator random(seed + static_cast<std::uint64_t>(rows * 131 + columns));
    const Values special{0.0f, -0.0f, tiniest, -tiniest, 0x1p-126f, 65504.0f, 6.1035156e-5f, 0x1p-24f, 1.0f};
    const float largest = type == DType::f16 ? 65504.0f : 0x1.fep127f;
    for (std::int64_t i = 0; i < rows * columns; ++i) {
      const auto scale = static_cast<float>(std::exp(3 * random.normal()));
      const float x = random.below(16) == 0   ? special[static_cast<std::size_t>(random.below(std::ssize(special)))]
                      : random.below(97) == 0 ? -largest
                                              : static_cast<float>(random.normal()) * scale;
      exact_.push_back(std::clamp(x, -largest, largest));
    }
    words_.assign(exact_.size() * size_of(type) / 4 + 80, 0);
    for (std::int64_t i = 0; i < rows * columns; ++i) set(i, exact_[static_cast<std::size_t>(i)]);
  }

  void set(std::int64_t i, float x) { store_from_float(data(), type_, i, x); }
  void count(double share, std::int64_t together, std::uint64_t seed = 7) {
    Generator random(seed);
    together_ = together;
    counted_.resize(static_cast<std::size_t>((rows_ + together - 1) / together));
    for (std::uint8_t& byte : counted_) byte = random.uniform() < share ? (random.below(2) == 0 ? 1 : 0x80) : 0;
  }
  void repeat(std::int64_t period) {
    times_.resize(static_cast<std::size_t>(period));
    for (std::int64_t i = 0; i < period; ++i)
      times_[static_cast<std::size_t>(i)] = static_cast<double>(i * 7 % 10);  // 0 among them
  }

  LayerInput input() {
    return {.x = {data(), type_},
            .rows = rows_,
            .columns = columns_,
            .counted = counted_.empty() ? nullptr : counted_.data(),
            .together = together_,
            .times = times_.empty() ? nullptr : times_.data(),
            .period = times_.empty() ? 1 : std::ssize(times_)};
  }

  // What an engine adds to sums and counts that are not 0.
  template <class E>
  Calibrated by(E&& engine) {
    Calibrated found{{}, {5, 3}};
    for (std::int64_t c = 0; c < columns_; ++c) found.sums.push_back(static_cast<double>(c) / 3);
    engine.add_squares(input(), {found.sums.data(), found.counts.data()});
    return found;
  }

 private:
  char* data() {
    const auto start = reinterpret_cast<std::uintptr_t>(words_.data());
    return reinterpret_cast<char*>((start + 63) / 64 * 64) + shift_ * size_of(type_);
  }

  std::int64_t rows_, columns_, together_ = 1;
  DType type_;
  std::size_t shift_;
  Values exact_;
  std::vector<std::uint32_t> words_;
  std::vector<std::uint8_t> counted_;
  std::vector<double> times_;
};

}  // namespace bittersweet::test
