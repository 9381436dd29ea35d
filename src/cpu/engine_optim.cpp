// The optimizer's pass: chunks of all tensors, shared out to threads in the caller's floating-point environment.
#include <atomic>

#include "bittersweet/engine/cpu.hpp"
#include "cpu/isa.hpp"
#include "cpu/kernels.hpp"
#include "cpu/parallel.hpp"
#include "cpu/step_in_pass.hpp"

namespace bittersweet {

using namespace cpu;

namespace {

AdamArrays arrays_of(const ScoreInputs& tensor) {
  if (tensor.weight.dtype == DType::f32) return AdamArrays::f32;
  if (tensor.exp_avg.dtype == DType::bf16) return AdamArrays::bf16;
  return tensor.weight.dtype == DType::bf16 ? AdamArrays::bf16_f32 : AdamArrays::f16_f32;
}

void* at(const TensorView& array, std::int64_t first) {
  if (array.data == nullptr) return nullptr;
  return static_cast<char*>(array.data) + static_cast<std::size_t>(first) * size_of(array.dtype);
}

// Leaving dead memory alone pays where whole words are dead: rows, or next to everything.
Skip skip_of(const std::uint64_t* keep, std::int64_t count) {
  const std::int64_t words = bits::words(count);
  std::int64_t empty = 0, live = 0;
  for (std::int64_t word = 0; word < words; ++word) {
    empty += keep[word] == 0;
    live += bits::count(keep[word]);
  }
  if (live * 50 <= count) return Skip::lines;
  return empty * 4 > words ? Skip::words : Skip::nothing;
}

}  // namespace

AdamChunk cpu::adam_chunk(const ScoreInputs& tensor, std::size_t t, std::int64_t first, std::int64_t count,
                          const AdamCall& call) {
  return {.w = at(tensor.weight, first),
          .g = at(tensor.grad, first),
          .m = at(tensor.exp_avg, first),
          .v = at(tensor.exp_avg_sq, first),
          .largest = at(tensor.max_exp_avg_sq, first),
          .keep = tensor.mask == nullptr ? nullptr : tensor.mask + first / bits::per_word,
          .count = count,
          .rest = first + count == tensor.numel ? adam_rest(tensor, call.rounding) : 0,
          .weights_only = call.weights_only,
          .draw = call.draw_of(t),
          .first = first};
}

void cpu::step_chunk(const Kernels& kernels, const ScoreInputs& tensor, const AdamStep& step, const AdamCall& call,
                     const AdamChunk& chunk, std::uint8_t& dirty) {
  const auto verb = kernels.adam[static_cast<std::size_t>(arrays_of(tensor))][call.rounding.contracted];
  if (verb(step, chunk)) std::atomic_ref(dirty).store(1, std::memory_order_relaxed);
}

void CpuEngine::step_adam(std::span<const ScoreInputs> tensors, std::span<const Chunk> chunks,
                          std::span<const AdamStep> steps, const AdamCall& call, std::span<const std::uint8_t> trusted,
                          std::span<std::uint8_t> dirty) {
  std::int64_t total = 0;
  for (const Chunk& chunk : chunks) total += chunk.count;
  std::fill(dirty.begin(), dirty.end(), std::uint8_t{0});
  const auto work = [&](int, std::int64_t c) {
    const Chunk& chunk = chunks[static_cast<std::size_t>(c)];
    const ScoreInputs& tensor = tensors[chunk.tensor];
    const AdamStep& step = steps[chunk.tensor];
    AdamChunk arrays = adam_chunk(tensor, chunk.tensor, chunk.first, chunk.count, call);
    const bool may_skip = trusted[chunk.tensor] && !step.scaled && !call.weights_only;
    if (may_skip && arrays.keep != nullptr) arrays.skip = skip_of(arrays.keep, chunk.count);
    step_chunk(kernels_, tensor, step, call, arrays, dirty[chunk.tensor]);
  };
  parallel_for(threads(total / step_share), static_cast<std::int64_t>(chunks.size()), work, FpEnvironment::current());
}

}  // namespace bittersweet
