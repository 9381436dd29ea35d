// The CPU engine: threads over chunks, kernels per instruction set. The verbs' contracts are in engine.hpp,
// optim.hpp, rounding.hpp and track.hpp.
#pragma once

#include <string>

#include "bittersweet/engine/engine.hpp"
#include "bittersweet/engine/host_memory.hpp"
#include "bittersweet/engine/optim.hpp"
#include "bittersweet/engine/rounding.hpp"
#include "bittersweet/engine/track.hpp"

namespace bittersweet {

namespace cpu {
struct Kernels;
struct StepInPass;
}  // namespace cpu

class CpuEngine : public HostMemory {
 public:
  CpuEngine();                                     // the best instruction set, or the one BITTERSWEET_CPU_ISA names
  explicit CpuEngine(const std::string& isa);      // this one; throws ArgumentError when it does not run here
  CpuEngine(const std::string& isa, int threads);  // with this many threads whatever the size of the work

  const char* isa() const noexcept;

  void write_scores(const ScoreView& view, std::span<const Chunk> chunks, std::span<float* const> outputs);
  void sample(const ScoreView& view, const LineSample& plan, float* out);
  // The scores that these elements will have after a step, but for the last few of a tensor, whose rounding may differ,
  // and for what draws, which it does anew.
  void sample_before_step(const ScoreView& view, const LineSample& plan, const cpu::StepInPass& step, float* out);
  void gather(const ScoreView& view, std::span<const std::int64_t> positions, float* out);
  BracketResult bracket(const ScoreView& view, std::span<const Chunk> chunks, const Bracket& bracket, MaskTable masks,
                        std::int64_t capacity, Workspace& workspace);
  // The same of what a step leaves, which is made in the same pass.
  BracketResult step_and_bracket(const ScoreView& view, std::span<const Chunk> chunks, const Bracket& bracket,
                                 MaskTable masks, std::int64_t capacity, Workspace& workspace,
                                 const cpu::StepInPass& step);
  void histogram(const ScoreView& view, std::span<const Chunk> chunks, const Digit& digit, std::span<std::int64_t> bins,
                 Workspace& workspace);
  void tally(std::span<const Chunk> chunks, std::span<const Candidates> candidates, std::span<const std::int64_t> units,
             const KeyRange& range, std::span<std::int64_t> bins);
  void count_runs(const ScoreView& view, std::size_t t, float value, const RunRange& range,
                  std::span<std::int64_t> bins);
  Moments moments(const ScoreView& view, std::span<const Chunk> chunks);
  void count(const ScoreView& view, std::span<const Chunk> chunks, std::span<const float> thresholds,
             std::span<CountsAt> counts);
  std::int64_t write_mask(const ScoreView& view, std::span<const Chunk> chunks, std::span<const ChunkQuota> quotas,
                          float threshold, MaskTable masks);
  void settle(std::span<const Chunk> chunks, std::span<const Candidates> candidates, float threshold,
              std::span<const std::int64_t> ties, MaskTable masks);
  std::int64_t group_mask(const ScoreView& view, std::size_t t, const GroupRule& rule, MaskTable masks);
  void apply_mask(std::span<const ScoreInputs> tensors, std::span<const Chunk> chunks,
                  std::span<const std::uint64_t* const> masks, std::uint32_t which);
  void verify_mask(std::span<const ScoreInputs> tensors, std::span<const Chunk> chunks,
                   std::span<const std::uint64_t* const> masks, std::uint32_t which,
                   std::span<std::int64_t> per_tensor);
  void popcount(std::span<const ScoreInputs> tensors, std::span<const std::uint64_t* const> masks,
                std::span<std::int64_t> per_tensor);
  std::int64_t survey(std::span<const ScoreInputs> tensors, std::span<const Chunk> chunks,
                      std::span<const std::uint64_t* const> masks, std::span<std::int64_t> per_tensor);
  std::int64_t settle_and_survey(std::span<const ScoreInputs> tensors, std::span<const Chunk> chunks,
                                 const Unsettled& unsettled, MaskTable masks, std::span<std::int64_t> per_tensor);

  void track_coherence(std::span<const ScoreInputs> tensors, std::span<const Chunk> chunks,
                       std::span<const CoherenceMemory> memory, float decay, std::span<TrackSums> sums);
  void measure_retention(std::span<const ScoreInputs> tensors, std::span<const Chunk> chunks,
                         std::span<const CoherenceMemory> memory, std::span<TrackSums> sums);
  void compare_snapshot(std::span<const ScoreInputs> tensors, std::span<const Chunk> chunks,
                        std::span<const SnapshotMemory> snapshots, std::span<TrackSums> sums);
  void accumulate_movement(std::span<const ScoreInputs> tensors, std::span<const Chunk> chunks,
                           std::span<const MovementMemory> movements);

  void step_adam(std::span<const ScoreInputs> tensors, std::span<const Chunk> chunks, std::span<const AdamStep> steps,
                 const AdamCall& call, std::span<const std::uint8_t> trusted, std::span<std::uint8_t> dirty);

  void stochastic_round(std::span<const RoundedArray> arrays);

 private:
  template <class F>
  BracketResult bracket_after(const ScoreView& view, std::span<const Chunk> chunks, const Bracket& bracket,
                              MaskTable masks, std::int64_t capacity, Workspace& workspace, bool whole_chunks,
                              F&& before);
  int threads(std::int64_t elements) const;

  const cpu::Kernels& kernels_;
  int forced_threads_ = 0;
};

static_assert(Engine<CpuEngine> && TrackingEngine<CpuEngine> && SteppingEngine<CpuEngine> && RoundingEngine<CpuEngine>);

}  // namespace bittersweet
