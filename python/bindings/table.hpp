// The packed table that Python sends once per call: one row of 64-bit words a tensor, in the order of `columns`.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <bit>
#include <span>
#include <string>
#include <vector>

#include "addresses.hpp"
#include "bittersweet/prune.hpp"

namespace bittersweet::python {

inline constexpr std::array columns{"weight",         "weight_dtype",
                                    "exp_avg",        "exp_avg_dtype",
                                    "exp_avg_sq",     "exp_avg_sq_dtype",
                                    "grad",           "grad_dtype",
                                    "input_norm",     "input_norm_dtype",
                                    "scores",         "scores_dtype",
                                    "max_exp_avg_sq", "max_exp_avg_sq_dtype",
                                    "mask",           "new_mask",
                                    "numel",          "rows",
                                    "inputs",         "inner",
                                    "row_stride",     "input_stride",
                                    "modifier",       "bias_correction1",
                                    "dimension_sum",  "blocks",
                                    "order_p",        "order_q"};
inline constexpr std::size_t mask_column = 14, new_mask_column = 15;

// A borrowed view of a buffer of unsigned 64-bit words, as array('Q') gives.
inline std::span<const std::uint64_t> words_of(const pybind11::buffer& buffer, const char* argument) {
  const pybind11::buffer_info info = buffer.request();
  if (info.itemsize != 8 || info.ndim != 1)
    throw ArgumentError(std::string(argument) + ": a one-dimensional buffer of 64-bit words is needed");
  return {static_cast<const std::uint64_t*>(info.ptr), static_cast<std::size_t>(info.size)};
}

// Words of 0 stand for row-major, as rows have them that hold no arrays.
inline MemoryOrder order_of(std::uint64_t p, std::uint64_t q) {
  return {static_cast<std::int64_t>(std::max<std::uint64_t>(p, 1)),
          static_cast<std::int64_t>(std::max<std::uint64_t>(q, 1))};
}

struct Table {
  std::vector<ScoreInputs> tensors;
  std::vector<std::string> names;
  std::vector<const std::uint64_t*> masks;
  std::vector<std::uint64_t*> new_masks;

  explicit Table(const pybind11::buffer& buffer, std::vector<std::string> tensor_names = {})
      : names(std::move(tensor_names)) {
    const std::span<const std::uint64_t> words = words_of(buffer, "table");
    if (words.size() % columns.size() != 0)
      throw ArgumentError("table: " + std::to_string(words.size()) + " words are not rows of " +
                          std::to_string(columns.size()));
    names.resize(words.size() / columns.size());
    tensors.reserve(names.size());
    masks.reserve(names.size());
    new_masks.reserve(names.size());
    const auto pointer = [](std::uint64_t word) { return reinterpret_cast<void*>(static_cast<std::uintptr_t>(word)); };
    const auto number = [](std::uint64_t word) { return static_cast<std::int64_t>(word); };
    const auto real = [](std::uint64_t word) { return std::bit_cast<float>(static_cast<std::uint32_t>(word)); };
    for (std::size_t t = 0; t < names.size(); ++t) {
      const std::uint64_t* row = words.data() + t * columns.size();
      const auto array = [&](std::size_t column) {
        if (row[column + 1] > 3) throw DTypeError("table: unknown dtype code " + std::to_string(row[column + 1]));
        return TensorView{pointer(row[column]), static_cast<DType>(row[column + 1])};
      };
      tensors.push_back({array(0),
                         array(2),
                         array(4),
                         array(6),
                         array(8),
                         array(10),
                         array(12),
                         static_cast<const std::uint64_t*>(pointer(row[mask_column])),
                         number(row[16]),
                         Geometry{number(row[17]), number(row[18]), number(row[19]), number(row[20]), number(row[21]),
                                  number(row[25])},
                         order_of(row[26], row[27]),
                         number(row[24]),
                         real(row[22]),
                         real(row[23]),
                         {}});
      masks.push_back(tensors.back().mask);
      new_masks.push_back(static_cast<std::uint64_t*>(pointer(row[new_mask_column])));
      check_row(tensors.back(), new_masks.back());
    }
    for (std::size_t t = 0; t < names.size(); ++t) tensors[t].name = names[t];
  }

  // The masks that column `which` holds.
  std::vector<const std::uint64_t*> masks_of(std::size_t which) const {
    if (which == mask_column) return masks;
    if (which == new_mask_column) return {new_masks.begin(), new_masks.end()};
    throw ArgumentError("which: column " + std::to_string(which) + " holds no masks");
  }
};

// One address a tensor, where scores are to be written.
inline std::vector<float*> outputs_of(const pybind11::buffer& buffer, const std::vector<ScoreInputs>& tensors) {
  const std::span<const std::uint64_t> pointers = words_of(buffer, "out");
  if (pointers.size() != tensors.size()) throw ArgumentError("out: one pointer a tensor is needed");
  std::vector<float*> outputs;
  for (std::size_t t = 0; t < tensors.size(); ++t)
    outputs.push_back(address<float>(pointers[t], tensors[t].numel, "out"));
  return outputs;
}

void bind_addresses(pybind11::module_& module);
void bind_blockwise(pybind11::module_& module);
void bind_cuda(pybind11::module_& module);
void bind_delta(pybind11::module_& module);
void bind_cuda_sparse(pybind11::module_& module);
void bind_cuda_track(pybind11::module_& module);
void bind_errors(pybind11::module_& module);
void bind_info(pybind11::module_& module);
void bind_mask(pybind11::module_& module);
void bind_optim(pybind11::module_& module);
void bind_prune(pybind11::module_& module);
void bind_rounding(pybind11::module_& module);
void bind_rounds(pybind11::module_& module);
void bind_calibration(pybind11::module_& module);
void bind_score(pybind11::module_& module);
void bind_sharded(pybind11::module_& module);
void bind_sparse(pybind11::module_& module);
void bind_track(pybind11::module_& module);
void bind_trails(pybind11::module_& module);

// (name, eps or None, q or None, seed)
Scorer to_scorer(const pybind11::tuple& spec);

}  // namespace bittersweet::python
