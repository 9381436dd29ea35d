// Scope row, where a row is one run of memory. A team takes a row: of a warp, which lists all of it; of a block, which
// guesses from a sample, counts in one read against the guessed ends, lists what lies between, and proves. Mask bits of
// all others are written by that read. What a guess misses is narrowed by digits, one read for each.
#pragma once

#include "eight.cuh"
#include "group_table.cuh"
#include "row_list.cuh"

namespace bittersweet::cuda {

inline constexpr std::int64_t row_of_a_warp = 512;  // elements, at most
inline constexpr u32 listed_whole = 1024;           // rows of a block up to here are not sampled

template <class S, class T, u32 Capacity, u32 Words>
struct RowCut {
  static constexpr bool of_a_warp = T::threads == 32;

  struct Shared {
    RowList<T, Capacity> list;
    u32 mask[Words];
    u32 live, wanted;                 // how many live elements there are, how many of them are to be pruned
    u32 under, upto, nan, first_nan;  // counts of one read, and a place
    u32 ties[T::warps];
  };

  const S& scorer;
  const Row& row;
  const Grouping& how;
  Shared& s;
  std::int64_t first;  // in memory and, since rows are runs, by logical index
  u32 size;

  BITTERSWEET_DEVICE RowCut(const S& scorer_, const Row& row_, const Grouping& how_, Shared& shared, u32 number)
      : scorer(scorer_), row(row_), how(how_), s(shared), size(static_cast<u32>(row_.geometry.row_size())) {
    first = std::int64_t{number} * size;
  }

  // ---- places in the row: in memory, and by logical index; bits of the mask, from its first word on ----

  BITTERSWEET_DEVICE u32 logical_of(u32 place) const {
    return how.permuted ? static_cast<u32>(row.order.logical_of(first + place) - first) : place;
  }
  BITTERSWEET_DEVICE u32 memory_of(u32 logical) const {
    return how.permuted ? static_cast<u32>(row.order.memory_of(first + logical) - first) : logical;
  }
  BITTERSWEET_DEVICE u32 before() const { return static_cast<u32>(first) % 32; }  // bits of other rows
  BITTERSWEET_DEVICE u32 words() const { return (before() + size + 31) / 32; }

  // From the row's first word on: shared, or the tensor's own. Not kept, for want of registers.
  BITTERSWEET_DEVICE u32* mask() const { return direct() ? words32(row.next) + first / 32 : s.mask; }
  BITTERSWEET_DEVICE bool direct() const { return !of_a_warp && size + 62 > Words * 32; }

  // The bits of a mask word that are this row's, or also those behind the tensor's last element.
  BITTERSWEET_DEVICE u32 own_bits(u32 word, bool behind) const {
    const u32 own = word == 0 ? ~0u << before() : ~0u, left = before() + size - word * 32;
    return left < 32 && !behind ? own & ((1u << left) - 1) : own;
  }
  BITTERSWEET_DEVICE bool ends_tensor() const { return first + size == row.numel; }
  BITTERSWEET_DEVICE void store(u32 word, u32 keep) const {
    u32* const to = words32(row.next) + first / 32 + word;
    const u32 own = own_bits(word, ends_tensor());
    if (own == ~0u) {
      *to = keep;
    } else {  // neighbours have bits in it
      atomicAnd(to, ~own);
      atomicOr(to, keep);
    }
  }

  // ---- reads ----

  // f(word from the row's first on, the lane's place, is its element there and alive, its key), by whole warps.
  template <class F>
  BITTERSWEET_DEVICE void scan(F&& f) {
    constexpr u32 at_once = reads_eight<S> && !Slots<S>::has(reads::input_norm) && Slots<S>::count < 3 ? 2 : 1;
    for (u32 begin = T::warp(); begin < words(); begin += at_once * T::warps) {
      bool there[at_once];
      u32 key[at_once];
#pragma unroll
      for (u32 j = 0; j < at_once; ++j) {
        const u32 place = (begin + j * T::warps) * 32 + lane_id() - before();
        there[j] = place < size && is_live(row, first + place);
        key[j] = there[j] ? key_of(score_any(scorer, row, first + place)) : key_of_nan;
      }
#pragma unroll
      for (u32 j = 0; j < at_once; ++j) {
        const u32 word = begin + j * T::warps;
        if (word < words()) f(word, word * 32 + lane_id() - before(), there[j], key[j]);
      }
    }
  }

  BITTERSWEET_DEVICE void begin_read() {
    T::sync();  // the last use is over
    s.list.clear();
    if (T::rank() == 0) s.under = s.upto = s.nan = 0;
    T::sync();
  }
  BITTERSWEET_DEVICE void end_read(u32 under, u32 upto) {
    under = warp_sum32(under);
    upto = warp_sum32(upto);
    if (lane_id() == 0) {
      atomicAdd(&s.under, under);
      atomicAdd(&s.upto, upto);
    }
    T::sync();
    if (!how.permuted) return;
    if (s.list.count <= Capacity)
      for (u32 i = T::rank(); i < s.list.count; i += T::threads) {
        const u64 entry = s.list.entry[i];
        s.list.entry[i] = entry >> 32 << 32 | logical_of(static_cast<u32>(entry));
      }
    T::sync();
  }

  // Writes keep = live and key > low, lists the keys between low and high, and counts.
  BITTERSWEET_DEVICE void read(u32 low, u32 high) {
    if constexpr (reads_eight<S>)
      if (how.eight) return read_eight(low, high);
    begin_read();
    u32 under = 0, upto = 0;
    scan([&](u32 word, u32 place, bool there, u32 key) {
      under += there && key < low;
      upto += there && key <= low;
      if (there && key == key_of_nan) atomicAdd(&s.nan, 1u);
      const u32 kept = __ballot_sync(everyone, there && key > low);
      if (lane_id() == 0) {
        if (direct())
          store(word, kept);
        else
          s.mask[word] = kept;
      }
      s.list.append(there && key > low && key < high, key, place);
    });
    end_read(under, upto);
  }

  // The same by vectors.
  BITTERSWEET_DEVICE void read_eight(u32 low, u32 high) {
    using In = Eight<S>;
    constexpr u32 step = T::warps * 256,
                  at_once = of_a_warp || In::arrays > 1 ? 1 : 2;  // a warp's row is two steps at most
    std::int64_t feature = 0;
    if constexpr (In::norms) feature = row.geometry.feature_of(first);
    begin_read();
    u32 under = 0, upto = 0;
    for (u32 begin = T::warp() * 256; begin < size; begin += step * at_once) {
      In in[at_once]{};
#pragma unroll
      for (u32 b = 0; b < at_once; ++b) {
        const u32 place = begin + b * step + lane_id() * 8;
        if (place < size) in[b].load(row, first + place, feature + place);
      }
#pragma unroll
      for (u32 b = 0; b < at_once; ++b) {
        if (begin + b * step >= size) break;
        const u32 place = begin + b * step + lane_id() * 8;
        const u32 live = place < size ? live_eight(row, first + place) : 0;
        float score[8];
        u32 key[8];
        in[b].scores(scorer, row, score);
#pragma unroll
        for (int i = 0; i < 8; ++i) key[i] = key_of(score[i]);
        u32 less = 0, over = 0, short_of = 0, nans = 0;
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          less |= (key[i] < low ? 1u : 0u) << i;
          over |= (key[i] > low ? 1u : 0u) << i;
          short_of |= (key[i] < high ? 1u : 0u) << i;
          nans |= (key[i] == key_of_nan ? 1u : 0u) << i;
        }
        if ((nans & live) != 0) atomicAdd(&s.nan, static_cast<u32>(__popc(nans & live)));
        under += static_cast<u32>(__popc(less & live));
        upto += static_cast<u32>(__popc(~over & live));
        if (place < size) reinterpret_cast<unsigned char*>(mask())[place / 8] = static_cast<unsigned char>(over & live);
        s.list.append(over & short_of & live, key, place);
      }
    }
    end_read(under, upto);
  }

  // ---- the cut ----

  BITTERSWEET_DEVICE void count_live() {
    if (T::rank() == 0) s.live = row.live == nullptr ? size : 0;
    T::sync();
    if (row.live == nullptr) return;
    u32 live = 0;
    for (u32 word = T::rank(); word < words(); word += T::threads)
      live += static_cast<u32>(__popc(words32(row.live)[first / 32 + word] & own_bits(word, false)));
    live = warp_sum32(live);
    if (lane_id() == 0) atomicAdd(&s.live, live);
    T::sync();
  }

  // The ends of the cut's bracket, from runs of eight neighbours at hashed places of equal stretches.
  BITTERSWEET_DEVICE void guess(u32 number, u32& low, u32& high) {
    u32 drawn = size / 16 / 8 * 8;
    drawn = drawn < 512 ? 512 : drawn > Capacity ? Capacity : drawn;
    const u32 runs = drawn / 8;
    begin_read();
    for (u32 i = T::rank(); i < (drawn + 31) / 32 * 32; i += T::threads) {
      const u32 run = i / 8;
      const auto begin = static_cast<u32>(u64{size} * run / runs), end = static_cast<u32>(u64{size} * (run + 1) / runs);
      const u32 hash = (run * 0x9e3779b1u ^ number * 0x85ebca6bu) >> 7;
      const std::int64_t index = first + begin + hash % (end - begin - 7) + i % 8;
      const bool there = i < drawn && is_live(row, index);
      const u32 key = there ? key_of(score_any(scorer, row, index)) : key_of_nan;
      s.list.append(key != key_of_nan, key, i);
    }
    T::sync();
    const u32 found = s.list.count;
    if (found == 0) return;
    const RowEnds ends = row_ends(static_cast<float>(s.wanted) / static_cast<float>(s.live), found,
                                  static_cast<float>(s.live), static_cast<float>(Capacity));
    s.list.measure();
#pragma unroll 1
    for (u32 end = 0; end < 2; ++end) {
      const u32 order = end == 0 ? ends.low : ends.high;
      if (order < 1 || order > found) continue;
      const u32 key = static_cast<u32>(s.list.cut(order) >> 32);
      (end == 0 ? low : high) = key + end;
    }
    if (high <= low) high = low + 1;
  }

  // Prunes the first `order` of the list.
  BITTERSWEET_DEVICE void clear_listed(u32 order) {
    s.list.measure();
    const u64 cut = s.list.cut(order);
    for (u32 i = T::rank(); i < s.list.count; i += T::threads)
      if (s.list.entry[i] <= cut) {
        const u32 bit = before() + memory_of(static_cast<u32>(s.list.entry[i]));
        atomicAnd(mask() + bit / 32, ~(1u << bit % 32));
      }
  }

  // All that equal the key are pruned: keeps those behind the first `ties`, in logical order.
  BITTERSWEET_DEVICE void restore_ties(u32 key, u32 ties) {
    u32 earlier = 0;
    for (u32 begin = 0; begin < size; begin += T::threads) {
      const u32 logical = begin + T::rank(), place = logical < size ? memory_of(logical) : 0;
      const bool tie =
          logical < size && is_live(row, first + place) && key_of(score_any(scorer, row, first + place)) == key;
      const u32 all = __ballot_sync(everyone, tie);
      T::sync();  // the last use is over
      if (lane_id() == 0) s.ties[T::warp()] = static_cast<u32>(__popc(all));
      T::sync();
      u32 mine = earlier + static_cast<u32>(__popc(all & lanes_below()));
      for (u32 w = 0; w < T::warps; ++w) {
        if (w < T::warp()) mine += s.ties[w];
        earlier += s.ties[w];
      }
      if (tie && mine >= ties) {
        const u32 bit = before() + place;
        atomicOr(mask() + bit / 32, 1u << bit % 32);
      }
    }
  }

  // Makes low .. high, which hold the order-th of their `count`, few enough to be listed, or one key. Then they are
  // ends of a read.
  BITTERSWEET_DEVICE void narrow(u32& low, u32& high, u32 order, u32 count) {
    while (count > Capacity && low < high) {
      const int width = 32 - std::countl_zero(high - low), shift = width > 8 ? width - 8 : 0;
      s.list.clear_bins();
      scan([&](u32, u32, bool there, u32 key) {
        if (there && key >= low && key <= high) atomicAdd(&s.list.bin[(key - low) >> shift], 1u);
      });
      T::sync();
      const FoundBin found = s.list.find(order);
      low += found.bin << shift;
      const u32 reach = (1u << shift) - 1;
      high = high - low < reach ? high : low + reach;
      order -= found.below;
      count = found.count;
    }
    if (count <= Capacity)
      --low, ++high;
    else
      high = low;
  }

  // Of the row's NaN, which are few as a rule, the first in logical order is looked for anew.
  BITTERSWEET_DEVICE void report_nan(device::State& state) {
    if (T::rank() == 0) s.first_nan = ~0u;
    T::sync();
    for (u32 logical = T::rank(); logical < size; logical += T::threads) {
      const std::int64_t index = first + memory_of(logical);
      if (!is_live(row, index) || key_of(score_any(scorer, row, index)) != key_of_nan) continue;
      atomicMin(&s.first_nan, logical);
      break;
    }
    T::sync();
    if (T::rank() != 0) return;
    const std::int64_t index = row.offset + row.order.logical_of(first + memory_of(s.first_nan));
    add(&state.attempt[0].nan, s.nan);
    atomicMin(reinterpret_cast<u64*>(&state.attempt[0].first_nan), static_cast<u64>(index));
  }

  BITTERSWEET_DEVICE void run(u32 number, const GroupRule& rule, device::State& state) {
    count_live();
    const std::int64_t share = rule.base + (number < rule.extra) - (std::int64_t{size} - s.live);
    const auto wanted = static_cast<u32>(share < 0 ? 0 : share > s.live ? s.live : share);
    if (T::rank() == 0) s.wanted = wanted;  // looked at behind a barrier
    u32 low = 0, high = wanted > 0 ? key_of_nan : 0;
    if constexpr (!of_a_warp)
      if (wanted > 0 && size > listed_whole) guess(number, low, high);
    for (bool first_read = true;; first_read = false) {
      read(low, high);
      if (first_read && s.nan > 0) report_nan(state);
      const u32 numbers = s.live - s.nan, order = s.wanted < numbers ? s.wanted : numbers;
      if (order == 0) break;
      const u32 under = s.under, upto = s.upto, listed = s.list.count;
      if (of_a_warp || (order > upto && order <= upto + listed && listed <= Capacity)) {
        clear_listed(order - upto);
        break;
      }
      if constexpr (!of_a_warp) {
        if (order > under && order <= upto) {
          restore_ties(low, order - under);
          break;
        }
        u32 lower = 0, count = under;
        if (order <= under)
          high = low - 1, low = key_of_minus_infinity;
        else if (order <= upto + listed)
          ++low, --high, lower = upto, count = listed;
        else
          low = high, high = key_of_infinity, lower = upto + listed, count = numbers - lower;
        narrow(low, high, order - lower, count);
      }
    }
    T::sync();
    flush();
  }

  BITTERSWEET_DEVICE void flush() {
    if (!direct())
      for (u32 word = T::rank(); word < words(); word += T::threads) store(word, s.mask[word]);
    const std::int64_t last = (first + size - 1) / 32;
    if (T::rank() == 0 && ends_tensor() && last % 2 == 0) words32(row.next)[last + 1] = 0;
  }
};

template <class S>
struct CutRowsByWarps {
  static constexpr u32 threads = 128, blocks = 6;
  using Args = GroupArgs<S>;
  using Cut = RowCut<S, Team<32>, static_cast<u32>(row_of_a_warp), static_cast<u32>(row_of_a_warp) / 32 + 2>;
  struct Shared {
    typename Cut::Shared warp[threads / 32];
  };
  static BITTERSWEET_DEVICE void body(const Args& args, Shared& shared) {
    const GroupContext& c = args.context;
    for_each_tile(args.work, [&](const Row& row, u32 t, u32 number) {
      Cut(args.scorer, row, c.groupings[t], shared.warp[warp_id()], number).run(number, c.rules[t], *c.step.state);
    });
  }
};

template <class S>
struct CutRowsByBlocks {
  static constexpr u32 threads = 256, blocks = 3;
  using Args = GroupArgs<S>;
  using Cut = RowCut<S, Team<threads>, 3072, 1024 + 2>;
  using Shared = typename Cut::Shared;
  static BITTERSWEET_DEVICE void body(const Args& args, Shared& shared) {
    const GroupContext& c = args.context;
    u32 piece = 0;
    for (u32 unit = blockIdx.x; unit < args.work.tiles; unit += gridDim.x) {
      while (piece + 1 < args.work.count && unit >= args.work.pieces[piece + 1].first) ++piece;
      const Piece& p = args.work.pieces[piece];
      const u32 number = p.from + (unit - p.first);
      Cut(args.scorer, args.work.rows[p.row], c.groupings[p.row], shared, number)
          .run(number, c.rules[p.row], *c.step.state);
    }
  }
};

template <class L>
void cut_rows(L& launcher, const Scorer& scorer, const GroupContext& context, const Work& by_warps,
              const Work& by_blocks) {
  std::visit(
      [&](const auto& s) {
        using S = std::decay_t<decltype(s)>;
        using Warps = CutRowsByWarps<S>;
        using Blocks = CutRowsByBlocks<S>;
        if (by_warps.tiles > 0)
          launcher.template launch<Warps>(grid_for<Warps>((by_warps.tiles + 3) / 4, launcher.processors()),
                                          {context, by_warps, s});
        if (by_blocks.tiles > 0)
          launcher.template launch<Blocks>(grid_for<Blocks>(by_blocks.tiles, launcher.processors()),
                                           {context, by_blocks, s});
      },
      scorer);
}

}  // namespace bittersweet::cuda
