// What the verbs of scorers with a memory ask of their arguments, wherever they run.
#pragma once

#include <string>

#include "bittersweet/engine/track.hpp"
#include "checks.hpp"

namespace bittersweet {

inline void check_tracked(std::span<const ScoreInputs> tensors, std::size_t memory, std::uint32_t reads) {
  if (memory != tensors.size())
    throw ShapeError("memory: " + std::to_string(memory) + " for " + std::to_string(tensors.size()) +
                     " tensors; one is needed for each");
  const auto require = [&](const ScoreInputs& tensor, std::uint32_t role, const TensorView& array, const char* what) {
    if (!(reads & role)) return;
    if (array.dtype == DType::none || (array.data == nullptr && tensor.numel > 0))
      throw MissingStateError(std::string(what) + ": the tracker reads it and tensor '" + std::string(tensor.name) +
                              "' has none; give it, or leave the tensor out of this call");
  };
  for (const ScoreInputs& tensor : tensors) {
    if (tensor.numel < 0)
      throw ShapeError("numel: " + std::to_string(tensor.numel) + " in tensor '" + std::string(tensor.name) + "'");
    require(tensor, reads::weight, tensor.weight, "weight");
    require(tensor, reads::exp_avg, tensor.exp_avg, "exp_avg");
    require(tensor, reads::exp_avg_sq, tensor.exp_avg_sq, "exp_avg_sq");
    require(tensor, reads::grad, tensor.grad, "grad");
  }
  check_alignment(tensors);
}

inline void check_kept(const ScoreInputs& tensor, const TensorView& array, const char* what) {
  const std::string which = std::string(what) + " of tensor '" + std::string(tensor.name) + "'";
  if (array.dtype != DType::f32 && array.dtype != DType::bf16)
    throw DTypeError(which + ": " + name_of(array.dtype) + "; float32 and bfloat16 are accepted");
  if ((array.data == nullptr && tensor.numel > 0) ||
      reinterpret_cast<std::uintptr_t>(array.data) % size_of(array.dtype) != 0)
    throw LayoutError(which + ": a null pointer, or an address that is not a multiple of its elements' size");
}

inline void check_number(const ScoreInputs& tensor, const void* number, const char* what) {
  if (number == nullptr || reinterpret_cast<std::uintptr_t>(number) % 8 != 0)
    throw LayoutError(std::string(what) + " of tensor '" + std::string(tensor.name) +
                      "': a null pointer, or an address that is not a multiple of 8");
}

inline void check_draws(const TrackDraws& draws) {
  if (draws.stream >= RoundingKey::streams / TrackDraws::arrays)
    throw ArgumentError("stream: " + std::to_string(draws.stream) + "; accepted: below 2^23");
}

inline void check_decay(double decay) {
  if (!(decay >= 0.0 && decay < 1.0))
    throw ArgumentError("decay: " + std::to_string(decay) + "; a number from 0 to below 1 is accepted");
}

inline void check_coherence(std::span<const ScoreInputs> tensors, std::span<const CoherenceMemory> memory,
                            double decay) {
  check_tracked(tensors, memory.size(), reads::weight);
  check_decay(decay);
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    check_kept(tensors[t], memory[t].previous, "previous");
    check_kept(tensors[t], memory[t].average, "average");
    check_number(tensors[t], memory[t].scalars, "scalars");
    check_draws(memory[t].draws);
  }
}

inline void check_retention(std::span<const ScoreInputs> tensors, std::span<const CoherenceMemory> memory) {
  check_tracked(tensors, memory.size(), reads::exp_avg);
  for (std::size_t t = 0; t < tensors.size(); ++t) check_kept(tensors[t], memory[t].previous, "previous");
}

inline void check_sketch(std::span<const ScoreInputs> tensors, std::span<const SketchMemory> memory, double decay) {
  check_tracked(tensors, memory.size(), reads::exp_avg | reads::exp_avg_sq);
  check_decay(decay);
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    const SketchMemory& sketch = memory[t];
    check_number(tensors[t], sketch.scalars, "scalars");
    if (sketch.count < 0 || sketch.count > std::min(SketchMemory::most, tensors[t].numel))
      throw ShapeError("positions of tensor '" + std::string(tensors[t].name) + "': " + std::to_string(sketch.count) +
                       "; at most 64 are accepted, and no more than there are elements");
    if (sketch.count == 0) continue;
    check_number(tensors[t], sketch.positions, "positions");
    check_kept(tensors[t], {sketch.previous, DType::f32}, "previous");
  }
}

inline void check_snapshots(std::span<const ScoreInputs> tensors, std::span<const SnapshotMemory> memory) {
  check_tracked(tensors, memory.size(), reads::weight | reads::exp_avg | reads::exp_avg_sq);
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    check_kept(tensors[t], memory[t].snapshot, "snapshot");
    check_number(tensors[t], memory[t].scalars, "scalars");
  }
}

inline void check_movement(std::span<const ScoreInputs> tensors, std::span<const MovementMemory> memory) {
  check_tracked(tensors, memory.size(), reads::weight | reads::grad);
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    check_kept(tensors[t], memory[t].sums, "sums");
    check_number(tensors[t], memory[t].updates, "updates");
    check_draws(memory[t].draws);
  }
}

}  // namespace bittersweet
