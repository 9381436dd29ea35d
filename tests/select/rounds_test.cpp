// What ranks put into vectors and read out of sums, without an engine: limbs, agreement, brackets from bins, and whole
// selections of more elements than any machine here could hold.
#include "bittersweet/select/rounds.hpp"

#include "bittersweet/shard_map.hpp"
#include "support/compare.hpp"
#include "support/inputs.hpp"
#include "support/ranks.hpp"

namespace bittersweet::test {
namespace {

using Step = SharedSelection::Step;

// ---- limbs ----

TEST(Limbs, SumsOfManyRanksAreRight) {
  for (const std::uint64_t value : {std::uint64_t{0}, std::uint64_t{0xffff}, std::uint64_t{0x10000},
                                    std::uint64_t{1} << 47, (std::uint64_t{1} << 48) - 1}) {
    std::vector<std::int32_t> sum(limbs);
    for (std::int64_t rank = 0; rank < most_ranks; ++rank) {
      std::vector<std::int32_t> own(limbs);
      LimbWriter(own).put(value);
      for (std::size_t i = 0; i < limbs; ++i) {
        ASSERT_LE(own[i], INT32_MAX - sum[i]) << "the sum of " << rank + 1 << " ranks wraps";
        sum[i] += own[i];
      }
    }
    EXPECT_EQ(LimbReader(sum).take(), value * static_cast<std::uint64_t>(most_ranks));
  }
}

TEST(Limbs, OneNumberComesBack) {
  for (const std::int64_t value :
       {std::int64_t{0}, std::int64_t{1}, std::int64_t{1} << 62, std::int64_t{-1}, INT64_MAX, INT64_MIN}) {
    std::vector<std::int32_t> vector(limbs);
    LimbWriter(vector).put(value);
    EXPECT_EQ(LimbReader(vector).count(), value);
  }
}

TEST(Limbs, WideCountsPassTwoToThe31) {
  const std::vector<std::int64_t> counts{0, 1, 65535, 65536, std::int64_t{3} << 31, std::int64_t{1} << 45};
  std::vector<std::int32_t> sum(count_length(counts.size(), true)), own(sum.size());
  for (int rank = 0; rank < 3; ++rank) {
    put_counts(counts, true, own);
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += own[i];
  }
  for (std::size_t b = 0; b < counts.size(); ++b) EXPECT_EQ(count_at(sum, true, b), 3 * counts[b]);
}

// ---- agreement ----

bool agree(const std::vector<std::string>& texts) {
  std::vector<std::int32_t> sum(agreement_limbs);
  for (const std::string& text : texts) {
    std::vector<std::int32_t> own(agreement_limbs);
    LimbWriter writer(own);
    put_agreement(text, writer);
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += own[i];
  }
  LimbReader reader(sum);
  return take_agreement(reader, texts.size());
}

TEST(Agreement, EqualTextsAgreeAndOthersDoNot) {
  EXPECT_TRUE(agree({"step: 20"}));
  EXPECT_TRUE(agree({"", ""}));
  EXPECT_TRUE(agree(std::vector<std::string>(1000, "step: 20\nsparsity: 0x1p-1\n")));
  for (const std::size_t ranks : {2u, 3u, 64u, 1000u})
    for (const char* const other : {"step: 21", "step: 2", "step: 200", "", "step: 20 ", "tsep: 20"})
      for (const std::size_t who : {std::size_t{0}, ranks / 2, ranks - 1}) {
        std::vector<std::string> texts(ranks, "step: 20");
        texts[who] = other;
        EXPECT_FALSE(agree(texts)) << "rank " << who << " of " << ranks << " says '" << other << "'";
      }
}

TEST(Agreement, EveryWordOfTheDigestCounts) {
  for (std::size_t word = 0; word < agreement_words; ++word) {
    std::vector<std::int32_t> sum(agreement_limbs);
    for (int rank = 0; rank < 5; ++rank) {
      std::vector<std::int32_t> own(agreement_limbs);
      LimbWriter writer(own);
      for (std::size_t i = 0; i < agreement_words; ++i) {
        const std::uint64_t x = 1000 + i + (i == word && rank == 3);
        writer.put(x);
        writer.put(x * x);
      }
      for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += own[i];
    }
    LimbReader reader(sum);
    EXPECT_FALSE(take_agreement(reader, 5)) << "word " << word;
  }
}

TEST(Agreement, DigestsOfSimilarTextsDiffer) {
  std::vector<std::array<std::uint64_t, 2>> seen;
  std::string text(40, 'a');
  for (std::size_t i = 0; i < text.size(); ++i)
    for (int bit = 0; bit < 8; ++bit) {
      std::string other = text;
      other[i] = static_cast<char>(other[i] ^ (1 << bit));
      seen.push_back(digest(other));
    }
  for (std::size_t n = 0; n < 20; ++n) seen.push_back(digest(std::string(n, '\0')));
  std::sort(seen.begin(), seen.end());
  EXPECT_EQ(std::adjacent_find(seen.begin(), seen.end()), seen.end());
}

// ---- brackets from bins ----

TEST(Narrowing, BinsCoverAllKeysInOrder) {
  for (const Narrowing& range : {widest(true, 65536), widest(false, 65536), widest(true, 64), widest(false, 257),
                                 Narrowing(key_of(1.0f), key_of(1.001f), 65536), Narrowing(5, 5, 64)}) {
    std::size_t before = 0;
    Generator random(3);
    std::vector<std::uint32_t> keys{
        0,          key_of_minus_infinity, key_of_zero,   key_of_zero + 1, key_of_infinity, range.low,
        range.high, range.low - 1,         range.high + 1};
    for (int i = 0; i < 20000; ++i) keys.push_back(static_cast<std::uint32_t>(random.bits()));
    std::sort(keys.begin(), keys.end());
    for (const std::uint32_t key : keys) {
      const std::size_t bin = range.bin(key);
      ASSERT_GE(bin, before);
      ASSERT_LT(bin, range.bins);
      if (key >= range.low && key <= range.high) {
        ASSERT_LE(range.begin(bin), key);
        ASSERT_GE(range.end(bin), key);
      }
      before = bin;
    }
  }
}

// Whatever the sample, its own quantile lies in the bracket, and looks come to an end.
TEST(Narrowing, TheSampledQuantileLiesInTheBracket) {
  for (const NamedValues& named : named_values())
    for (const std::size_t bins : {std::size_t{64}, std::size_t{257}, std::size_t{65536}})
      for (const double share : {0.001, 0.3, 0.5, 0.9, 0.999}) {
        SCOPED_TRACE(std::string(named.name) + ", " + std::to_string(bins) + " bins, " + std::to_string(share));
        Values values = named.make(32 * 1024, 9);
        const bool non_negative = *std::min_element(values.begin(), values.end()) >= 0.0f;
        std::vector<std::uint32_t> keys;
        for (const float x : values) keys.push_back(key_of(x));
        Narrowing range = widest(non_negative, bins);
        SampleSpread spread{.lines = 1024};
        for (const std::uint32_t key : keys) {
          spread.zeros += key == key_of_zero;
          spread.between += !range.on_edge(key);
        }
        Narrowed found{};
        int looks = 0;
        do {
          ASSERT_LT(++looks, 8);
          std::vector<std::int32_t> sums(bins);
          for (const std::uint32_t key : keys) ++sums[range.bin(key)];
          found = narrow(range, sums, spread, share, non_negative, bins);
          range = found.next;
        } while (found.finer);
        std::sort(keys.begin(), keys.end());
        const std::uint32_t middle = keys[static_cast<std::size_t>(share * static_cast<double>(keys.size()))];
        EXPECT_GE(found.high, middle);
        if (middle != key_of_zero || !non_negative) {
          EXPECT_LE(found.low, middle);
        }
      }
}

// ---- whole selections by sums alone ----

// Values, each with a number of elements by unit: far more than memory could hold. Any step is answered from it.
struct Crowd {
  struct Value {
    float score;
    std::vector<std::int64_t> by_unit;
  };
  std::vector<Value> values;                            // ascending
  std::vector<std::vector<std::int64_t>> runs_of_unit;  // ties by run at the threshold, of boxed units

  std::int64_t count(const Value& value) const {
    return std::accumulate(value.by_unit.begin(), value.by_unit.end(), std::int64_t{0});
  }
  std::int64_t total() const {
    std::int64_t n = 0;
    for (const Value& value : values) n += count(value);
    return n;
  }

  // The sum of all ranks' vectors; a count that int32 cannot hold is an error of the test's subject.
  std::vector<std::int32_t> answer(const SharedSelection& shared, bool overflow) const {
    std::vector<std::int32_t> sum(shared.length());
    switch (shared.step()) {
      case Step::bracket: {
        BracketCounts c;
        for (const Value& v : values) {
          const Bracket& b = shared.bracket();
          (v.score < b.low     ? c.below
           : v.score == b.low  ? c.equal_low
           : v.score < b.high  ? c.inside
           : v.score == b.high ? c.equal_high
                               : c.above) += count(v);
        }
        LimbWriter out(sum);
        for (const std::int64_t n :
             {c.below, c.equal_low, c.inside, c.equal_high, c.above, c.nan, std::int64_t{overflow}})
          out.put(n);
        if (!overflow && c.inside < std::int64_t{1} << 31)
          tally(shared, std::span(sum).subspan(SharedSelection::bracket_length));
        break;
      }
      case Step::candidates: tally(shared, sum); break;
      case Step::digit: {
        std::vector<std::int64_t> bins(std::size_t{1} << shared.digit().digit_bits);
        for (const Value& v : values)
          if (shared.digit().matches(key_of(v.score))) bins[shared.digit().bin(key_of(v.score))] += count(v);
        put(shared, bins, sum);
        break;
      }
      case Step::units: {
        std::vector<std::int64_t> bins(shared.units().bins());
        const UnitRange& range = shared.units();
        for (std::int64_t u = range.first; u < range.first + range.count; ++u)
          bins[static_cast<std::size_t>((u - range.first) / range.width)] += ties(shared)[static_cast<std::size_t>(u)];
        put(shared, bins, sum);
        break;
      }
      case Step::runs: {
        std::vector<std::int64_t> bins(static_cast<std::size_t>(shared.runs().bins()));
        const RunRange& range = shared.runs();
        for (std::int64_t r = range.first; r < range.first + range.runs; ++r)
          bins[static_cast<std::size_t>((r - range.first) / range.width)] +=
              runs_of_unit[static_cast<std::size_t>(shared.cut().unit)][static_cast<std::size_t>(r)];
        put(shared, bins, sum);
        break;
      }
      default: ADD_FAILURE() << "a step that needs no answer";
    }
    return sum;
  }

 private:
  const std::vector<std::int64_t>& ties(const SharedSelection& shared) const {
    for (const Value& v : values)
      if (v.score == shared.selection().value) return v.by_unit;
    throw std::logic_error("no such value");
  }
  static void put(const SharedSelection& shared, const std::vector<std::int64_t>& bins, std::vector<std::int32_t>& to) {
    for (const std::int64_t n : bins) ASSERT_TRUE(shared.wide() || n <= INT32_MAX);
    put_counts(bins, shared.wide(), to);
  }
  void tally(const SharedSelection& shared, std::span<std::int32_t> to) const {
    for (const Value& v : values)
      for (std::size_t u = 0; u < v.by_unit.size(); ++u)
        if (shared.keys().holds(key_of(v.score)))
          to[static_cast<std::size_t>(shared.keys().bin(key_of(v.score), static_cast<std::int64_t>(u)))] +=
              static_cast<std::int32_t>(v.by_unit[u]);
  }
};

struct Expected {
  float value;
  std::int64_t below, equal, unit, left;
};

Expected by_counting(const Crowd& crowd, std::int64_t rank) {
  std::int64_t below = 0;
  for (const Crowd::Value& v : crowd.values) {
    const std::int64_t here = crowd.count(v);
    if (rank > below + here) {
      below += here;
      continue;
    }
    std::int64_t left = rank - below, unit = 0;
    while (left > v.by_unit[static_cast<std::size_t>(unit)]) left -= v.by_unit[static_cast<std::size_t>(unit++)];
    return {v.score, below, here, unit, left};
  }
  throw std::logic_error("rank");
}

Crowd crowd_of(std::int64_t each, std::size_t units, std::uint64_t seed) {
  Crowd crowd;
  Generator random(seed);
  for (const float score : {0.0f, tiniest, 0.25f, std::nextafter(0.25f, 1.0f), 0.5f, 1.0f, 3e30f, infinity}) {
    crowd.values.push_back({score, {}});
    for (std::size_t u = 0; u < units; ++u)
      crowd.values.back().by_unit.push_back(random.below(2 * each / static_cast<std::int64_t>(units) + 2));
  }
  return crowd;
}

TEST(SharedSelection, CountsBeyondInt32) {
  for (const std::int64_t each :
       {std::int64_t{100}, std::int64_t{1} << 28, std::int64_t{1} << 33, std::int64_t{1} << 40})
    for (const std::size_t bins : {std::size_t{16}, std::size_t{64}, std::size_t{257}, std::size_t{1} << 17})
      for (const std::size_t units : {std::size_t{1}, std::size_t{2}, std::size_t{5}, std::size_t{700}})
        for (const bool overflow : {false, true})
          for (const Bracket guess : {Bracket{0.25f, 0.5f}, Bracket{tiniest, 1.0f}, Bracket{0.0f, infinity},
                                      Bracket{0.3f, 0.4f}, Bracket{0.5f, 0.5f}}) {
            const Crowd crowd = crowd_of(each, units, static_cast<std::uint64_t>(each) + units);
            const std::vector<std::int64_t> runs(units);
            Generator random(7);
            for (int i = 0; i < 3; ++i) {
              const std::int64_t n = crowd.total(), rank = 1 + random.below(n);
              SCOPED_TRACE("rank " + std::to_string(rank) + " of " + std::to_string(n) + ", " + std::to_string(bins) +
                           " bins, " + std::to_string(units) + " units");
              SharedSelection shared({.elements = n,
                                      .rank = rank,
                                      .live = n,
                                      .guess = guess,
                                      .bins = bins,
                                      .units = static_cast<std::int64_t>(units),
                                      .runs = runs});
              int rounds = 0;
              while (!shared.done()) {
                ASSERT_LT(++rounds, 30);
                shared.take(crowd.answer(shared, overflow));
              }
              const Expected expected = by_counting(crowd, rank);
              ASSERT_EQ(shared.selection().value, expected.value);
              ASSERT_EQ(shared.selection().below, expected.below);
              ASSERT_EQ(shared.selection().equal, expected.equal);
              ASSERT_EQ(shared.cut().split, rank < expected.below + expected.equal);
              if (!shared.cut().split) continue;
              ASSERT_EQ(shared.cut().unit, expected.unit);
              ASSERT_EQ(shared.cut().left, expected.left);
            }
          }
}

TEST(SharedSelection, TheRunOfTheLastTie) {
  Crowd crowd{{{1.0f, {5, std::int64_t{1} << 35, 9}}}, {{}, std::vector<std::int64_t>(1000), {}}};
  crowd.runs_of_unit[1].assign(1000, (std::int64_t{1} << 35) / 1000);
  crowd.runs_of_unit[1][0] += (std::int64_t{1} << 35) % 1000;
  const std::vector<std::int64_t> runs{0, 1000, 0};
  const std::int64_t n = crowd.total(), each = crowd.runs_of_unit[1][1];
  for (const std::size_t bins : {std::size_t{16}, std::size_t{64}, std::size_t{1} << 17})
    for (const std::int64_t run : {std::int64_t{0}, std::int64_t{1}, std::int64_t{500}, std::int64_t{999}})
      for (const std::int64_t left : {std::int64_t{1}, std::int64_t{77}, each}) {
        const std::int64_t first = run == 0 ? 0 : crowd.runs_of_unit[1][0] + (run - 1) * each;
        const std::int64_t rank = 5 + first + left;
        SharedSelection shared({.elements = n,
                                .rank = rank,
                                .live = n,
                                .guess = Bracket{1.0f, 1.0f},
                                .bins = bins,
                                .units = 3,
                                .runs = runs});
        while (!shared.done()) shared.take(crowd.answer(shared, false));
        ASSERT_TRUE(shared.cut().split);
        EXPECT_EQ(shared.cut().unit, 1);
        EXPECT_EQ(shared.cut().run, run);
        EXPECT_EQ(shared.cut().left, left);
      }
}

}  // namespace
}  // namespace bittersweet::test
