// Rows of addresses for an optimizer's pass, and the options of parameter groups. Nothing is read through an address.
#pragma once

#include "bittersweet/optim.hpp"
#include "table.hpp"

namespace bittersweet::python {

// One row of 64-bit words a tensor. `step` is the address of its count, a float, which is raised; `group` a row of the
// options; `trusted` 0 or 1.
inline constexpr std::array optim_columns{"weight",         "grad",  "exp_avg", "exp_avg_sq",
                                          "max_exp_avg_sq", "mask",  "step",    "weight_dtype",
                                          "state_dtype",    "numel", "group",   "trusted"};
inline constexpr std::array option_columns{"lr",           "beta1",     "beta2",   "eps",
                                           "weight_decay", "decoupled", "amsgrad", "maximize"};

inline std::vector<AdamOptions> groups_of(const pybind11::buffer& buffer) {
  const pybind11::buffer_info info = buffer.request();
  if (info.itemsize != 8 || info.ndim != 1 || info.format != "d" ||
      static_cast<std::size_t>(info.size) % option_columns.size() != 0)
    throw ArgumentError("groups: rows of " + std::to_string(option_columns.size()) + " doubles are needed");
  std::vector<AdamOptions> groups;
  const auto* const from = static_cast<const double*>(info.ptr);
  for (const double* o = from; o != from + info.size; o += option_columns.size())
    groups.push_back({o[0], o[1], o[2], o[3], o[4], o[5] != 0, o[6] != 0, o[7] != 0});
  return groups;
}

struct OptimRows {
  std::vector<ScoreInputs> tensors;
  std::vector<AdamOptions> options;
  std::vector<float*> counts;
  std::vector<std::uint8_t> trusted;
  std::vector<std::size_t> group;

  OptimRows(const pybind11::buffer& table, const std::vector<AdamOptions>& groups) {
    const std::span<const std::uint64_t> words = words_of(table, "table");
    if (words.size() % optim_columns.size() != 0)
      throw ArgumentError("table: " + std::to_string(words.size()) + " words are not rows of " +
                          std::to_string(optim_columns.size()));
    const std::size_t rows = words.size() / optim_columns.size();
    tensors.reserve(rows);
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
      options.push_back(groups[row[10]]);
      group.push_back(row[10]);
      counts.push_back(address<float>(row[6], 1, "step"));
      trusted.push_back(row[11] != 0);
    }
  }
};

}  // namespace bittersweet::python
