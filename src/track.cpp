// The public functions of scorers with a memory: checks, then one verb of the engine, then the scalars.
#include "bittersweet/track.hpp"

#include "bittersweet/engine/cpu.hpp"
#include "checks.hpp"
#include "fp_environment.hpp"

namespace bittersweet {
namespace {

CpuEngine& cpu_engine() {
  static CpuEngine engine;
  return engine;
}

void check(std::span<const ScoreInputs> tensors, std::size_t memory, std::uint32_t reads) {
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

void check_kept(const ScoreInputs& tensor, const TensorView& array, const char* what) {
  const std::string which = std::string(what) + " of tensor '" + std::string(tensor.name) + "'";
  if (array.dtype != DType::f32 && array.dtype != DType::bf16)
    throw DTypeError(which + ": " + name_of(array.dtype) + "; float32 and bfloat16 are accepted");
  if ((array.data == nullptr && tensor.numel > 0) ||
      reinterpret_cast<std::uintptr_t>(array.data) % size_of(array.dtype) != 0)
    throw LayoutError(which + ": a null pointer, or an address that is not a multiple of its elements' size");
}

void check_draws(const TrackDraws& draws) {
  if (draws.stream >= RoundingKey::streams / TrackDraws::arrays)
    throw ArgumentError("stream: " + std::to_string(draws.stream) + "; accepted: below 2^23");
}

// Asks the memory for what sketch_tensor will read.
void prefetch(const ScoreInputs& tensor, const SketchMemory& sketch) {
  for (std::int64_t i = 0; i < sketch.count; i += SketchMemory::run)
    for (const TensorView* array : {&tensor.exp_avg, &tensor.exp_avg_sq})
      __builtin_prefetch(static_cast<const char*>(array->data) +
                         static_cast<std::size_t>(sketch.positions[i]) * size_of(array->dtype));
}

void check_decay(double decay) {
  if (!(decay >= 0.0 && decay < 1.0))
    throw ArgumentError("decay: " + std::to_string(decay) + "; a number from 0 to below 1 is accepted");
}

}  // namespace

void track_coherence(std::span<const ScoreInputs> tensors, std::span<const CoherenceMemory> memory, double decay) {
  const FpEnvironment environment;
  check(tensors, memory.size(), reads::weight);
  check_decay(decay);
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    check_kept(tensors[t], memory[t].previous, "previous");
    check_kept(tensors[t], memory[t].average, "average");
    check_draws(memory[t].draws);
  }
  std::vector<TrackSums> sums(tensors.size());
  cpu_engine().track_coherence(tensors, make_chunks(tensors), memory, static_cast<float>(decay), sums);
  for (std::size_t t = 0; t < tensors.size(); ++t) observe(*memory[t].scalars, sums[t], decay);
}

std::vector<double> measure_retention(std::span<const ScoreInputs> tensors, std::span<const CoherenceMemory> memory) {
  const FpEnvironment environment;
  check(tensors, memory.size(), reads::exp_avg);
  for (std::size_t t = 0; t < tensors.size(); ++t) check_kept(tensors[t], memory[t].previous, "previous");
  std::vector<TrackSums> sums(tensors.size());
  cpu_engine().measure_retention(tensors, make_chunks(tensors), memory, sums);
  std::vector<double> found;
  for (const TrackSums& of : sums) found.push_back(cosine(of.xy, of.xx, of.yy).value_or(0.0));
  return found;
}

void track_sketch(std::span<const ScoreInputs> tensors, std::span<const SketchMemory> memory, double decay) {
  const FpEnvironment environment;
  check(tensors, memory.size(), reads::exp_avg | reads::exp_avg_sq);
  check_decay(decay);
  constexpr std::size_t ahead = 4;  // tensors whose misses overlap with the work on this one
  for (std::size_t t = 0; t < tensors.size() + ahead; ++t) {
    if (t < tensors.size()) prefetch(tensors[t], memory[t]);
    if (t >= ahead) observe(*memory[t - ahead].scalars, sketch_tensor(tensors[t - ahead], memory[t - ahead]), decay);
  }
}

void compare_snapshot(std::span<const ScoreInputs> tensors, std::span<const SnapshotMemory> memory) {
  const FpEnvironment environment;
  check(tensors, memory.size(), reads::weight | reads::exp_avg | reads::exp_avg_sq);
  for (std::size_t t = 0; t < tensors.size(); ++t) check_kept(tensors[t], memory[t].snapshot, "snapshot");
  std::vector<TrackSums> sums(tensors.size());
  cpu_engine().compare_snapshot(tensors, make_chunks(tensors), memory, sums);
  for (std::size_t t = 0; t < tensors.size(); ++t) observe(*memory[t].scalars, sums[t], 0.0);
}

void accumulate_movement(std::span<const ScoreInputs> tensors, std::span<const MovementMemory> memory) {
  const FpEnvironment environment;
  check(tensors, memory.size(), reads::weight | reads::grad);
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    check_kept(tensors[t], memory[t].sums, "sums");
    if (memory[t].updates == nullptr)
      throw LayoutError("updates of tensor '" + std::string(tensors[t].name) + "': a null pointer");
    check_draws(memory[t].draws);
  }
  cpu_engine().accumulate_movement(tensors, make_chunks(tensors), memory);
  for (const MovementMemory& state : memory) ++*state.updates;
}

std::vector<std::int64_t> sketch_positions(std::string_view name, std::int64_t numel, std::uint64_t seed) {
  std::uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a: a name's own stretch of the generator's counter
  for (const char letter : name) hash = (hash ^ static_cast<unsigned char>(letter)) * 0x100000001b3u;
  constexpr std::int64_t width = SketchMemory::run;
  const std::int64_t runs = (std::min(SketchMemory::most, numel) + width - 1) / width, places = numel / width;
  std::vector<std::int64_t> positions;
  for (std::int64_t j = 0; j < runs; ++j) {
    std::int64_t first = j * width;
    if (numel > SketchMemory::most) {
      const std::int64_t begin = stretch(j, places, runs), size = stretch(j + 1, places, runs) - begin;
      const auto random = philox(hash + static_cast<std::uint64_t>(j), seed, Purpose::sketch);
      const std::uint64_t place = random[0] | static_cast<std::uint64_t>(random[1]) << 32;
      first = (begin + static_cast<std::int64_t>(place % static_cast<std::uint64_t>(size))) * width;
    }
    for (std::int64_t i = first; i < std::min(first + width, numel); ++i) positions.push_back(i);
  }
  return positions;
}

}  // namespace bittersweet
