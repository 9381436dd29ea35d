// The same tensors in other orders of memory, moved element by element: what the library makes of them must be what it
// makes of the row-major ones.
#pragma once

#include <numeric>

#include "support/compare.hpp"
#include "support/inputs.hpp"

namespace bittersweet::test {

// memory[i]: the logical index of the i-th element in memory.
inline std::vector<std::size_t> logical_indices(std::int64_t numel, const MemoryOrder& order) {
  std::vector<std::size_t> memory;
  for (std::int64_t b = 0; b < numel; b += order.p * order.q)
    for (std::int64_t q = 0; q < order.q; ++q)
      for (std::int64_t p = 0; p < order.p; ++p) memory.push_back(static_cast<std::size_t>(b + p * order.q + q));
  return memory;
}

// An order that fits so many elements; row-major only where nothing else does.
inline MemoryOrder some_order(std::int64_t numel, std::int64_t batches = 1) {
  if (batches > 1 && numel % batches == 0)
    if (const MemoryOrder found = some_order(numel / batches); !found.row_major()) return found;
  auto p = static_cast<std::int64_t>(std::sqrt(static_cast<double>(numel)));
  while (p > 1 && numel % p != 0) --p;
  return p > 1 ? MemoryOrder{p, numel / p} : MemoryOrder{};
}

inline Tensor ordered(const Tensor& tensor, const MemoryOrder& order, Placement placement = Placement::offset) {
  Tensor moved = tensor;
  moved.order = order;
  const std::vector<std::size_t> logical = logical_indices(tensor.numel, order);
  const auto move = [&](const Array& from, Array& to) {
    if (from.dtype() == DType::none) return;
    Values values(logical.size());
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = from[logical[i]];
    to = Array(values, from.dtype(), placement);
  };
  for (const auto& [from, to] :
       {std::pair(&tensor.weight, &moved.weight), std::pair(&tensor.exp_avg, &moved.exp_avg),
        std::pair(&tensor.exp_avg_sq, &moved.exp_avg_sq), std::pair(&tensor.grad, &moved.grad),
        std::pair(&tensor.scores, &moved.scores), std::pair(&tensor.max_exp_avg_sq, &moved.max_exp_avg_sq)})
    move(*from, *to);
  if (!tensor.masked) return moved;
  moved.mask = Words(tensor.numel, placement);
  moved.mask.fill(0);
  for (std::size_t i = 0; i < logical.size(); ++i)
    if (bits::get(tensor.mask.data(), static_cast<std::int64_t>(logical[i])))
      bits::set(moved.mask.data(), static_cast<std::int64_t>(i));
  return moved;
}

// Every tensor in some order of its own.
inline Model ordered(const Model& model) {
  Model moved;
  for (const Tensor& tensor : model.tensors)
    moved.tensors.push_back(
        ordered(tensor, some_order(tensor.numel, 1 + static_cast<std::int64_t>(moved.tensors.size() % 3))));
  return moved;
}

// Masks of tensors in memory, as they are by logical index; words behind a tensor's last element stay.
inline Bits logical_bits(const Bits& memory, std::span<const ScoreInputs> tensors) {
  Bits found = memory;
  for (std::size_t t = 0; t < found.size(); ++t) {
    const std::vector<std::size_t> logical = logical_indices(tensors[t].numel, tensors[t].order);
    for (std::size_t i = 0; i < logical.size(); ++i) bits::clear(found[t].data(), static_cast<std::int64_t>(i));
    for (std::size_t i = 0; i < logical.size(); ++i)
      if (bits::get(memory[t].data(), static_cast<std::int64_t>(i)))
        bits::set(found[t].data(), static_cast<std::int64_t>(logical[i]));
  }
  return found;
}

}  // namespace bittersweet::test
