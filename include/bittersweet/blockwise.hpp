// Exact pruning of tensors that are never in memory together: the caller feeds blocks of them, pass after pass, and
// keeps nothing but a few counters here. Thresholds, counts and zeros are those of make_masks over the whole tensors.
//
//   BlockwisePrune run(total, {.sparsity = 0.5}, Magnitude{});
//   while (run.pass() != Pass::write) {  // a sample and one counting pass, hardly ever more
//     if (run.pass() == Pass::sample)
//       for (std::int64_t position : run.sample_positions()) run.sample(...);
//     else
//       for (...) run.count(block, first);  // every element once, in order of (tensor, flat index)
//     run.next();
//   }
//   for (...) run.write(block);  // the same again
//   run.finish();
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bittersweet/prune.hpp"

namespace bittersweet {

// NaN scores met in blocks: how many, and where the first of them is.
class NonFiniteWatch {
 public:
  // Counts the NaN scores of a block whose element 0 is element `first` of its tensor. Blocks come in order. Under an
  // N:M scope their inputs are whole groups and what is left of a row, which is not ranked and not counted.
  void look(const ScoreInputs& block, std::int64_t first, const Scorer& scorer, const Scope& scope = {});

  // The same for a block of which the NaN scores have been counted.
  void found(const ScoreInputs& block, std::int64_t first, const Scorer& scorer, std::int64_t count,
             const Scope& scope = {});

  // Throws NonFiniteScoreError if there was one.
  void raise() const;

 private:
  std::int64_t count_ = 0;
  std::string name_;
  std::int64_t first_ = 0;
};

enum class Pass { sample, count, write };

// One selection over `total` elements, ties to the lower position. Blocks are row-major parts of tensors, at most
// 2^31 elements, with a geometry of their own; they have no mask and no modifier. Everything is borrowed for the length
// of a call. Not thread-safe.
class BlockwisePrune {
 public:
  // Throws ArgumentError for a budget out of range, or a scorer that reads positions.
  BlockwisePrune(std::int64_t total, const Budget& budget, const Scorer& scorer, std::uint64_t seed = 0);
  ~BlockwisePrune();
  BlockwisePrune(BlockwisePrune&&) noexcept;
  BlockwisePrune& operator=(BlockwisePrune&&) noexcept;

  Pass pass() const noexcept;

  // Pass::sample: where the scores that it wants begin, ascending, in the sequence of all elements.
  std::vector<std::int64_t> sample_positions() const;

  // Pass::sample: up to LineSample::width neighbours from one of those positions on, fewer where the tensor ends.
  void sample(const ScoreInputs& block);

  // Pass::count: a block whose element 0 is element `first` of its tensor.
  void count(const ScoreInputs& block, std::int64_t first);

  // Ends a pass that is not the last. Throws NonFiniteScoreError, or ShapeError if the blocks were not all elements.
  void next();

  // Pass::write: writes +0 to the block's elements that are pruned, and returns how many these are.
  std::int64_t write(const ScoreInputs& block);

  // Ends the last pass, which may then be made again. Throws Error if the elements were not those that were counted.
  void finish();

  std::int64_t k() const noexcept;
  int counting_passes() const noexcept;
  const Selection& selection() const noexcept;  // complete from Pass::write on

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace bittersweet
