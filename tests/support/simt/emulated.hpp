// The whole CUDA engine on the SIMT emulator: the pipeline and the kernels of cuda/, on host memory.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "bittersweet/cuda_calibration.hpp"
#include "bittersweet/cuda_sparse.hpp"
#include "bittersweet/cuda_track.hpp"

namespace bittersweet::test {

class EmulatedCuda {
 public:
  // `seed` draws the order in which threads go on; `processors` sets the size of persistent grids.
  explicit EmulatedCuda(std::uint64_t seed = 1, unsigned processors = 2) : seed_(seed), processors_(processors) {}

  // cuda::step, in a workspace of just the right size that begins as rubbish.
  cuda::StepReport step(std::span<const ScoreInputs> tensors, const Scorer& scorer, const cuda::StepBudget& budget,
                        const cuda::StepOptions& options, MaskTable new_masks,
                        std::vector<std::int64_t>* tensor_pruned = nullptr);

  // One step enqueued again for each budget, as a captured graph is replayed: same memory, what the last run left in it
  // included. `after` each of them.
  std::vector<cuda::StepReport> replay(std::span<const ScoreInputs> tensors, const Scorer& scorer,
                                       std::span<const cuda::StepBudget> budgets, const cuda::StepOptions& options,
                                       MaskTable new_masks, std::vector<std::int64_t>* tensor_pruned = nullptr,
                                       const std::function<void(const cuda::StepReport&)>& after = {});

  void write_scores(std::span<const ScoreInputs> tensors, const Scorer& scorer, std::span<float* const> scores);
  void apply_masks(std::span<const ScoreInputs> tensors, std::span<const std::uint64_t* const> masks,
                   std::uint32_t which, const std::uint32_t* gate = nullptr);
  std::vector<std::int64_t> count_live(std::span<const ScoreInputs> tensors,
                                       std::span<const std::uint64_t* const> masks);
  std::vector<std::int64_t> count_violations(std::span<const ScoreInputs> tensors,
                                             std::span<const std::uint64_t* const> masks, std::uint32_t which);

  // cuda::bracket, in a workspace that begins as rubbish; tally() reads what the last one left there.
  cuda::BracketReport bracket(std::span<const ScoreInputs> tensors, const Scorer& scorer, const Bracket& ends,
                              MaskTable new_masks);
  std::vector<std::int64_t> tally(std::span<const ScoreInputs> tensors, std::span<const std::int64_t> units,
                                  const KeyRange& keys, std::size_t bins);
  std::vector<std::int64_t> count_runs(std::span<const ScoreInputs> tensors, const Scorer& scorer, std::size_t t,
                                       float value, const RunRange& runs, std::size_t bins);

  // cuda::step_adam, as `step`; the number of its launches.
  int step_adam(std::span<const ScoreInputs> tensors, std::span<const AdamOptions> options,
                const cuda::AdamArguments& call);

  void stochastic_round(std::span<const RoundedArray> arrays);

  // cuda::add_squares, in a workspace of just the right size that begins as rubbish; the number of its launches.
  int add_squares(const LayerInput& input, const SquareSums& to);

  // Those of cuda_sparse.hpp.
  void count_strips(const DenseMatrix& dense, const std::uint64_t* keep, std::uint32_t* masks, std::uint64_t* offsets,
                    std::int64_t* lost);
  void pack_strips(const DenseMatrix& dense, const std::uint32_t* masks, const std::uint64_t* offsets, void* values);
  void unpack_strips(const PackedMatrix& packed, std::int64_t first_row, std::int64_t rows, void* out);
  int multiply_strips(const PackedMatrix& packed, const StripProduct& product);  // the number of its launches
  void count_delta(const DenseMatrix& dense, const std::uint64_t* keep, std::uint64_t* offsets, std::int64_t* lost);
  void pack_delta(const DenseMatrix& dense, const std::uint64_t* keep, const std::uint64_t* offsets,
                  std::uint8_t* codes, void* values);
  void unpack_delta(const DeltaMatrix& packed, std::int64_t first_row, std::int64_t rows, void* out);
  // In a workspace of just the right size, or `less`, that begins as rubbish; the number of its launches.
  int multiply_delta(const DeltaMatrix& packed, const StripProduct& product, std::size_t less = 0);

  // Those of cuda_track.hpp, in workspaces of just the right size that begin as rubbish; the numbers of their launches.
  int track_coherence(std::span<const ScoreInputs> tensors, std::span<const CoherenceMemory> memory, double decay);
  int measure_retention(std::span<const ScoreInputs> tensors, std::span<const CoherenceMemory> memory, double* found);
  int track_sketch(std::span<const ScoreInputs> tensors, std::span<const SketchMemory> memory, double decay);
  int compare_snapshot(std::span<const ScoreInputs> tensors, std::span<const SnapshotMemory> memory);
  int accumulate_movement(std::span<const ScoreInputs> tensors, std::span<const MovementMemory> memory);

  // cuda::prove_margin, on every `step`-th float.
  cuda::MarginProof prove_margin(std::uint32_t step);

  // A step whose first bracket is this one, and that has room for `capacity` candidates: for tests of what happens when
  // a guess is bad. They apply to the calls that follow.
  void force_bracket(float low, float high) { forced_ = true, low_ = low, high_ = high; }
  void force_capacity(std::int64_t capacity) { capacity_ = capacity; }
  // Where each tensor has a selection of its own: these apply to that of one tensor, and sets of launches are made
  // until the workspace of one is this large.
  void force_tensor(std::int64_t t) { row_ = t; }
  void force_room(std::size_t bytes) { room_ = bytes; }
  // Digits of so many bits, up to 11, where bounds are looked for: those of a model of many tensors.
  void force_bits(std::uint32_t bits) { bits_ = bits; }

 private:
  cuda::StepReport step_groups(std::span<const ScoreInputs> tensors, const Scorer& scorer,
                               const cuda::StepBudget& budget, const cuda::StepOptions& options, MaskTable new_masks,
                               std::vector<std::int64_t>* tensor_pruned);

  std::uint64_t seed_;
  unsigned processors_;
  bool forced_ = false;
  float low_ = 0, high_ = 0;
  std::int64_t capacity_ = -1, row_ = -1;
  std::size_t room_ = 0;
  std::uint32_t bits_ = 0;
  bool forced(std::int64_t row) const { return row_ < 0 || row_ == row; }
  std::vector<unsigned char> workspace_;
};

}  // namespace bittersweet::test
