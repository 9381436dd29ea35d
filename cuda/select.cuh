// From counts and candidates to the answer: digit by digit the candidate that ends the pruned ones, then the outcome
// and the report, then the candidates' own mask bits.
#pragma once

#include "histogram.cuh"

namespace bittersweet::cuda {

// The attempt that counts, and what it proves.
BITTERSWEET_DEVICE u32 last_attempt(const Context& c) { return c.state->attempt[1].run ? 1u : 0u; }

BITTERSWEET_DEVICE device::Proof final_proof(const Context& c) {
  const device::State& state = *c.state;
  return device::prove(state.attempt[last_attempt(c)], state.rank, state.live, c.capacity);
}

// Does any pass look at positions?
BITTERSWEET_DEVICE bool splits_ties(const Context& c) { return c.masks && c.ties == Ties::exact; }

// The digits after `level` passes, for a whole block.
BITTERSWEET_DEVICE device::Digits digits_after(const Context& c, int level, FindShared& shared) {
  const device::State& state = *c.state;
  const bool split_ties = splits_ties(c);
  if (level == 0) return device::first_digits(state.attempt[last_attempt(c)], final_proof(c), split_ties);
  const device::Digits digits = state.digits[level - 1];
  device::Found found;
  if (digits.next_shift < digits.shift)
    found = find_bin(
        u64{1} << (digits.shift - digits.next_shift), [&](u64 b) { return state.candidate_bins[level - 1][b]; },
        [&](u64) { return digits.order; }, shared);
  return device::next_digits(digits, found, level, split_ties);
}

template <int Level>
struct CandidateDigit {  // pass `Level`, from 1
  static constexpr u32 threads = 256, blocks = 2;
  using Args = Context;
  using Shared = RangeShared;

  static BITTERSWEET_DEVICE void body(const Context& args, Shared& shared) {
    Context c = args;
    if (idle(c)) return;
    const Part part = enter(c);
    if (void_step(c)) return;
    const device::Digits digits = digits_after(c, Level - 1, shared.find);
    if (part.block == 0 && threadIdx.x == 0) c.state->digits[Level - 1] = digits;
    if (digits.next_shift == digits.shift) return;
    const u64 count = c.state->attempt[last_attempt(c)].inside;
    const u32 mask = (1u << (digits.shift - digits.next_shift)) - 1;
    clear_bins(shared.bins);
    for (u64 i = part.first_thread(); i < count; i += part.threads()) {
      const u64 candidate = c.candidates[i];
      if (digits.shift == 64 || candidate >> digits.shift == digits.prefix)  // at first all 64 bits are open
        atomicAdd(&shared.bins.bin[static_cast<u32>(candidate >> digits.next_shift) & mask], 1u);
    }
    merge_bins(shared.bins, c.state->candidate_bins[Level - 1]);
  }
};

struct Conclude {
  static constexpr u32 threads = 256, blocks = 1;
  using Args = Context;
  using Shared = RangeShared;

  static BITTERSWEET_DEVICE void body(const Context& args, Shared& shared) {
    Context c = args;
    if (idle(c)) return;
    const Part part = enter(c);
    if (part.block != 0) return;
    device::State& state = *c.state;
    const bool failed = void_step(c);
    device::Digits digits;
    if (!failed) digits = digits_after(c, splits_ties(c) ? device::levels : device::key_levels, shared.find);
    if (threadIdx.x != 0) return;
    const u32 number = last_attempt(c);
    const device::Proof first = device::prove(state.attempt[0], state.rank, state.live, c.capacity);
    device::Outcome outcome = device::conclude(state.attempt[number], final_proof(c), digits, c.ties, failed);
    outcome.attempt = number;
    state.outcome = outcome;
    report(c, outcome, first);
  }

  static BITTERSWEET_DEVICE void report(const Context& c, const device::Outcome& outcome, const device::Proof& first) {
    const device::State& state = *c.state;
    const bool missed = first.place == Place::missed_low || first.place == Place::missed_high;
    u32 reads = state.attempt[0].run ? 1 : 0;
    if (state.attempt[1].run) {
      for (u32 level = 0; level < range_levels; ++level)
        reads += device::is_narrow(state.range[level], c.capacity) ? 0 : 1;
      reads += 1;
    }
    StepReport& r = *c.report;
    r.status = (state.attempt[0].nan > 0 ? status::nan : 0) | (first.overflow ? status::overflow : 0) |
               (missed ? status::missed : 0) | (state.bad_k ? status::bad_k : 0) |
               (outcome.failed ? status::failed : 0);
    r.place = static_cast<u32>(outcome.failed ? Place::nothing : first.place);
    r.value = outcome.value;
    r.passes = static_cast<float>(reads);
    r.k = *c.k;
    r.total = c.total;
    r.dead = c.total - static_cast<std::int64_t>(state.live);
    r.below = static_cast<std::int64_t>(outcome.below);
    r.equal = static_cast<std::int64_t>(outcome.equal);
    r.ties = static_cast<std::int64_t>(outcome.ties);
    r.nan = static_cast<std::int64_t>(state.attempt[0].nan);
    r.first_nan = r.nan > 0 ? static_cast<std::int64_t>(device::first_nan_of(state)) : 0;
    r.pruned = r.dead + r.below + r.ties;
    r.standard_error = no_number;
    r.converged = 1;
  }
};

BITTERSWEET_DEVICE u64 position_of(u64 candidate) { return candidate & ((u64{1} << device::position_bits) - 1); }

// The row that holds a candidate's position.
BITTERSWEET_DEVICE const Row& row_at(const Context& c, u64 position) {
  const u64 tile = position / tile_size;
  return c.rows[row_of(c.row_count, [&](u32 r) { return c.rows[r].tile <= tile; })];
}

// Clears the bits of the candidates that are pruned.
struct SettleCandidates {
  static constexpr u32 threads = 256, blocks = 4;
  using Args = Context;
  struct Shared {};

  static BITTERSWEET_DEVICE void body(const Context& args, Shared&) {
    Context c = args;
    if (idle(c)) return;
    const Part part = enter(c);
    const device::Outcome& outcome = c.state->outcome;
    if (!outcome.clear_candidates) return;
    const u64 count = c.state->attempt[outcome.attempt].inside, cut = outcome.cut;
    for (u64 i = part.first_thread(); i < count; i += part.threads()) {
      const u64 candidate = c.candidates[i];
      if (candidate > cut) continue;
      const u64 position = position_of(candidate);
      const Row& row = row_at(c, position);
      const auto logical = static_cast<std::int64_t>(position - u64{row.tile} * tile_size);
      const std::int64_t index = row.order.memory_of(logical);
      atomicAnd(words32(row.next) + index / 32, ~(1u << (index % 32)));
    }
  }
};

template <class L>
void select_candidates(L& launcher, const Context& context) {
  const auto digit = [&]<int Level>() {
    using K = CandidateDigit<Level>;
    launch_units<K>(launcher, context, (context.capacity + 1023) / 1024, context);
  };
  digit.template operator()<1>();
  digit.template operator()<2>();
  digit.template operator()<3>();
  if (context.masks && context.ties == Ties::exact) {
    digit.template operator()<4>();
    digit.template operator()<5>();
    digit.template operator()<6>();
  }
  launch_units<Conclude>(launcher, context, 1, context);
  if (context.masks) launch_units<SettleCandidates>(launcher, context, (context.capacity + 1023) / 1024, context);
}

}  // namespace bittersweet::cuda
