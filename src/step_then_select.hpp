// The CPU engine for a selection whose first read of the tensors is a step of their optimizer: by then they hold what
// the step leaves, whatever the selection asks first. Tensors are known by their weights' addresses.
#pragma once

#include <optional>

#include "bittersweet/engine/cpu.hpp"
#include "cpu/step_in_pass.hpp"

namespace bittersweet {

class StepThenSelect : public HostMemory {
 public:
  StepThenSelect(CpuEngine& engine, std::span<const ScoreInputs> tensors, const cpu::StepInPass& step)
      : engine_(engine), tensors_(tensors), step_(step) {}

  bool stepped() const { return stepped_; }

  // Makes the step, if nothing has yet.
  void step() {
    if (stepped_) return;
    stepped_ = true;
    const std::vector<std::uint8_t> untrusted(tensors_.size());
    const FpEnvironment of_the_step(step_.mode);
    engine_.step_adam(tensors_, make_chunks(tensors_), step_.steps, step_.call, untrusted, step_.dirty);
  }

  void sample(const ScoreView& view, const LineSample& plan, float* out) {
    constexpr std::uint32_t place =
        reads::input_norm | reads::position | reads::scores;  // known in whole tensors alone
    if (!stepped_ && is_model(view) && !(info_of(view.scorer).reads & place))
      return engine_.sample_before_step(view, plan, step_, out);
    read(view).sample(view, plan, out);
  }
  BracketResult bracket(const ScoreView& view, std::span<const Chunk> chunks, const Bracket& bracket, MaskTable masks,
                        std::int64_t capacity, Workspace& workspace) {
    if (stepped_ || !is_model(view)) return read(view).bracket(view, chunks, bracket, masks, capacity, workspace);
    stepped_ = true;
    return engine_.step_and_bracket(view, chunks, bracket, masks, capacity, workspace, step_);
  }

  void write_scores(const ScoreView& view, std::span<const Chunk> chunks, std::span<float* const> outputs) {
    read(view).write_scores(view, chunks, outputs);
  }
  void gather(const ScoreView& view, std::span<const std::int64_t> positions, float* out) {
    read(view).gather(view, positions, out);
  }
  void histogram(const ScoreView& view, std::span<const Chunk> chunks, const Digit& digit, std::span<std::int64_t> bins,
                 Workspace& workspace) {
    read(view).histogram(view, chunks, digit, bins, workspace);
  }
  void count_runs(const ScoreView& view, std::size_t t, float value, const RunRange& range,
                  std::span<std::int64_t> bins) {
    read(view).count_runs(view, t, value, range, bins);
  }
  Moments moments(const ScoreView& view, std::span<const Chunk> chunks) { return read(view).moments(view, chunks); }
  void count(const ScoreView& view, std::span<const Chunk> chunks, std::span<const float> thresholds,
             std::span<CountsAt> counts) {
    read(view).count(view, chunks, thresholds, counts);
  }
  std::int64_t write_mask(const ScoreView& view, std::span<const Chunk> chunks, std::span<const ChunkQuota> quotas,
                          float threshold, MaskTable masks) {
    return read(view).write_mask(view, chunks, quotas, threshold, masks);
  }
  std::int64_t group_mask(const ScoreView& view, std::size_t t, const GroupRule& rule, MaskTable masks) {
    return read(view).group_mask(view, t, rule, masks);
  }

  // Those that read candidates and masks alone.
  void tally(std::span<const Chunk> chunks, std::span<const Candidates> candidates, std::span<const std::int64_t> units,
             const KeyRange& range, std::span<std::int64_t> bins) {
    engine_.tally(chunks, candidates, units, range, bins);
  }
  void settle(std::span<const Chunk> chunks, std::span<const Candidates> candidates, float threshold,
              std::span<const std::int64_t> ties, MaskTable masks) {
    engine_.settle(chunks, candidates, threshold, ties, masks);
  }
  void apply_mask(std::span<const ScoreInputs> tensors, std::span<const Chunk> chunks,
                  std::span<const std::uint64_t* const> masks, std::uint32_t which) {
    step();
    engine_.apply_mask(tensors, chunks, masks, which);
  }
  void verify_mask(std::span<const ScoreInputs> tensors, std::span<const Chunk> chunks,
                   std::span<const std::uint64_t* const> masks, std::uint32_t which,
                   std::span<std::int64_t> per_tensor) {
    step();
    engine_.verify_mask(tensors, chunks, masks, which, per_tensor);
  }
  void popcount(std::span<const ScoreInputs> tensors, std::span<const std::uint64_t* const> masks,
                std::span<std::int64_t> per_tensor) {
    engine_.popcount(tensors, masks, per_tensor);
  }
  std::int64_t survey(std::span<const ScoreInputs> tensors, std::span<const Chunk> chunks,
                      std::span<const std::uint64_t* const> masks, std::span<std::int64_t> per_tensor) {
    return engine_.survey(tensors, chunks, masks, per_tensor);
  }
  std::int64_t settle_and_survey(std::span<const ScoreInputs> tensors, std::span<const Chunk> chunks,
                                 const Unsettled& unsettled, MaskTable masks, std::span<std::int64_t> per_tensor) {
    return engine_.settle_and_survey(tensors, chunks, unsettled, masks, per_tensor);
  }

 private:
  // Are all tensors that are stepped read, or some of them, and not scores that were collected from them?
  bool is_model(const ScoreView& view) const { return view.tensors.size() == tensors_.size() && is_part(view); }
  bool is_part(const ScoreView& view) const {
    return std::ranges::any_of(view.tensors, [&](const ScoreInputs& read) {
      return read.weight.data != nullptr && std::ranges::any_of(tensors_, [&](const ScoreInputs& stepped) {
               return stepped.weight.data == read.weight.data;
             });
    });
  }
  CpuEngine& read(const ScoreView& view) {
    if (!stepped_ && is_part(view)) step();
    return engine_;
  }

  CpuEngine& engine_;
  std::span<const ScoreInputs> tensors_;
  const cpu::StepInPass& step_;
  bool stepped_ = false;
};

static_assert(Engine<StepThenSelect>);

}  // namespace bittersweet
