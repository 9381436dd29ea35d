// Stochastic rounding: chunks of all arrays, dealt out to threads.
#include "bittersweet/engine/cpu.hpp"
#include "cpu/kernels.hpp"
#include "cpu/parallel.hpp"

namespace bittersweet {

void CpuEngine::stochastic_round(std::span<const RoundedArray> arrays) {
  struct Piece {
    const RoundedArray* array;
    std::int64_t first;
  };
  std::vector<Piece> pieces;
  std::int64_t total = 0;
  for (const RoundedArray& array : arrays) {
    for (std::int64_t first = 0; first < array.numel; first += Chunk::size) pieces.push_back({&array, first});
    total += array.numel;
  }
  cpu::parallel_for(threads(total), std::ssize(pieces), [&](int, std::int64_t p) {
    const auto& [array, first] = pieces[static_cast<std::size_t>(p)];
    const std::int64_t count = std::min(Chunk::size, array->numel - first);
    kernels_.stochastic_round(array->from + first, array->to + first, count, array->key, first);
  });
}

}  // namespace bittersweet
