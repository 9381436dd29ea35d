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
    u32 under, upto, nan, live;  // counts of one read
    u32 ties[T::warps];
  };

  const S& scorer;
  const Row& row;
  const Grouping& how;
  Shared& s;
  std::int64_t first;  // in memory and, since rows are runs, by logical index
  u32 size;
  u32* mask;    // from the row's first word on: shared, or the tensor's own
  bool direct;  // the tensor's own
  NanTally nan;

  BITTERSWEET_DEVICE RowCut(const S& scorer_, const Row& row_, const Grouping& how_, Shared& shared)
      : scorer(scorer_), row(row_), how(how_), s(shared), size(static_cast<u32>(row_.geometry.row_size())) {
    direct = size + 62 > Words * 32;
  }

  // ---- places: of the logical index in the row; bits: of the mask, from its first word on ----

  BITTERSWEET_DEVICE u32 place_of(std::int64_t index) const {
    return static_cast<u32>((how.permuted ? row.order.logical_of(index) : index) - first);
  }
  BITTERSWEET_DEVICE std::int64_t index_of(u32 place) const {
    return how.permuted ? row.order.memory_of(first + place) : first + place;
  }
  BITTERSWEET_DEVICE u32 bit_of(std::int64_t index) const { return static_cast<u32>(index - first / 32 * 32); }

  // The bits of a mask word that are this row's; those behind the tensor's last element too.
  BITTERSWEET_DEVICE u32 own_bits(std::int64_t word) const {
    u32 own = ~0u;
    if (word * 32 < first) own &= ~0u << (first - word * 32);
    const std::int64_t end = first + size;
    if (end < row.numel && end - word * 32 < 32) own &= (1u << (end - word * 32)) - 1;
    return own;
  }
  BITTERSWEET_DEVICE void store(u32* to, u32 own, u32 keep) const {
    if (own == ~0u) {
      *to = keep;
    } else {  // neighbours have bits in it
      atomicAnd(to, ~own);
      atomicOr(to, keep);
    }
  }

  // ---- reads ----

  // f(word from the row's first on, is the lane's element there and alive, its key, its index), by whole warps.
  template <class F>
  BITTERSWEET_DEVICE void scan(F&& f) {
    constexpr u32 at_once = 4;
    const std::int64_t first_word = first / 32;
    const u32 words = static_cast<u32>((first + size - 1) / 32 - first_word) + 1;
    for (u32 begin = T::warp(); begin < words; begin += at_once * T::warps) {
      bool there[at_once];
      u32 key[at_once];
#pragma unroll
      for (u32 j = 0; j < at_once; ++j) {
        const u32 word = begin + j * T::warps;
        const std::int64_t index = (first_word + word) * 32 + lane_id();
        there[j] = word < words && index >= first && index < first + size && is_live(row, index);
        key[j] = there[j] ? key_of(score_any(scorer, row, index)) : key_of_nan;
      }
#pragma unroll
      for (u32 j = 0; j < at_once; ++j) {
        const u32 word = begin + j * T::warps;
        if (word < words) f(word, there[j], key[j], (first_word + word) * 32 + lane_id());
      }
    }
  }

  BITTERSWEET_DEVICE void begin_read() {
    T::sync();  // the last use is over
    s.list.clear();
    if (T::rank() == 0) s.under = s.upto = s.nan = 0;
    T::sync();
  }
  BITTERSWEET_DEVICE void end_read(u32 under, u32 upto, u32 nans) {
    under = warp_sum32(under);
    upto = warp_sum32(upto);
    nans = warp_sum32(nans);
    if (lane_id() == 0) {
      atomicAdd(&s.under, under);
      atomicAdd(&s.upto, upto);
      atomicAdd(&s.nan, nans);
    }
    T::sync();
  }

  // Writes keep = live and key > low, lists the keys between low and high, and counts.
  BITTERSWEET_DEVICE void read(u32 low, u32 high, bool tell_nan) {
    begin_read();
    u32 under = 0, upto = 0, nans = 0;
    scan([&](u32 word, bool there, u32 key, std::int64_t index) {
      under += there && key < low;
      upto += there && key <= low;
      if (there && key == key_of_nan) {
        ++nans;
        if (tell_nan) nan.add(row, index);
      }
      const u32 kept = __ballot_sync(everyone, there && key > low);
      if (lane_id() == 0) {
        if (direct)
          store(mask + word, own_bits(first / 32 + word), kept);
        else
          mask[word] = kept;
      }
      s.list.append(there && key > low && key < high, key, [&] { return place_of(index); });
    });
    end_read(under, upto, nans);
  }

  // The same by vectors.
  BITTERSWEET_DEVICE void read_eight(u32 low, u32 high) {
    using In = Eight<S>;
    constexpr u32 step = T::warps * 256, at_once = of_a_warp ? 1 : In::at_once;  // a warp's row is two steps at most
    std::int64_t feature = 0;
    if constexpr (In::norms) feature = row.geometry.feature_of(first);
    begin_read();
    u32 under = 0, upto = 0, nans = 0;
    for (u32 begin = T::warp() * 256; begin < size; begin += step * at_once) {
      In in[at_once];
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
        u32 key[8] = {};
        if (place < size) {
          float score[8];
          in[b].scores(scorer, row, score);
#pragma unroll
          for (int i = 0; i < 8; ++i) key[i] = key_of(score[i]);
        }
        u32 less = 0, over = 0, short_of = 0, most = 0;
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          less |= (key[i] < low ? 1u : 0u) << i;
          over |= (key[i] > low ? 1u : 0u) << i;
          short_of |= (key[i] < high ? 1u : 0u) << i;
          most = key[i] > most ? key[i] : most;
        }
        if (most == key_of_nan) {
#pragma unroll
          for (int i = 0; i < 8; ++i)
            if (key[i] == key_of_nan && (live >> i & 1u) != 0) {
              ++nans;
              nan.add(row, first + place + i);
            }
        }
        under += static_cast<u32>(__popc(less & live));
        upto += static_cast<u32>(__popc(~over & live));
        if (place < size) reinterpret_cast<unsigned char*>(mask)[place / 8] = static_cast<unsigned char>(over & live);
        s.list.append(over & short_of & live, key, [&](int i) { return place_of(first + place + i); });
      }
    }
    end_read(under, upto, nans);
  }

  // ---- the cut ----

  BITTERSWEET_DEVICE u32 count_live() {
    if (row.live == nullptr) return size;
    T::sync();
    if (T::rank() == 0) s.live = 0;
    T::sync();
    const std::int64_t last = (first + size - 1) / 32;
    u32 live = 0;
    for (std::int64_t word = first / 32 + T::rank(); word <= last; word += T::threads) {
      u32 own = own_bits(word);
      if (first + size - word * 32 < 32) own &= (1u << (first + size - word * 32)) - 1;
      live += static_cast<u32>(__popc(words32(row.live)[word] & own));
    }
    live = warp_sum32(live);
    if (lane_id() == 0) atomicAdd(&s.live, live);
    T::sync();
    return s.live;
  }

  // The ends of the cut's bracket, from runs of eight neighbours at hashed places of equal stretches.
  BITTERSWEET_DEVICE void guess(u32 number, u32 wanted, u32 live, u32& low, u32& high) {
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
      s.list.append(key != key_of_nan, key, [&] { return i; });
    }
    T::sync();
    low = 0;
    high = key_of_nan;
    const u32 found = s.list.count;
    if (found == 0) return;
    const RowEnds ends = row_ends(static_cast<float>(wanted) / static_cast<float>(live), found,
                                  static_cast<float>(live), static_cast<float>(Capacity));
    s.list.measure();
    if (ends.low >= 1) low = static_cast<u32>(s.list.cut(ends.low) >> 32);
    if (ends.high <= found) high = static_cast<u32>(s.list.cut(ends.high) >> 32) + 1;
    if (high <= low) high = low + 1;
  }

  // Prunes the first `order` of the list.
  BITTERSWEET_DEVICE void clear_listed(u64 order) {
    s.list.measure();
    const u64 cut = s.list.cut(order);
    for (u32 i = T::rank(); i < s.list.count; i += T::threads)
      if (s.list.entry[i] <= cut) {
        const u32 bit = bit_of(index_of(static_cast<u32>(s.list.entry[i])));
        atomicAnd(mask + bit / 32, ~(1u << bit % 32));
      }
  }

  // All that equal the key are pruned: keeps those behind the first `ties`, in logical order.
  BITTERSWEET_DEVICE void restore_ties(u32 key, u64 ties) {
    u64 before = 0;
    for (u32 begin = 0; begin < size; begin += T::threads) {
      const u32 place = begin + T::rank();
      const std::int64_t index = place < size ? index_of(place) : 0;
      const bool tie = place < size && is_live(row, index) && key_of(score_any(scorer, row, index)) == key;
      const u32 all = __ballot_sync(everyone, tie);
      T::sync();  // the last use is over
      if (lane_id() == 0) s.ties[T::warp()] = static_cast<u32>(__popc(all));
      T::sync();
      u32 in_earlier = 0, in_all = 0;
      for (u32 w = 0; w < T::warps; ++w) {
        if (w < T::warp()) in_earlier += s.ties[w];
        in_all += s.ties[w];
      }
      if (tie && before + in_earlier + static_cast<u32>(__popc(all & lanes_below())) >= ties) {
        const u32 bit = bit_of(index);
        atomicOr(mask + bit / 32, 1u << bit % 32);
      }
      before += in_all;
    }
  }

  // A range of keys that holds the order-th of `count` in it, after `before` others, made small enough to be listed.
  BITTERSWEET_DEVICE void narrow(u32 low, u32 high, u64 order, u64 count) {
    while (count > Capacity && low < high) {
      const int width = 32 - std::countl_zero(high - low), shift = width > 8 ? width - 8 : 0;
      s.list.clear_bins();
      scan([&](u32, bool there, u32 key, std::int64_t) {
        if (there && key >= low && key <= high) atomicAdd(&s.list.bin[(key - low) >> shift], 1u);
      });
      T::sync();
      const device::Found found = s.list.find(order);
      low += static_cast<u32>(found.bin) << shift;
      const u32 reach = (1u << shift) - 1;
      high = high - low < reach ? high : low + reach;
      order -= found.below;
      count = found.count;
    }
    if (count <= Capacity) {
      read(low - 1, high + 1, false);
      clear_listed(order);
    } else {
      read(low, low, false);
      restore_ties(low, order);
    }
  }

  BITTERSWEET_DEVICE void run(std::int64_t number, const GroupRule& rule) {
    first = number * size;
    mask = direct ? words32(row.next) + first / 32 : s.mask;
    const u32 live = count_live();
    std::int64_t wanted = rule.base + (number < rule.extra) - (std::int64_t{size} - live);
    wanted = wanted < 0 ? 0 : wanted > live ? live : wanted;
    u32 low = 0, high = wanted > 0 ? key_of_nan : 0;
    if constexpr (!of_a_warp)
      if (wanted > 0 && size > listed_whole) guess(static_cast<u32>(number), static_cast<u32>(wanted), live, low, high);
    if constexpr (reads_eight<S>) {
      if (how.eight)
        read_eight(low, high);
      else
        read(low, high, true);
    } else {
      read(low, high, true);
    }
    const u64 under = s.under, upto = s.upto, listed = s.list.count, numbers = live - s.nan;
    const u64 order = static_cast<u64>(wanted) < numbers ? static_cast<u64>(wanted) : numbers;
    if (order > 0) {
      if constexpr (of_a_warp) {
        clear_listed(order);
      } else {
        if (order > upto && order <= upto + listed && listed <= Capacity)
          clear_listed(order - upto);
        else if (order > under && order <= upto)
          restore_ties(low, order - under);
        else if (order <= under)
          narrow(key_of_minus_infinity, low - 1, order, under);
        else if (order <= upto + listed)
          narrow(low + 1, high - 1, order - upto, listed);
        else
          narrow(high, key_of_infinity, order - upto - listed, numbers - upto - listed);
      }
    }
    T::sync();
    flush();
  }

  BITTERSWEET_DEVICE void flush() {
    const std::int64_t first_word = first / 32, last = (first + size - 1) / 32;
    if (!direct)
      for (std::int64_t word = first_word + T::rank(); word <= last; word += T::threads)
        store(words32(row.next) + word, own_bits(word), mask[word - first_word]);
    if (T::rank() == 0 && first + size == row.numel && last % 2 == 0) words32(row.next)[last + 1] = 0;
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
    NanTally nan;
    for_each_tile(args.work, [&](const Row& row, u32 t, u32 number) {
      Cut cut(args.scorer, row, c.groupings[t], shared.warp[warp_id()]);
      cut.nan = nan;
      cut.run(number, c.rules[t]);
      nan = cut.nan;
    });
    nan.merge(*c.step.state);
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
    NanTally nan;
    u32 piece = 0;
    for (u64 unit = blockIdx.x; unit < args.work.tiles; unit += gridDim.x) {
      while (piece + 1 < args.work.count && unit >= args.work.pieces[piece + 1].first) ++piece;
      const Piece& p = args.work.pieces[piece];
      Cut cut(args.scorer, args.work.rows[p.row], c.groupings[p.row], shared);
      cut.nan = nan;
      cut.run(p.from + (static_cast<u32>(unit) - p.first), c.rules[p.row]);
      nan = cut.nan;
    }
    nan.merge(*c.step.state);
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
