// The public functions of scorers with a memory: checks, then one verb of the engine, then the scalars.
#include "bittersweet/track.hpp"

#include "bittersweet/engine/cpu.hpp"
#include "cpu/prefetch.hpp"
#include "fp_environment.hpp"
#include "track_checks.hpp"

namespace bittersweet {
namespace {

CpuEngine& cpu_engine() {
  static CpuEngine engine;
  return engine;
}

// Asks the memory for what sketch_tensor will read.
void ask_for(const ScoreInputs& tensor, const SketchMemory& sketch) {
  for (std::int64_t i = 0; i < sketch.count; i += SketchMemory::run)
    for (const TensorView* array : {&tensor.exp_avg, &tensor.exp_avg_sq})
      cpu::prefetch(
          static_cast<const char*>(array->data) + static_cast<std::size_t>(sketch.positions[i]) * size_of(array->dtype),
          static_cast<std::size_t>(SketchMemory::run) * size_of(array->dtype));
}

}  // namespace

void track_coherence(std::span<const ScoreInputs> tensors, std::span<const CoherenceMemory> memory, double decay) {
  const FpEnvironment environment;
  check_coherence(tensors, memory, decay);
  std::vector<TrackSums> sums(tensors.size());
  cpu_engine().track_coherence(tensors, make_chunks(tensors), memory, static_cast<float>(decay), sums);
  for (std::size_t t = 0; t < tensors.size(); ++t) observe(*memory[t].scalars, sums[t], decay);
}

std::vector<double> measure_retention(std::span<const ScoreInputs> tensors, std::span<const CoherenceMemory> memory) {
  const FpEnvironment environment;
  check_retention(tensors, memory);
  std::vector<TrackSums> sums(tensors.size());
  cpu_engine().measure_retention(tensors, make_chunks(tensors), memory, sums);
  std::vector<double> found;
  for (const TrackSums& of : sums) found.push_back(cosine(of.xy, of.xx, of.yy).value_or(0.0));
  return found;
}

void track_sketch(std::span<const ScoreInputs> tensors, std::span<const SketchMemory> memory, double decay) {
  const FpEnvironment environment;
  check_sketch(tensors, memory, decay);
  constexpr std::size_t ahead = 4;  // tensors whose misses overlap with the work on this one
  for (std::size_t t = 0; t < tensors.size() + ahead; ++t) {
    if (t < tensors.size()) ask_for(tensors[t], memory[t]);
    if (t >= ahead) observe(*memory[t - ahead].scalars, sketch_tensor(tensors[t - ahead], memory[t - ahead]), decay);
  }
}

void compare_snapshot(std::span<const ScoreInputs> tensors, std::span<const SnapshotMemory> memory) {
  const FpEnvironment environment;
  check_snapshots(tensors, memory);
  std::vector<TrackSums> sums(tensors.size());
  cpu_engine().compare_snapshot(tensors, make_chunks(tensors), memory, sums);
  for (std::size_t t = 0; t < tensors.size(); ++t) observe(*memory[t].scalars, sums[t], 0.0);
}

void accumulate_movement(std::span<const ScoreInputs> tensors, std::span<const MovementMemory> memory) {
  const FpEnvironment environment;
  check_movement(tensors, memory);
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
