// Rows of addresses for an optimizer's pass, and the options of parameter groups. Nothing is read through an address.
#pragma once

#include <optional>

#include "bittersweet/optim.hpp"
#include "table.hpp"

namespace bittersweet::python {

// One row of 64-bit words a tensor. `step` is the address of its count, a float, which is raised; `group` a row of the
// options; `trusted` 0 or 1; `number` that of the stream that it draws from, if its group rounds stochastically.
inline constexpr std::array optim_columns{"weight", "grad",    "exp_avg",      "exp_avg_sq",  "max_exp_avg_sq",
                                          "mask",   "step",    "weight_dtype", "state_dtype", "numel",
                                          "group",  "trusted", "number"};
inline constexpr std::array option_columns{"lr",      "beta1",    "beta2",      "eps",      "weight_decay", "decoupled",
                                           "amsgrad", "maximize", "stochastic", "seed_low", "seed_high"};

struct GroupOptions {
  AdamOptions options;
  std::optional<std::uint64_t> seed;  // of stochastic rounding, if that is asked for
};

// A double holds one half of a seed.
inline std::optional<std::uint64_t> seed_of(double stochastic, double low, double high) {
  constexpr double most = 0x1p32;
  if (stochastic == 0) return std::nullopt;
  if (!(low >= 0 && low < most && high >= 0 && high < most)) throw ArgumentError("groups: halves of a seed are needed");
  return static_cast<std::uint64_t>(high) << 32 | static_cast<std::uint64_t>(low);
}

inline std::vector<GroupOptions> groups_of(const pybind11::buffer& buffer) {
  const pybind11::buffer_info info = buffer.request();
  if (info.itemsize != 8 || info.ndim != 1 || info.format != "d" ||
      static_cast<std::size_t>(info.size) % option_columns.size() != 0)
    throw ArgumentError("groups: rows of " + std::to_string(option_columns.size()) + " doubles are needed");
  std::vector<GroupOptions> groups;
  const auto* const from = static_cast<const double*>(info.ptr);
  for (const double* o = from; o != from + info.size; o += option_columns.size())
    groups.push_back({{o[0], o[1], o[2], o[3], o[4], o[5] != 0, o[6] != 0, o[7] != 0}, seed_of(o[8], o[9], o[10])});
  return groups;
}

struct OptimRows {
  std::vector<ScoreInputs> tensors;
  std::vector<AdamOptions> options;
  std::vector<float*> counts;
  std::vector<std::uint8_t> trusted;
  std::vector<std::size_t> group;
  std::vector<std::optional<RoundingKey>> draws;  // their steps are to be filled in; empty if no group draws

  OptimRows(const pybind11::buffer& table, const std::vector<GroupOptions>& groups) {
    const std::span<const std::uint64_t> words = words_of(table, "table");
    if (words.size() % optim_columns.size() != 0)
      throw ArgumentError("table: " + std::to_string(words.size()) + " words are not rows of " +
                          std::to_string(optim_columns.size()));
    const std::size_t rows = words.size() / optim_columns.size();
    tensors.reserve(rows);
    const bool some_draw = std::ranges::any_of(groups, [](const GroupOptions& one) { return one.seed.has_value(); });
    for (std::size_t t = 0; t < rows; ++t) {
      const std::uint64_t* const row = words.data() + t * optim_columns.size();
      if (row[7] > 3 || row[8] > 3) throw DTypeError("table: unknown dtype code");
      if (row[10] >= groups.size()) throw ArgumentError("table: a tensor of group " + std::to_string(row[10]));
      const auto array = [&](std::size_t column, std::uint64_t dtype) {
        void* const data = reinterpret_cast<void*>(static_cast<std::uintptr_t>(row[column]));
        const bool absent = data == nullptr && row[9] != 0;  // nothing needs no memory
        return TensorView{data, absent ? DType::none : static_cast<DType>(dtype)};
      };
      ScoreInputs& tensor = tensors.emplace_back();
      tensor.numel = static_cast<std::int64_t>(row[9]);
      tensor.weight = array(0, row[7]);
      tensor.grad = array(1, row[7]);
      tensor.exp_avg = array(2, row[8]);
      tensor.exp_avg_sq = array(3, row[8]);
      tensor.max_exp_avg_sq = array(4, row[8]);
      if (row[5] != 0) tensor.mask = address<const std::uint64_t>(row[5], tensor.numel, "mask");
      check_row(tensor, nullptr);
      const GroupOptions& own = groups[row[10]];
      options.push_back(own.options);
      group.push_back(row[10]);
      counts.push_back(address<float>(row[6], 1, "step"));
      trusted.push_back(row[11] != 0);
      if (!some_draw) continue;
      draws.emplace_back();
      if (own.seed) draws.back() = RoundingKey{*own.seed, 0, static_cast<std::uint32_t>(row[12])};
    }
  }
};

}  // namespace bittersweet::python
