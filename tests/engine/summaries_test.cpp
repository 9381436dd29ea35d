// Summaries are small, mergeable and the same however the work is cut: keys, digits, chunks, strata, counts and sums.
#include "bittersweet/engine/summaries.hpp"

#include <new>
#include <numeric>

#include "bittersweet/radix_key.hpp"
#include "bittersweet/select/histogram.hpp"
#include "bittersweet/select/sampling.hpp"
#include "support/compare.hpp"
#include "support/engines.hpp"
#include "support/inputs.hpp"

namespace bittersweet::test {
namespace {

TEST(Keys, HaveTheOrderOfScores) {
  Values values{-infinity, -3.4028235e38f, -1.0f, -1.1754944e-38f, -tiniest, 0.0f,
                tiniest,   1.1754944e-38f, 1.0f,  infinity};
  Generator random(1);
  for (int i = 0; i < 100000; ++i)
    if (const float x = random.any_float(); !std::isnan(x)) values.push_back(x);
  std::sort(values.begin(), values.end());
  for (std::size_t i = 1; i < values.size(); ++i) {
    ASSERT_EQ(values[i - 1] < values[i], key_of(values[i - 1]) < key_of(values[i])) << show(values[i]);
    ASSERT_TRUE(values[i] == 0.0f || same_bits(score_of(key_of(values[i])), values[i])) << show(values[i]);
  }
  EXPECT_EQ(key_of(0.0f), key_of_zero);
  EXPECT_EQ(key_of(-0.0f), key_of_zero);
  EXPECT_TRUE(same_bits(score_of(key_of_zero), 0.0f));
  EXPECT_EQ(key_of(infinity), key_of_infinity);
  EXPECT_EQ(key_of(-infinity), key_of_minus_infinity);
  for (const std::uint32_t nan : {0x7f800001u, 0x7fc00000u, 0xff800001u, 0xffffffffu})
    EXPECT_EQ(key_of(std::bit_cast<float>(nan)), key_of_nan);
  EXPECT_TRUE(std::isnan(score_of(key_of_nan)));
  EXPECT_GT(key_of_nan, key_of_infinity);
}

TEST(Chunks, CoverEveryElementOnceInOrder) {
  std::vector<ScoreInputs> tensors;
  for (const std::int64_t n : awkward_sizes) tensors.push_back({.numel = n});
  std::vector<std::int64_t> next(tensors.size());
  std::size_t last = 0;
  for (const Chunk& chunk : make_chunks(tensors)) {
    ASSERT_GE(chunk.tensor, last);
    last = chunk.tensor;
    ASSERT_EQ(chunk.first, next[chunk.tensor]);
    ASSERT_EQ(chunk.first % bits::per_word, 0);
    ASSERT_GT(chunk.count, 0u);
    ASSERT_LE(chunk.count, Chunk::size);
    next[chunk.tensor] += chunk.count;
  }
  for (std::size_t t = 0; t < tensors.size(); ++t) EXPECT_EQ(next[t], tensors[t].numel);
}

TEST(Strata, PartitionTheSequence) {
  for (const std::int64_t n : {1, 2, 100, 65537, 1000003})
    for (const std::int64_t parts : {1, 2, 3, 64, 100}) {
      EXPECT_EQ(stretch(0, n, parts), 0);
      EXPECT_EQ(stretch(parts, n, parts), n);
      for (std::int64_t j = 0; j < parts; ++j) {
        const std::int64_t size = stretch(j + 1, n, parts) - stretch(j, n, parts);
        ASSERT_TRUE(size == n / parts || size == n / parts + 1) << n << " in " << parts;
      }
    }
}

TEST(Strata, LinesLieInTheirStretch) {
  const Model model = model_of({Values(5000, 1.0f), {}, Values(77, 1.0f), Values(70000, 1.0f)});
  const auto inputs = model.inputs();
  const ScoreView view = make_view(inputs, Magnitude{});
  for (const std::uint64_t seed : {0u, 1u, 99u}) {
    const LineSample plan{300, seed};
    std::int64_t differs = 0;
    for (std::int64_t line = 0; line < plan.lines; ++line) {
      const auto [t, index] = line_at(view, plan, line);
      ASSERT_EQ(index % LineSample::width, 0);
      ASSERT_LT(index, inputs[t].numel);
      const std::int64_t begin = view.offset[t] + index, end = begin + LineSample::width;
      ASSERT_LT(begin, stretch(line + 1, view.size(), plan.lines));
      ASSERT_GT(end, stretch(line, view.size(), plan.lines));
      differs += line_at(view, {plan.lines, seed + 1}, line).second != index;
    }
    EXPECT_GT(differs, plan.lines / 2) << "the seed has no effect";
  }
}

std::vector<std::int64_t> sample_positions(std::int64_t first, std::int64_t n, std::int64_t samples,
                                           std::uint64_t seed) {
  std::vector<std::int64_t> positions;
  for (std::int64_t j = 0; j < samples; ++j) positions.push_back(first + sample_position(j, n, samples, seed));
  return positions;
}

// Numbered lines: whole ones, each as likely as any other, whatever the sizes of tensors.
TEST(Strata, NumberedLinesAreEquallyLikely) {
  const Model model = model_of({Values(33, 1.0f), {}, Values(5, 1.0f), Values(640, 1.0f), Values(31, 1.0f)});
  const auto inputs = model.inputs();
  const ScoreView view = make_view(inputs, Magnitude{});
  const std::vector<std::int64_t> first = line_numbers(inputs);
  ASSERT_EQ(first, (std::vector<std::int64_t>{0, 2, 2, 3, 23, 24}));
  constexpr std::int64_t lines = 5, seeds = 4800;
  std::vector<int> hits(24);
  for (std::uint64_t seed = 0; seed < seeds; ++seed)
    for (std::int64_t line = 0; line < lines; ++line) {
      const auto [t, index] = line_at(view, {lines, seed, first}, line);
      ASSERT_EQ(index % LineSample::width, 0);
      ASSERT_LT(index, inputs[t].numel);
      const std::int64_t number = first[t] + index / LineSample::width;
      ASSERT_GE(number, stretch(line, 24, lines));
      ASSERT_LT(number, stretch(line + 1, 24, lines));
      ++hits[static_cast<std::size_t>(number)];
    }
  for (std::size_t number = 0; number < 20; ++number) EXPECT_NEAR(hits[number], 960, 6 * 28) << number;
  for (std::size_t number = 20; number < 24; ++number) EXPECT_NEAR(hits[number], 1200, 6 * 30) << number;
}

TEST(Strata, SamplePositionsAreOnePerStretchAndUniform) {
  constexpr std::int64_t n = 1000, samples = 10, seeds = 4000;
  std::vector<int> hits(n);
  for (std::uint64_t seed = 0; seed < seeds; ++seed) {
    const auto positions = sample_positions(7, n, samples, seed);
    ASSERT_EQ(positions.size(), static_cast<std::size_t>(samples));
    for (std::int64_t j = 0; j < samples; ++j) {
      const std::int64_t p = positions[static_cast<std::size_t>(j)] - 7;
      ASSERT_GE(p, stretch(j, n, samples));
      ASSERT_LT(p, stretch(j + 1, n, samples));
      ++hits[static_cast<std::size_t>(p)];
    }
  }
  double chi_squared = 0;  // 40 hits expected at each place; 990 degrees of freedom, standard deviation 44
  for (const int hit : hits) chi_squared += (hit - 40.0) * (hit - 40.0) / 40.0;
  EXPECT_NEAR(chi_squared, 990, 6 * 44.5);
}

TEST(Counts, AddUp) {
  BracketCounts a{1, 2, 3, 4, 5, 6};
  a += {10, 20, 30, 40, 50, 60};
  EXPECT_EQ(a, (BracketCounts{11, 22, 33, 44, 55, 66}));
  EXPECT_EQ(a.total(), 231);
}

TEST(Sums, LanesFoldPairwise) {
  // Chosen so that any other order of addition gives another double.
  std::array<double, 16> lane;
  for (int i = 0; i < 16; ++i) lane[static_cast<std::size_t>(i)] = std::ldexp(1.0 + i, (i * 7) % 16 * 5);
  double eight[8], four[4];
  for (int i = 0; i < 8; ++i) eight[i] = lane[static_cast<std::size_t>(i)] + lane[static_cast<std::size_t>(i + 8)];
  for (int i = 0; i < 4; ++i) four[i] = eight[i] + eight[i + 4];
  EXPECT_EQ(fold_lanes(lane), (four[0] + four[2]) + (four[1] + four[3]));
}

TEST(Scratch, SlotsGrowAndStayApart) {
  Workspace workspace;
  EXPECT_EQ(workspace.reserved(), 0u);
  auto* const first = workspace.get<float>(Workspace::sample, 100);
  auto* const second = workspace.get<std::uint16_t>(Workspace::first_arena + 5, 100);
  std::fill_n(first, 100, 1.0f);
  std::fill_n(second, 100, std::uint16_t{2});
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(first) % 64, 0u);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(second) % 64, 0u);
  EXPECT_EQ(workspace.get<float>(Workspace::sample, 50), first) << "a smaller request moved the buffer";
  EXPECT_EQ(workspace.reserved(), 600u);
  auto* const larger = workspace.get<float>(Workspace::sample, 1000);
  std::fill_n(larger, 1000, 3.0f);
  EXPECT_EQ(std::count(second, second + 100, 2), 100) << "another slot was written";
  EXPECT_EQ(workspace.reserved(), 4200u);
  if (!sanitized) {  // sanitizers end the process instead
    EXPECT_THROW(workspace.get<float>(Workspace::sample, std::size_t{1} << 60), std::bad_alloc);
  }
  ASSERT_NE(workspace.get<float>(Workspace::sample, 10), nullptr) << "unusable after a request that failed";
  workspace.release();
  EXPECT_EQ(workspace.reserved(), 0u);
}

// A radix digit at a time, over bins that two halves of the data counted apart.
TEST(Digits, MergedBinsFindTheKthKey) {
  for (const NamedValues& named : named_values()) {
    const Values values = named.make(3000, 5);
    Values order = values;
    std::sort(order.begin(), order.end());
    for (const std::int64_t rank : {1, 2, 1500, 2999, 3000}) {
      RadixState state;
      state.rank = rank;
      for (int pass = 0; pass < 2; ++pass) {
        std::vector<std::int64_t> bins(65536), second_half(65536);
        for (std::size_t i = 0; i < values.size(); ++i)
          if (const std::uint32_t key = key_of(values[i]); state.digit.matches(key))
            ++(i % 2 ? bins : second_half)[state.digit.bin(key)];
        std::transform(bins.begin(), bins.end(), second_half.begin(), bins.begin(), std::plus<>{});
        state = next_digit(state, find_order(bins, state.rank));
      }
      const float kth = order[static_cast<std::size_t>(rank - 1)];
      ASSERT_EQ(score_of(state.digit.prefix), kth) << named.name << ", rank " << rank;
      ASSERT_EQ(state.below, std::count_if(order.begin(), order.end(), [&](float x) { return x < kth; })) << named.name;
      ASSERT_EQ(state.equal, std::count(order.begin(), order.end(), kth)) << named.name;
    }
  }
}

// ---- by engine ----

class Summaries : public EngineTest {};
BITTERSWEET_FOR_EVERY(engines, Summaries);

// A sequence of numbers and NaN, cut into tensors of the given sizes.
Model cut(const Values& values, const std::vector<std::int64_t>& sizes) {
  std::vector<Values> parts;
  auto at = values.begin();
  for (const std::int64_t size : sizes) {
    parts.emplace_back(at, at + size);
    at += size;
  }
  parts.emplace_back(at, values.end());
  return model_of(parts);
}

const std::vector<std::vector<std::int64_t>>& cuttings() {
  static const std::vector<std::vector<std::int64_t>> all{{},           {1},           {0, 0, 5, 0},
                                                          {4096, 8192}, {65535, 1, 1}, {31, 64, 2047, 2049, 65000}};
  return all;
}

TEST_P(Summaries, AreTheSameHoweverTheSequenceIsCut) {
  run([](auto& engine) {
    Values values = values_named("normal", 70000, 3);
    for (std::size_t i = 0; i < values.size(); i += 1000) values[i] = not_a_number;
    for (const Scorer& scorer : {Scorer{Identity{}}, Scorer{Random{.seed = 3}}}) {
      std::vector<std::int64_t> first_bins;
      BracketCounts first_total;
      CountsAt first_count;
      Values first_sample;
      for (const auto& sizes : cuttings()) {
        const Model model = cut(values, sizes);
        const auto inputs = model.inputs();
        const ScoreView view = make_view(inputs, scorer);
        const std::vector<Chunk> chunks = make_chunks(inputs);
        Workspace workspace;
        const Bracket bracket{0.25f, 0.5f};
        const BracketCounts total = engine.bracket(view, chunks, bracket, {}, view.size(), workspace).total;
        std::vector<std::int64_t> bins(65536);
        engine.histogram(view, chunks, Digit{}, bins, workspace);
        const float threshold = 0.25f;
        CountsAt count;
        engine.count(view, chunks, std::span(&threshold, 1), std::span(&count, 1));
        Values sample(1000);
        engine.gather(view, sample_positions(0, view.size(), 1000, 4), sample.data());
        if (sizes.empty()) {
          first_bins = bins;
          first_total = total;
          first_count = count;
          first_sample = sample;
        }
        ASSERT_EQ(bins, first_bins);
        ASSERT_EQ(total, first_total);
        ASSERT_EQ(count, first_count);
        ASSERT_TRUE(same_floats(first_sample, sample));
        ASSERT_EQ(std::accumulate(bins.begin(), bins.end(), std::int64_t{0}), 70000);
        ASSERT_EQ(total.total(), 70000);
      }
    }
  });
}

// The documented order of additions, written out again: blocks of 4,096 of a tensor, element i to lane i mod 16; then
// block j to lane j mod 256.
TEST_P(Summaries, MomentsAreSumsInTheDocumentedOrder) {
  run([](auto& engine) {
    Values values = values_named("student_t", 1200000, 6);  // the order of addition shows
    values[5] = infinity;
    values[9] = not_a_number;
    Model model = cut(values, {5000, 65537});
    model.set_masks(0.2, 8);
    const auto inputs = model.inputs();
    const Moments found = engine.moments(make_view(inputs, Identity{}), make_chunks(inputs));
    std::array<double, 256> sum{}, squares{};
    long double exact = 0;
    std::int64_t finite = 0, nan = 0, total = 0;
    std::size_t number = 0;
    for (const ScoreInputs& tensor : inputs)
      for (std::int64_t block = 0; block < tensor.numel; block += 4096) {
        std::array<double, 16> lane{}, square{};
        for (std::int64_t i = block; i < std::min(tensor.numel, block + 4096); ++i) {
          if (!bits::get(tensor.mask, i)) continue;
          const double x = static_cast<const float*>(tensor.scores.data)[i];
          ++total;
          nan += std::isnan(x);
          if (!std::isfinite(x)) continue;
          ++finite;
          exact += x;
          lane[static_cast<std::size_t>(i % 16)] += x;
          square[static_cast<std::size_t>(i % 16)] += x * x;
        }
        sum[number % 256] += fold_lanes(lane);
        squares[number++ % 256] += fold_lanes(square);
      }
    EXPECT_GT(number, 256u);
    EXPECT_EQ(found.finite, finite);
    EXPECT_EQ(found.nan, nan);
    EXPECT_EQ(found.total, total);
    EXPECT_EQ(found.sum, fold_lanes(sum));
    EXPECT_EQ(found.sum_of_squares, fold_lanes(squares));
    EXPECT_NEAR(found.sum, static_cast<double>(exact),
                1e-12 * std::sqrt(found.sum_of_squares * static_cast<double>(finite)));
  });
}

}  // namespace
}  // namespace bittersweet::test
