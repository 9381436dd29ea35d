// The verbs of a selection that several ranks make together, on the emulator against the reference engine.
#include "cuda/step_support.hpp"
#include "support/orders.hpp"

namespace bittersweet::test {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

Values live_scores(std::span<const ScoreInputs> inputs, const Scorer& scorer) {  // sorted, without NaN
  std::vector<Values> scores;
  std::vector<float*> to;
  for (const ScoreInputs& tensor : inputs) scores.emplace_back(static_cast<std::size_t>(tensor.numel));
  for (Values& values : scores) to.push_back(values.data());
  ReferenceEngine().write_scores(make_view(inputs, scorer), {}, to);
  Values all;
  for (std::size_t t = 0; t < inputs.size(); ++t)
    for (std::int64_t i = 0; i < inputs[t].numel; ++i)
      if (const float score = scores[t][static_cast<std::size_t>(i)]; is_live(inputs[t], i) && !std::isnan(score))
        all.push_back(score);
  std::sort(all.begin(), all.end());
  return all;
}

// As wide as a bracket of a device can be: up to zero, where the keys of both ends are too far apart.
Bracket fitting(float low, float high) { return {low, key_of(high) - key_of(low) < 0x80000000u ? high : 0.0f}; }

// Keys one by one, in groups, of one value; every unit in a bin of its own, or several together.
std::vector<KeyRange> ranges_of(const Values& sorted, std::int64_t units) {
  const float middle = sorted.empty() ? 1.0f : sorted[sorted.size() / 2];
  const std::uint32_t key = key_of(middle);
  return {{key, 1, 0, units, 1},
          {key - 3, 7, 0, (units + 1) / 2, 2},
          {key_of(1e-3f), key_of(10.0f) - key_of(1e-3f), 12, 1, units},
          {1, ~0u - 1, 18, 1, units},
          {key, 0, 0, 1, units}};
}

void expect_like_reference(std::span<const ScoreInputs> inputs, const Scorer& scorer, const Bracket& ends,
                           const Values& sorted, EmulatedCuda& engine) {
  ReferenceEngine reference;
  Workspace workspace;
  const ScoreView view = make_view(inputs, scorer);
  const std::vector<Chunk> chunks = make_chunks(inputs);
  const FreshMasks want_masks(inputs), masks(inputs);
  const BracketResult want = reference.bracket(view, chunks, ends, want_masks.table(), view.size(), workspace);
  const cuda::BracketReport found = engine.bracket(inputs, scorer, ends, masks.table());
  EXPECT_EQ(found.counts, want.total);
  EXPECT_EQ(found.overflow, 0);
  EXPECT_TRUE(same_masks(want_masks.bits(), masks.bits()));
  std::vector<std::int64_t> units;  // copies that do not count, and two parts of one unit
  for (std::size_t t = 0; t < inputs.size(); ++t) units.push_back(t % 4 == 1 ? -1 : static_cast<std::int64_t>(t) / 2);
  for (const KeyRange& keys : ranges_of(sorted, static_cast<std::int64_t>(inputs.size()))) {
    std::vector<std::int64_t> bins(static_cast<std::size_t>(keys.bins()) + 3);
    reference.tally(chunks, want.candidates, units, keys, bins);
    EXPECT_EQ(engine.tally(inputs, units, keys, bins.size()), bins) << keys.keys << " keys from " << keys.first;
  }
}

TEST(CudaRounds, BracketAndTally) {
  std::uint64_t seed = 0;
  for (const Scorer& scorer : all_scorers())
    for (const std::vector<DType>& dtypes : storages()) {
      Model model = training_model({1, 1500, 33, 0, 2048, 1025}, dtypes, ++seed);
      model.tensors[1].modifier = 0.5f;
      if (seed % 3 != 0) model.set_masks(seed % 3 == 1 ? 0.5 : 0.95, seed);
      const std::vector<ScoreInputs> inputs = model.inputs();
      const Values sorted = live_scores(inputs, scorer);
      ASSERT_FALSE(sorted.empty());
      const auto at = [&](double share) { return sorted[static_cast<std::size_t>(share * (sorted.size() - 1.0))]; };
      SCOPED_TRACE(name_of(scorer) + ", seed " + std::to_string(seed));
      EmulatedCuda engine(seed, static_cast<unsigned>(seed % 3) + 1);
      for (const Bracket& ends : {fitting(at(0.3), at(0.7)), Bracket{at(0.5), at(0.5)}, Bracket{tiniest, infinity}})
        expect_like_reference(inputs, scorer, ends, sorted, engine);
      EXPECT_TRUE(model.intact());
    }
}

// Scores that share keys by the thousand, or none; NaN, zeros of both signs, nothing at all.
TEST(CudaRounds, NamedValues) {
  std::uint64_t seed = 0;
  for (const NamedValues& named : named_values()) {
    const Model model = model_of({named.make(3000, 1), named.make(1100, 2), {}, named.make(1, 3)}, DType::f32,
                                 ++seed % 2 ? Placement::flush : Placement::offset);
    const std::vector<ScoreInputs> inputs = model.inputs();
    const Values sorted = live_scores(inputs, Identity{});
    SCOPED_TRACE(named.name);
    EmulatedCuda engine(seed);
    const auto at = [&](std::size_t tenth) { return sorted.empty() ? 0.0f : sorted[tenth * (sorted.size() - 1) / 10]; };
    for (const auto& [from, to] : {std::pair{0, 10}, {2, 8}, {5, 5}})
      expect_like_reference(inputs, Identity{}, fitting(at(from), at(to)), sorted, engine);
    expect_like_reference(inputs, Identity{}, {-infinity, -tiniest}, sorted, engine);
  }
}

// The same bins whatever the order of threads and the size of the grid: candidates lie in another order each time.
TEST(CudaRounds, AnyOrderOfThreads) {
  Model model = training_model({3000, 1024, 31, 2048}, {DType::bf16}, 5, Placement::flush);
  model.set_masks(0.3, 4);
  const std::vector<ScoreInputs> inputs = model.inputs();
  const Values sorted = live_scores(inputs, Magnitude{});
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE(seed);
    EmulatedCuda engine(seed, static_cast<unsigned>(seed % 4) + 1);
    expect_like_reference(inputs, Magnitude{}, {sorted[sorted.size() / 5], sorted[sorted.size() / 5 * 4]}, sorted,
                          engine);
  }
}

TEST(CudaRounds, RoomForSomeCandidates) {
  const Model model = model_of({values_named("half_normal", 3000, 1), values_named("half_normal", 500, 2)});
  const std::vector<ScoreInputs> inputs = model.inputs();
  const KeyRange all{1, ~0u - 1, 18, 1, 1};
  const std::vector<std::int64_t> units{0, 0};
  for (const std::int64_t room : {0, 1, 33, 3499, 3500, 3501}) {
    EmulatedCuda engine(3);
    engine.force_capacity(room);
    const cuda::BracketReport found = engine.bracket(inputs, Magnitude{}, {tiniest, infinity}, {});
    EXPECT_EQ(found.counts.inside, 3500);
    EXPECT_EQ(found.overflow, room < 3500);
    std::int64_t sum = 0;
    for (const std::int64_t n : engine.tally(inputs, units, all, static_cast<std::size_t>(all.bins()))) sum += n;
    EXPECT_EQ(sum, std::min<std::int64_t>(room, 3500));
  }
}

TEST(CudaRounds, TheFirstNaN) {
  Model model = training_model({3000, 1024, 2000}, {DType::f32}, 9, Placement::flush);
  for (const std::size_t i : {700u, 5u, 1999u}) model.tensors[2].weight.set(i, not_a_number);
  const cuda::BracketReport found = EmulatedCuda(2).bracket(model.inputs(), Magnitude{}, {0.1f, 0.2f}, {});
  EXPECT_EQ(found.counts.nan, 3);
  EXPECT_EQ(found.first_nan, 4024 + 5);
}

// Boxes of larger tensors: no axis outside the runs, one, two, three; runs that are short, long, or the whole tensor.
std::vector<RunMap> boxes_of(std::int64_t numel) {
  std::vector<RunMap> maps{{.length = std::max<std::int64_t>(numel, 1), .parts = 1}};
  const auto divides = [&](std::int64_t n) { return numel > 0 && numel % n == 0; };
  if (divides(3))
    maps.push_back({.length = 3, .parts = 4, .part = 2, .axes = 1, .shape = {numel}, .size = {numel / 3}});
  if (divides(6))
    maps.push_back(
        {.length = numel / 6, .parts = 3, .part = 1, .axes = 2, .shape = {5, 9}, .offset = {2, 4}, .size = {2, 3}});
  if (divides(12))
    maps.push_back(
        {.length = numel / 12, .parts = 2, .axes = 3, .shape = {2, 7, 4}, .offset = {0, 5, 1}, .size = {2, 2, 3}});
  return maps;
}

std::int64_t runs_in(const RunMap& map) {
  std::int64_t runs = map.parts;
  for (std::size_t a = 0; a < map.axes; ++a) runs *= map.shape[a];
  return runs;
}

void expect_same_runs(std::span<const ScoreInputs> inputs, const Scorer& scorer, float value, EmulatedCuda& engine) {
  const ScoreView view = make_view(inputs, scorer);
  for (std::size_t t = 0; t < inputs.size(); ++t)
    for (const RunMap& map : boxes_of(inputs[t].numel)) {
      const std::int64_t all = runs_in(map);
      for (const RunRange& runs : {RunRange{map, 0, all, 1}, RunRange{map, all / 3, all / 2 + 1, 5},
                                   RunRange{map, all / 2, 1, 1}, RunRange{map, 0, all, all}}) {
        std::vector<std::int64_t> bins(static_cast<std::size_t>(runs.bins()) + 2);
        ReferenceEngine().count_runs(view, t, value, runs, bins);
        ASSERT_EQ(engine.count_runs(inputs, scorer, t, value, runs, bins.size()), bins)
            << "tensor " << t << ", " << show(value) << ", runs of " << map.length << ", width " << runs.width;
      }
    }
}

TEST(CudaRounds, CountRuns) {
  std::uint64_t seed = 0;
  for (const Scorer& scorer : all_scorers())
    for (const std::vector<DType>& dtypes : storages()) {
      Model model = training_model({1, 1500, 33, 0, 3072, 12}, dtypes, ++seed);
      for (Tensor& tensor : model.tensors)  // ties: seven kinds of elements
        for (Array* array : {&tensor.weight, &tensor.exp_avg, &tensor.exp_avg_sq, &tensor.grad, &tensor.scores})
          for (std::int64_t i = 7; array->dtype() != DType::none && i < tensor.numel; ++i)
            array->set(static_cast<std::size_t>(i), (*array)[static_cast<std::size_t>(i % 7)]);
      if (seed % 2) model.set_masks(0.3, seed);
      const std::vector<ScoreInputs> inputs = model.inputs();
      const Values sorted = live_scores(inputs, scorer);
      ASSERT_FALSE(sorted.empty());
      SCOPED_TRACE(name_of(scorer) + ", seed " + std::to_string(seed));
      EmulatedCuda engine(seed, static_cast<unsigned>(seed % 3) + 1);
      expect_same_runs(inputs, scorer, sorted[sorted.size() / 2], engine);
      std::vector<ScoreInputs> turned = inputs;  // the same memory, whose elements are others
      for (ScoreInputs& tensor : turned) tensor.order = some_order(tensor.numel);
      expect_same_runs(turned, scorer, sorted[sorted.size() / 2], engine);
      EXPECT_TRUE(model.intact());
    }
}

// Every element a tie; zeros of both signs; infinities; NaN, which equals nothing; masks that leave nothing alive.
TEST(CudaRounds, RunsOfNamedValues) {
  std::uint64_t seed = 0;
  for (const char* name : {"all_zero", "signed_zeros", "three_values", "half_zeros", "any_number"}) {
    Model model = model_of({values_named(name, 6000, 1), values_named(name, 1032, 2)});
    for (const double dead : {0.0, 0.6, 1.0}) {
      if (dead > 0) model.set_masks(dead, 3);
      const std::vector<ScoreInputs> inputs = model.inputs();
      SCOPED_TRACE(name);
      ++seed;
      EmulatedCuda engine(seed, static_cast<unsigned>(seed % 3) + 1);
      const Values sorted = live_scores(inputs, Identity{});
      for (const float value : {0.0f, infinity, not_a_number, sorted.empty() ? 1.0f : sorted[sorted.size() / 3]})
        expect_same_runs(inputs, Identity{}, value, engine);
    }
  }
}

// Random numbers go by where a part begins in the whole tensor, wherever it lies among a rank's own.
TEST(CudaRounds, RandomNumbersOfParts) {
  Model model = training_model({1500, 33, 1024}, {DType::f32}, 3);
  std::vector<ScoreInputs> inputs = model.inputs();
  inputs[0].origin = 7000;
  inputs[2].origin = std::int64_t{1} << 33;
  const Scorer scorer = Random{};
  const Values sorted = live_scores(inputs, scorer);
  EmulatedCuda engine;
  expect_like_reference(inputs, scorer, {sorted[100], sorted[1900]}, sorted, engine);
  expect_same_runs(inputs, scorer, sorted[1200], engine);
  inputs[0].origin = 0;
  EXPECT_NE(live_scores(inputs, scorer), sorted);
}

TEST(CudaRounds, ArgumentsAreCheckedFirst) {
  const Model model = training_model({100, 64}, {DType::f32});
  const std::vector<ScoreInputs> inputs = model.inputs();
  EmulatedCuda engine;
  for (const Bracket& ends : {Bracket{-infinity, infinity}, Bracket{2.0f, 1.0f}, Bracket{not_a_number, 1.0f}})
    EXPECT_THROW(engine.bracket(inputs, Magnitude{}, ends, {}), ArgumentError);
  engine.bracket(inputs, Magnitude{}, {tiniest, infinity}, {});
  const std::vector<std::int64_t> units{0, 1};
  const KeyRange keys{key_of(1.0f), 4, 0, 2, 1};
  EXPECT_EQ(engine.tally(inputs, units, keys, 8).size(), 8u);
  EXPECT_THROW(engine.tally(inputs, units, keys, 7), ArgumentError);
  EXPECT_THROW(engine.tally(inputs, std::vector<std::int64_t>{0}, keys, 8), ShapeError);
  EXPECT_THROW(engine.tally(inputs, std::vector<std::int64_t>{0, 2}, keys, 8), ArgumentError);
  EXPECT_THROW(engine.tally(inputs, units, {key_of(1.0f), 4, 0, 0, 1}, 8), ArgumentError);
  EXPECT_THROW(engine.tally(inputs, units, {key_of(1.0f), 4, 0, 2, 0}, 8), ArgumentError);
  EXPECT_THROW(EmulatedCuda().tally(inputs, units, keys, 8), ArgumentError);  // no workspace: no bracket() before

  const RunMap map{.length = 10, .parts = 2, .axes = 1, .shape = {10}, .size = {10}};
  EXPECT_THROW(engine.count_runs(inputs, Magnitude{}, 0, 0.0f, {map, 0, 20, 1}, 19), ArgumentError);
  EXPECT_THROW(engine.count_runs(inputs, Magnitude{}, 2, 0.0f, {map, 0, 20, 1}, 20), ArgumentError);
  EXPECT_THROW(engine.count_runs(inputs, Magnitude{}, 0, 0.0f, {map, 0, 20, 0}, 20), ArgumentError);
  RunMap wrong = map;
  wrong.size[0] = 0;
  EXPECT_THROW(engine.count_runs(inputs, Magnitude{}, 0, 0.0f, {wrong, 0, 20, 1}, 20), ArgumentError);
  wrong = map;
  wrong.length = 0;
  EXPECT_THROW(engine.count_runs(inputs, Magnitude{}, 0, 0.0f, {wrong, 0, 20, 1}, 20), ArgumentError);
}

}  // namespace
}  // namespace bittersweet::test
