// What the selectors beside exact keep in device memory, and how they end alike: PlaceAnswer makes the answer a bracket
// that is one value, the bracket pass writes the masks and counts, ConcludeAnswer reports. The text of their steps is
// that of the CPU (select/).
#pragma once

#include "bittersweet/engine/device_search.hpp"
#include "histogram.cuh"

namespace bittersweet::cuda {

using device::nan_bin;
using device::radix_levels;
using device::Search;

struct BlockSums {  // of a block of Moments
  double sum, squares;
};

// Of sampling.
struct SampleSizes {
  std::int64_t total = 0;    // elements of the tensors that compete
  std::int64_t samples = 0;  // keys in Context::sample; 0: all scores are looked at
  std::int64_t lines = 0, all_lines = 0;
};

// A selection over the tensors that are left (capped.cuh), in device memory.
struct Round {
  std::int64_t k;       // as Context::k, which a selection over all tensors is told
  std::int64_t budget;  // of the tensors that are left, dead elements included
  SampleSizes sizes;
  StepReport report;  // of the selection
  u32 open;           // 0: nothing is left to be done in this round and those that follow
  u32 pad;
};

struct SearchContext {
  Context step;
  Search* search;
  BlockSums* block_sums;  // streaming: one a block
  u32* first_line;        // sampling by line: of every row
  SampleSizes sizes;
  const SampleSizes* sizes_now;  // those of a round, or null
  double tolerance;
  float passes;  // of the search itself, but for streaming's and sampling's
  bool by_line;
  bool verified;  // sampling: the counts are asked for
  bool counted;   // the ending reads the inputs: for masks, or to verify
};

BITTERSWEET_DEVICE SampleSizes sizes_of(const SearchContext& s) { return s.sizes_now ? *s.sizes_now : s.sizes; }

enum class Answers { by_digits, by_sample, by_search };  // histogram and kthvalue; sampling; streaming

// Live elements to prune, NaN among them not set aside; 0 also for a budget out of range.
BITTERSWEET_DEVICE std::int64_t wanted_rank(const Context& c) {
  return device::rank_of(*c.k, c.total, c.state->live).rank;
}

BITTERSWEET_DEVICE double wanted_share(const Context& c) {
  return static_cast<double>(wanted_rank(c)) / static_cast<double>(c.state->live);
}

BITTERSWEET_DEVICE void note_nan(Search& search, bool nan, std::int64_t position) {
  if (!nan) return;
  add(&search.nan, 1);
  atomicMax(reinterpret_cast<u64*>(&search.nan_place), u64{device::none} - static_cast<u64>(position));
}

BITTERSWEET_DEVICE u64 first_nan_of(const Search& search) { return device::none - search.nan_place; }

struct Answer {
  std::int64_t rank = 0;  // 0: nothing to prune
  float value = minus_infinity;
  std::int64_t below = -1, equal = -1;  // -1: not counted
  float passes = 0;
  u64 nan = 0;
};

// Makes the answer attempt 0: a bracket that is one value. Where nothing is read for the sake of masks or counts, its
// counts are those of the search.
BITTERSWEET_DEVICE void place_answer(const SearchContext& s, const Answer& answer) {
  device::State& state = *s.step.state;
  const Search& search = *s.search;
  device::Attempt& attempt = state.attempt[0];
  const device::Rank rank = device::rank_of(*s.step.k, s.step.total, state.live);
  state.bad_k |= rank.bad_k;  // what tensor_sparsity does not allow is known before
  state.rank = answer.rank;
  const bool zero_end = answer.value == 0.0f && s.step.non_negative;
  const float at = zero_end ? smallest_positive : answer.value;
  device::set_ends(attempt, at, at, zero_end);
  attempt.run = answer.rank > 0;
  if (attempt.run && s.counted) return;
  attempt.nan = answer.nan;
  attempt.first_nan = answer.nan > 0 ? first_nan_of(search) : device::none;
  if (answer.below < 0) return;
  attempt.below = static_cast<u64>(zero_end ? answer.equal : answer.below);
  attempt.equal_low = static_cast<u64>(zero_end ? 0 : answer.equal);
}

// The outcome, and the report: of an approximate answer the counts decide what is pruned, not the rank.
BITTERSWEET_DEVICE void conclude_answer(const SearchContext& s, const Answer& answer, double standard_error) {
  const Context& c = s.step;
  device::State& state = *c.state;
  const device::Attempt& attempt = state.attempt[0];
  const bool failed = void_step(c);
  device::Proof proof;
  if (attempt.run) {
    proof.place = attempt.zero_end ? Place::zeros_below : Place::at_low;
    proof.rank = answer.rank;
  }
  device::Outcome outcome = device::conclude(attempt, proof, {}, c.ties, failed);
  state.outcome = outcome;
  StepReport& r = *c.report;
  r.status = (attempt.nan > 0 ? status::nan : 0) | (state.bad_k ? status::bad_k : 0) | (failed ? status::failed : 0);
  r.place = static_cast<u32>(Place::nothing);
  r.value = outcome.value;
  r.passes = attempt.run ? answer.passes + (s.counted ? 1.0f : 0.0f) : answer.passes;
  r.k = *c.k;
  r.total = c.total;
  r.dead = c.total - static_cast<std::int64_t>(state.live);
  r.pruned = r.dead + static_cast<std::int64_t>(outcome.below + outcome.ties);
  if (failed || !attempt.run || s.verified || answer.below >= 0) {
    r.below = static_cast<std::int64_t>(outcome.below);
    r.equal = static_cast<std::int64_t>(outcome.equal);
    r.ties = static_cast<std::int64_t>(outcome.ties);
  } else {  // as on the CPU
    r.below = r.equal = r.ties = -1;
    if (!s.counted) r.pruned = -1;
  }
  r.nan = static_cast<std::int64_t>(attempt.nan);
  r.first_nan = r.nan > 0 ? static_cast<std::int64_t>(device::first_nan_of(state)) : 0;
  r.standard_error = attempt.run && !failed ? standard_error : no_number;
  r.converged = 1;
}

}  // namespace bittersweet::cuda
