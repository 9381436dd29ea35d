// How many live scores of a tile lie below thresholds, and at them; up to seven in one pass over the scores.
#pragma once

#include "bittersweet/engine/summaries.hpp"
#include "cpu/verbs/scored.hpp"
#include "cpu/verbs/signed_key.hpp"

namespace bittersweet {
namespace {

// f(scores) for every vector of a tile, NaN where an element is dead; then word_done().
template <class S, class T, class F, class D>
BITTERSWEET_INLINE void for_each_live(const Scorer& scorer, const cpu::TileInput& in, const std::uint64_t* live,
                                      std::int64_t count, F&& f, D&& word_done) {
  const Vec nan = splat(std::numeric_limits<float>::quiet_NaN());
  for_each_scored_word<S, T>(scorer, in, live, count, [&](std::uint64_t live_bits, const WordOfScores& scores) {
    for (int v = 0; v < vectors_per_word; ++v) {
      Vec s = scores[v];
      if (live_bits != ~std::uint64_t{0}) {
        const LaneMask on = lanes_on(live_bits, v);
        s = as_floats(as_bits(kept(s, on)) | as_bits(dropped(nan, on)));
      }
      f(s);
    }
    word_done();
  });
}

#if BITTERSWEET_LANES >= 8
// By look-up: each score finds the first cut that is not below it in three steps, and adds one to that cut's field of
// its lane. A field has 4 bits for the scores of a word, and 8 until they are summed.
constexpr int most_words = 255 / vectors_per_word;

BITTERSWEET_INLINE Vec at(Vec table, IntVector place) { return {__builtin_shuffle(table.x, place)}; }
BITTERSWEET_INLINE IntVector after(Vec cut, Vec s, IntVector place, int step) {  // NaN is after all
  return s.x <= cut.x ? place : place + step;
}

struct FieldCounts {
  IntVector even, odd;  // cuts

  BITTERSWEET_INLINE void add(IntVector of_word) {
    even += of_word & 0x0f0f0f0f;
    odd += (of_word >> 4) & 0x0f0f0f0f;
  }
  void sum_to(std::int64_t* totals) const {
    for (int cut = 0; cut < 8; ++cut) totals[cut] += sum(((cut % 2 == 0 ? even : odd) >> (cut / 2 * 8)) & 0xff);
  }
};

// What the lanes have counted.
struct LaneCounts {
  FieldCounts up_to{}, equal{};
  int words = 0;

  explicit LaneCounts(const cpu::CutCounts& cuts) : words(cuts.words) {
    static_assert(2 * sizeof(FieldCounts) <= sizeof cuts.lanes);
    std::memcpy(&up_to, cuts.lanes.data(), sizeof up_to);
    std::memcpy(&equal, cuts.lanes.data() + sizeof up_to / 4, sizeof equal);
  }
  void put(cpu::CutCounts& cuts) const {
    cuts.words = words;
    std::memcpy(cuts.lanes.data(), &up_to, sizeof up_to);
    std::memcpy(cuts.lanes.data() + sizeof up_to / 4, &equal, sizeof equal);
  }
  void sum_to(cpu::CutCounts& cuts) {
    up_to.sum_to(cuts.up_to.data());
    equal.sum_to(cuts.equal.data());
    up_to = equal = FieldCounts{};
    words = 0;
  }
};

template <class S, std::size_t St>
void count_cuts(const Scorer& scorer, const cpu::TileInput& in, const std::uint64_t* live, std::int64_t count,
                cpu::CutCounts& cuts) {
  const Vec table = load(cuts.cut.data(), 0), next = load(cuts.cut.data() + 1, 0), middle = splat(cuts.cut[3]);
  LaneCounts counts(cuts);
  IntVector place_of_word{}, equal_of_word{};
  for_each_live<S, StoredType<St>>(
      scorer, in, live, count,
      [&](Vec s) {
        IntVector place = after(middle, s, IntVector{}, 4);
        place = after(at(next, place), s, place, 2);
        place = after(at(table, place), s, place, 1);
        const IntVector one = (IntVector{} + 1) << (place * 4);
        place_of_word += one;
        equal_of_word += s.x == at(table, place).x ? one : IntVector{};
      },
      [&] {
        counts.up_to.add(place_of_word);
        counts.equal.add(equal_of_word);
        place_of_word = equal_of_word = IntVector{};
        if (++counts.words == most_words) counts.sum_to(cuts);
      });
  counts.put(cuts);
}

inline void sum_lanes(cpu::CutCounts& cuts) {
  LaneCounts counts(cuts);
  counts.sum_to(cuts);
  counts.put(cuts);
}
#else
template <class S, std::size_t St>
void count_cuts(const Scorer& scorer, const cpu::TileInput& in, const std::uint64_t* live, std::int64_t count,
                cpu::CutCounts& cuts) {
  constexpr int most = cpu::CutCounts::most;
  Vec t[most];
  IntVector not_above[most]{}, same[most]{};  // minus the counts
  for (int i = 0; i < most; ++i) t[i] = splat(cuts.cut[static_cast<std::size_t>(i)]);
  for_each_live<S, StoredType<St>>(
      scorer, in, live, count,
      [&](Vec s) {
        for (int i = 0; i < most; ++i) not_above[i] += s.x <= t[i].x, same[i] += s.x == t[i].x;
      },
      [] {});
  std::int64_t before = 0;
  for (std::size_t i = 0; i < most; ++i) {
    const std::int64_t up_to = -sum(not_above[i]);
    cuts.up_to[i] += up_to - before;
    cuts.equal[i] += -sum(same[i]);
    before = up_to;
  }
}

inline void sum_lanes(cpu::CutCounts&) {}
#endif

}  // namespace
}  // namespace bittersweet
