// What a device must do: these verbs over a whole model (a table of tensors). Only verbs contain loops or kernels.
//
// Contracts, the same for every engine:
//   - Same inputs, same bits out, whatever the engine, number of threads or instruction set. Scores are those of
//     score_element(). Pieces of work are the chunks of make_chunks().
//   - Dead elements (current mask bit 0) are not read as scores and are counted nowhere.
//   - Reading verbs change nothing but their outputs. Arguments have been checked by the caller.
#pragma once

#include <concepts>
#include <cstdint>
#include <span>

#include "bittersweet/engine/summaries.hpp"
#include "bittersweet/engine/workspace.hpp"

namespace bittersweet {

using MaskTable = std::span<std::uint64_t* const>;  // one array of words per tensor; an empty span: write no masks

// Bits of `roles` for apply_mask and count_violations: which arrays of a ScoreInputs.
namespace roles {
inline constexpr std::uint32_t weight = 1;
inline constexpr std::uint32_t exp_avg = 2;
inline constexpr std::uint32_t exp_avg_sq = 4;
inline constexpr std::uint32_t max_exp_avg_sq = 8;
inline constexpr std::uint32_t grad = 16;
inline constexpr std::uint32_t all[] = {weight, exp_avg, exp_avg_sq, max_exp_avg_sq, grad};

inline const TensorView& of(const ScoreInputs& tensor, std::uint32_t role) noexcept {
  switch (role) {
    case exp_avg: return tensor.exp_avg;
    case exp_avg_sq: return tensor.exp_avg_sq;
    case max_exp_avg_sq: return tensor.max_exp_avg_sq;
    case grad: return tensor.grad;
    default: return tensor.weight;
  }
}
}  // namespace roles

// Verbs that a selection over ranks (sharded/) asks for. All arrays and masks lie in the engine's own memory, and only
// what is returned, and what `bins`, `per_tensor` and samples point to, in the host's.
template <class E>
concept RankEngine = requires(
    E& engine, const ScoreView& view, std::span<const Chunk> chunks, Workspace& workspace, float* sample,
    MaskTable masks, Bracket bracket, Digit digit, std::span<std::int64_t> bins, std::span<const ChunkQuota> quotas,
    std::span<const ChunkFill> fills, std::span<const ScoreInputs> tensors, std::span<const std::uint64_t* const> bits,
    std::size_t t, GroupRule rule, std::span<std::int64_t> per_tensor, std::span<const std::int64_t> positions,
    std::span<const Candidates> candidates, std::span<const std::int64_t> ties, const KeyRange& keys,
    const RunRange& runs, std::uint64_t* mask, std::vector<std::uint64_t>& words) {
  // sample[LineSample::width * j + c] = score of the c-th element of line j, or NaN where the line has no such live
  // element. Line j lies in the j-th of `lines` equal stretches of the sequence (or, where the sample gives their
  // numbers, of all lines), at a place hashed from (seed, j).
  engine.sample(view, LineSample{}, sample);

  // sample[j] = score at positions[j] (ascending, in the whole sequence), or NaN where that element is dead.
  engine.gather(view, positions, sample);

  // One read: counts every live score against the bracket, collects those strictly inside (up to `capacity` a
  // thread), and, unless `masks` is empty, writes every mask word: keep bit = live and not (score <= low). NaN stays.
  { engine.bracket(view, chunks, bracket, masks, std::int64_t{}, workspace) } -> std::same_as<BracketResult>;

  // bins[b] = number of live keys (radix_key.hpp) that match the digit's prefix and fall into bin b.
  engine.histogram(view, chunks, digit, bins, workspace);

  // bins[b] = number of candidates whose key the range holds and puts, with the unit of its tensor, into bin b.
  // Candidates of tensors whose unit is negative do not count. bins.size() >= keys.bins(), the rest becomes 0.
  engine.tally(chunks, candidates, ties, keys, bins);

  // bins[b] = number of live scores of tensor t, equal to the value, in the runs of bin b; runs outside the range do
  // not count. Runs go by the logical index. bins.size() >= runs.bins(), the rest becomes 0.
  engine.count_runs(view, t, float{}, runs, bins);

  // Rewrites the words of the quoted chunks: keep bit = live and not (score < threshold), and not one of the first
  // `ties` scores of the chunk that equal the threshold. NaN stays. Returns the live NaN scores that it met.
  { engine.write_mask(view, chunks, quotas, float{}, masks) } -> std::same_as<std::int64_t>;

  // Rewrites the words of these chunks: the live bits of their tensors, or 0.
  engine.fill_mask(tensors, chunks, fills, masks);

  // Clears the bits of collected candidates below the threshold, and of the first ties[c] in chunk c that equal it.
  engine.settle(chunks, candidates, float{}, ties, masks);

  // Writes all words of tensor t: in every group of the rule, prunes the lowest live scores (ties to the lower
  // logical position in the row) until the group's share, dead elements included, is met. Returns the NaN it met.
  { engine.group_mask(view, t, rule, masks) } -> std::same_as<std::int64_t>;

  // per_tensor[t] = live elements of tensor t.
  engine.popcount(tensors, bits, per_tensor);

  // The same under new masks; returns the output rows that had a live weight under the tensors' own and now have none.
  { engine.survey(tensors, chunks, bits, per_tensor) } -> std::same_as<std::int64_t>;

  // Bits of new masks that differ from the tensors' own.
  { engine.differing(tensors, bits) } -> std::same_as<std::int64_t>;

  // The logical index of the first live NaN score of tensor t among the first so many inputs of its rows; -1: there is
  // none. Only on the way to an error.
  { engine.first_nonfinite(view, t, std::int64_t{}) } -> std::same_as<std::int64_t>;

  // Words of a mask for the host to read: in `words`, or where they are.
  { engine.words(mask, std::int64_t{}, words) } -> std::same_as<const std::uint64_t*>;

  // As many words as `words` has that write_mask can write to: those, or others that live until the next call of this.
  { engine.scratch(words) } -> std::same_as<std::uint64_t*>;

  // Clears the bits of a mask that `words` has set.
  engine.clear_bits(mask, words);
};

template <class E>
concept Engine =
    RankEngine<E> &&
    requires(E& engine, const ScoreView& view, std::span<const Chunk> chunks, std::span<float* const> outputs,
             std::span<const float> thresholds, std::span<CountsAt> counts, std::span<const ScoreInputs> tensors,
             std::span<const std::uint64_t* const> bits, std::span<std::int64_t> per_tensor, MaskTable masks,
             const Unsettled& unsettled) {
      // `settle` of what is left, if anything is, and `survey`, in one walk over the masks.
      { engine.settle_and_survey(tensors, chunks, unsettled, masks, per_tensor) } -> std::same_as<std::int64_t>;

      // outputs[t][i] = score of element i of tensor t, dead or alive.
      engine.write_scores(view, chunks, outputs);

      // Mean and spread material over the live scores, in the fixed order that Moments states.
      { engine.moments(view, chunks) } -> std::same_as<Moments>;

      // counts[j] = live scores below and equal to thresholds[j].
      engine.count(view, chunks, thresholds, counts);

      // Writes +0 to every element of the chosen arrays whose keep bit is 0. Absent arrays are skipped.
      engine.apply_mask(tensors, chunks, bits, std::uint32_t{});

      // per_tensor[t] = elements of the chosen arrays of tensor t whose keep bit is 0 and whose value is not zero.
      engine.verify_mask(tensors, chunks, bits, std::uint32_t{}, per_tensor);
    };

}  // namespace bittersweet
