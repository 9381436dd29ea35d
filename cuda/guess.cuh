// guess: from the sampled keys a bracket around the wanted rank. Order statistics by digits of 11 bits; every kernel
// derives what it needs from the counts of the kernels before it, so nothing waits for a last block.
#pragma once

#include "verbs.cuh"

namespace bittersweet::cuda {

// The passes over the sample. `Pass` says what it counts.
enum class Pass { first_digit, middle_digit, spread, second_digits, third_digits, place };

template <Pass P>
struct Guess {
  static constexpr u32 threads = 256, blocks = P == Pass::place ? 1 : 2;
  using Args = Context;
  struct Shared {
    FindShared find;
    BinsShared one, other;
  };

  // What an earlier guess holds is copied behind the search for a bin: both at once would not fit in registers.
  static BITTERSWEET_DEVICE device::Guess derive(const Context& c, Shared& shared) {
    device::State& state = *c.state;
    const auto find = [&](int bins, u64 order) {
      return find_bin(
          device::bins, [&](u64 b) { return state.sample_bins[bins][b]; }, [&](u64) { return order; }, shared.find);
    };
    if constexpr (P == Pass::first_digit) {
      return {};
    } else if constexpr (P == Pass::middle_digit) {
      device::Guess guess;
      const device::Rank rank = device::rank_of(*c.k, c.total, state.live);
      guess.share = state.live > 0 ? static_cast<double>(rank.rank) / static_cast<double>(state.live) : 0.0;
      u64 order = 0;
      const device::Found found = find_bin(
          device::bins, [&](u64 b) { return state.sample_bins[0][b]; },
          [&](u64 total) { return order = device::middle_order(guess.share, total); }, shared.find);
      guess.drawn = found.total;
      guess.middle = device::refine({0, guess.drawn > 0 ? order : 0, 0, 0}, found, device::digit_bits);
      return guess;
    } else if constexpr (P == Pass::spread) {
      const device::Guess& before = state.guess[0];
      const auto middle = device::refine(before.middle, find(1, before.middle.rest), device::digit_bits);
      device::Guess guess = before;
      guess.middle = middle;
      guess.cut = (guess.middle.prefix << 10) | 1023u;
      if (guess.drawn > 0)
        guess.portion = static_cast<u32>((guess.middle.below + guess.middle.count) * 65536 / guess.drawn);
      return guess;
    } else if constexpr (P == Pass::second_digits) {
      const device::Guess& before = state.guess[1];
      const device::Ends ends = device::ends_of(before, state.spread, state.live, c.capacity);
      const auto low = device::refine({0, ends.low, 0, 0}, find(0, ends.low), device::digit_bits);
      const auto high = device::refine({0, ends.high, 0, 0}, find(0, ends.high), device::digit_bits);
      device::Guess guess = before;
      guess.low = low;
      guess.high = high;
      return guess;
    } else {
      constexpr bool third = P == Pass::third_digits;
      const device::Guess& before = state.guess[third ? 2 : 3];
      const auto low = device::refine(before.low, find(third ? 2 : 4, before.low.rest), third ? 11 : 10);
      const auto high = device::refine(before.high, find(third ? 3 : 5, before.high.rest), third ? 11 : 10);
      device::Guess guess = before;
      guess.low = low;
      guess.high = high;
      return guess;
    }
  }

  static BITTERSWEET_DEVICE void body(const Context& args, Shared& shared) {
    Context c = args;
    if (idle(c)) return;
    const Part part = enter(c);
    if (P == Pass::place && part.block != 0) return;
    device::State& state = *c.state;
    const device::Guess guess = derive(c, shared);
    if (part.block == 0 && threadIdx.x == 0) {
      if constexpr (P == Pass::middle_digit) state.guess[0] = guess;
      if constexpr (P == Pass::spread) state.guess[1] = guess;
      if constexpr (P == Pass::second_digits) state.guess[2] = guess;
      if constexpr (P == Pass::third_digits) state.guess[3] = guess;
      if constexpr (P == Pass::place) {
        const device::Rank rank = device::rank_of(*c.k, c.total, state.live);
        state.rank = rank.rank;
        state.bad_k |= rank.bad_k;
        if (rank.rank > 0) device::place_bracket(state.attempt[0], guess, c.non_negative);
      }
    }
    if constexpr (P == Pass::spread)
      count_spread(c, part, guess);
    else if constexpr (P == Pass::place)
      clear_digits(state);
    else
      count_digits(c, part, guess, shared);
  }

  static BITTERSWEET_DEVICE void count_digits(const Context& c, const Part& part, const device::Guess& guess,
                                              Shared& shared) {
    constexpr bool both = P == Pass::second_digits || P == Pass::third_digits;
    constexpr int into = P == Pass::first_digit ? 0 : P == Pass::middle_digit ? 1 : P == Pass::second_digits ? 2 : 4;
    clear_bins(shared.one);
    if constexpr (both) clear_bins(shared.other);
    const u64 count = u64{c.lines} * device::sample_width;
    for (u64 i = part.first_thread(); i < count; i += part.threads()) {
      const u32 key = c.sample[i];
      if (key == key_of_nan) continue;
      if constexpr (P == Pass::first_digit) {
        atomicAdd(&shared.one.bin[key >> 21], 1u);
      } else if constexpr (P == Pass::middle_digit) {
        if (key >> 21 == guess.middle.prefix) atomicAdd(&shared.one.bin[(key >> 10) & 2047u], 1u);
      } else if constexpr (P == Pass::second_digits) {
        if (key >> 21 == guess.low.prefix) atomicAdd(&shared.one.bin[(key >> 10) & 2047u], 1u);
        if (key >> 21 == guess.high.prefix) atomicAdd(&shared.other.bin[(key >> 10) & 2047u], 1u);
      } else {
        if (key >> 10 == guess.low.prefix) atomicAdd(&shared.one.bin[key & 1023u], 1u);
        if (key >> 10 == guess.high.prefix) atomicAdd(&shared.other.bin[key & 1023u], 1u);
      }
    }
    merge_bins(shared.one, c.state->sample_bins[into]);
    if constexpr (both) merge_bins(shared.other, c.state->sample_bins[into + 1]);
  }

  static BITTERSWEET_DEVICE std::int64_t excess(const Context& c, const device::Guess& guess, u64 line) {
    int under = 0, drawn = 0;
    for (int i = 0; i < device::sample_width; ++i) {
      const u32 key = c.sample[line * device::sample_width + static_cast<u64>(i)];
      under += key <= guess.cut;
      drawn += key != key_of_nan;
    }
    return device::excess_of(under, drawn, guess.portion);
  }

  static BITTERSWEET_DEVICE void count_spread(const Context& c, const Part& part, const device::Guess& guess) {
    u64 sum = 0;
    for (u64 line = part.first_thread() + 1; line < c.lines; line += part.threads()) {
      const std::int64_t difference = excess(c, guess, line) - excess(c, guess, line - 1);
      sum += static_cast<u64>(difference * difference);
    }
    add_warp(&c.state->spread, sum);
  }
};

template <class L>
void guess(L& launcher, const Context& context) {
  const u64 blocks = (u64{context.lines} * device::sample_width + 1023) / 1024;
  const auto pass = [&]<Pass P>() {
    launch_units<Guess<P>>(launcher, context, P == Pass::place ? 1 : blocks, context);
  };
  pass.template operator()<Pass::first_digit>();
  pass.template operator()<Pass::middle_digit>();
  pass.template operator()<Pass::spread>();
  pass.template operator()<Pass::second_digits>();
  pass.template operator()<Pass::third_digits>();
  pass.template operator()<Pass::place>();
}

}  // namespace bittersweet::cuda
