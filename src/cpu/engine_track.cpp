// The verbs of scorers with a memory: blocks of each chunk in order, summed by chunk, then by tensor.
#include <algorithm>
#include <cstring>
#include <initializer_list>

#include "bittersweet/engine/cpu.hpp"
#include "cpu/isa.hpp"
#include "cpu/kernels.hpp"
#include "cpu/parallel.hpp"
#include "cpu/prefetch.hpp"

namespace bittersweet {

using namespace cpu;

namespace {

// One thread's f32 copy of a block of one array that is stored as halves.
class Floats {
 public:
  explicit Floats(const Kernels& kernels) : kernels_(kernels) {}

  const float* at(const TensorView& array, std::int64_t first, std::int64_t count) {
    if (array.dtype == DType::f32) return static_cast<const float*>(array.data) + first;
    const auto* const narrow = static_cast<const std::uint16_t*>(array.data) + first;
    (array.dtype == DType::bf16 ? kernels_.from_bf16 : kernels_.from_f16)(narrow, count, copy_);
    return copy_;
  }

 private:
  const Kernels& kernels_;
  alignas(64) float copy_[Moments::block];
};

// One thread's f32 copy of a block of one array that is kept: in place where it is f32, else read from bf16 and rounded
// when it is written back.
class Kept {
 public:
  explicit Kept(const Kernels& kernels) : kernels_(kernels) {}

  float* at(const TensorView& array, std::int64_t first, std::int64_t count) {
    if (array.dtype == DType::f32) return static_cast<float*>(array.data) + first;
    kernels_.from_bf16(static_cast<const std::uint16_t*>(array.data) + first, count, copy_);
    return copy_;
  }
  void store(const TensorView& array, std::int64_t first, std::int64_t count, const RoundingKey& key) const {
    if (array.dtype == DType::f32) return;
    kernels_.stochastic_round(copy_, static_cast<std::uint16_t*>(array.data) + first, count, key, first);
  }

 private:
  const Kernels& kernels_;
  alignas(64) float copy_[Moments::block];
};

// How far a pass over these asks: where halves are copied first, it calculates longer than it reads.
std::int64_t ahead_over(std::initializer_list<const TensorView*> arrays) {
  const bool in_place = std::ranges::all_of(arrays, [](const TensorView* a) { return a->dtype == DType::f32; });
  return in_place ? asked_ahead() : far_ahead;
}

// f(chunk's index, first, count) for every block, of one chunk after the other.
template <class F>
void for_each_block(const Chunk& chunk, F&& f) {
  for (std::int64_t first = chunk.first; first < chunk.first + chunk.count; first += Moments::block)
    f(first, std::min(Moments::block, chunk.first + chunk.count - first));
}

std::int64_t elements(std::span<const Chunk> chunks) {
  std::int64_t total = 0;
  for (const Chunk& chunk : chunks) total += chunk.count;
  return total;
}

void sum_chunks(std::span<const Chunk> chunks, std::span<const TrackSums> of_chunk, std::span<TrackSums> sums) {
  std::fill(sums.begin(), sums.end(), TrackSums{});
  for (std::size_t c = 0; c < chunks.size(); ++c) sums[chunks[c].tensor] += of_chunk[c];
}

const std::uint64_t* live_at(const ScoreInputs& tensor, std::int64_t first) {
  return tensor.mask ? tensor.mask + first / bits::per_word : nullptr;
}

}  // namespace

void CpuEngine::track_coherence(std::span<const ScoreInputs> tensors, std::span<const Chunk> chunks,
                                std::span<const CoherenceMemory> memory, float decay, std::span<TrackSums> sums) {
  std::vector<TrackSums> of_chunk(chunks.size());
  parallel_for(threads(elements(chunks)), static_cast<std::int64_t>(chunks.size()), [&](int, std::int64_t c) {
    const Chunk& chunk = chunks[static_cast<std::size_t>(c)];
    const ScoreInputs& tensor = tensors[chunk.tensor];
    const CoherenceMemory& state = memory[chunk.tensor];
    const bool known = state.scalars->updates > 0;
    const std::int64_t ahead = ahead_over({&tensor.weight, &state.previous, &state.average});
    Floats weight(kernels_);
    Kept previous(kernels_), average(kernels_);
    for_each_block(chunk, [&](std::int64_t first, std::int64_t count) {
      TrackBlock block{.previous = previous.at(state.previous, first, count),
                       .average = average.at(state.average, first, count)};
      block.w = weight.at(tensor.weight, first, count);
      block.live = live_at(tensor, first);
      block.count = count;
      block.ahead = ahead;
      if (!known) {
        std::memcpy(block.previous, block.w, static_cast<std::size_t>(count) * sizeof(float));
        std::memset(block.average, 0, static_cast<std::size_t>(count) * sizeof(float));
      }
      const TrackSums found = kernels_.coherence(block, decay);  // writes the zeros of dead elements too
      previous.store(state.previous, first, count, state.previous_key());
      average.store(state.average, first, count, state.average_key());
      if (known) of_chunk[static_cast<std::size_t>(c)] += found;
    });
  });
  sum_chunks(chunks, of_chunk, sums);
}

void CpuEngine::measure_retention(std::span<const ScoreInputs> tensors, std::span<const Chunk> chunks,
                                  std::span<const CoherenceMemory> memory, std::span<TrackSums> sums) {
  std::vector<TrackSums> of_chunk(chunks.size());
  parallel_for(threads(elements(chunks)), static_cast<std::int64_t>(chunks.size()), [&](int, std::int64_t c) {
    const Chunk& chunk = chunks[static_cast<std::size_t>(c)];
    const ScoreInputs& tensor = tensors[chunk.tensor];
    const std::int64_t ahead = ahead_over({&memory[chunk.tensor].previous, &tensor.exp_avg});
    Floats previous(kernels_), exp_avg(kernels_);
    for_each_block(chunk, [&](std::int64_t first, std::int64_t count) {
      of_chunk[static_cast<std::size_t>(c)] +=
          kernels_.retention({.w = previous.at(memory[chunk.tensor].previous, first, count),
                              .m = exp_avg.at(tensor.exp_avg, first, count),
                              .count = count,
                              .ahead = ahead});
    });
  });
  sum_chunks(chunks, of_chunk, sums);
}

void CpuEngine::compare_snapshot(std::span<const ScoreInputs> tensors, std::span<const Chunk> chunks,
                                 std::span<const SnapshotMemory> snapshots, std::span<TrackSums> sums) {
  std::vector<TrackSums> of_chunk(chunks.size());
  parallel_for(threads(elements(chunks)), static_cast<std::int64_t>(chunks.size()), [&](int, std::int64_t c) {
    const Chunk& chunk = chunks[static_cast<std::size_t>(c)];
    const ScoreInputs& tensor = tensors[chunk.tensor];
    const std::int64_t ahead =
        ahead_over({&tensor.weight, &tensor.exp_avg, &tensor.exp_avg_sq, &snapshots[chunk.tensor].snapshot});
    Floats weight(kernels_), exp_avg(kernels_), exp_avg_sq(kernels_), snapshot(kernels_);
    for_each_block(chunk, [&](std::int64_t first, std::int64_t count) {
      TrackBlock block{.snapshot = snapshot.at(snapshots[chunk.tensor].snapshot, first, count)};
      block.w = weight.at(tensor.weight, first, count);
      block.m = exp_avg.at(tensor.exp_avg, first, count);
      block.v = exp_avg_sq.at(tensor.exp_avg_sq, first, count);
      block.live = live_at(tensor, first);
      block.count = count;
      block.ahead = ahead;
      of_chunk[static_cast<std::size_t>(c)] += kernels_.snapshot(block);
    });
  });
  sum_chunks(chunks, of_chunk, sums);
}

void CpuEngine::accumulate_movement(std::span<const ScoreInputs> tensors, std::span<const Chunk> chunks,
                                    std::span<const MovementMemory> movements) {
  parallel_for(threads(elements(chunks)), static_cast<std::int64_t>(chunks.size()), [&](int, std::int64_t c) {
    const Chunk& chunk = chunks[static_cast<std::size_t>(c)];
    const ScoreInputs& tensor = tensors[chunk.tensor];
    const MovementMemory& state = movements[chunk.tensor];
    const std::int64_t ahead = ahead_over({&state.sums, &tensor.grad, &tensor.weight});
    Floats grad(kernels_), weight(kernels_);
    Kept sums(kernels_);
    for_each_block(chunk, [&](std::int64_t first, std::int64_t count) {
      kernels_.movement(sums.at(state.sums, first, count), grad.at(tensor.grad, first, count),
                        weight.at(tensor.weight, first, count), count, state.rate, ahead);
      sums.store(state.sums, first, count, state.key());
    });
  });
}

}  // namespace bittersweet
