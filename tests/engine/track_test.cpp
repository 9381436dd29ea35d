// Scorers with a memory: every engine gives the bits of the reference engine, the public functions keep their promises,
// and the formulas have hand-worked values.
#include "bittersweet/track.hpp"

#include <map>
#include <set>

#include "bittersweet/engine/reference_track.hpp"
#include "bittersweet/prune.hpp"
#include "support/engines.hpp"
#include "support/inputs.hpp"

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace bittersweet::test {
namespace {

constexpr DType f32 = DType::f32, f16 = DType::f16, bf16 = DType::bf16;

class TrackContract : public testing::TestWithParam<EngineCase> {
 protected:
  void SetUp() override {
    if (!GetParam().runs_here()) GTEST_SKIP() << "instruction set '" << GetParam().isa << "' does not run here";
  }
};
BITTERSWEET_FOR_EVERY(fast_engines, TrackContract);

struct Variant {
  const char* name;
  Model model;
};

std::vector<Variant> variants() {
  const std::vector<std::int64_t> sizes{1, 2, 0, 15, 16, 17, 63, 64, 65, 127, 4095, 4096, 4097};
  std::vector<Variant> all;
  all.push_back({"f32", training_model(sizes, {f32})});
  all.push_back({"bf16 under masks, flush", training_model(sizes, {bf16}, 2, Placement::flush)});
  all.back().model.set_masks(0.3, 1);
  all.push_back({"mixed, mostly dead", training_model(sizes, {f32, f16, bf16, bf16, f32}, 3, Placement::flush)});
  all.back().model.set_masks(0.9, 2);
  all.push_back({"several chunks", training_model({65537, 5, 131149}, {f32}, 4)});
  all.back().model.set_masks(0.5, 3);
  all.back().model.tensors[0].masked = false;
  all.push_back({"several chunks, halves", training_model({65600, 70001}, {bf16, f16}, 5, Placement::flush)});
  all.push_back({"any bits", training_model({4097, 1000}, {f32}, 6)});
  Generator random(7);
  for (Tensor& tensor : all.back().model.tensors)
    for (Array* array : {&tensor.weight, &tensor.exp_avg, &tensor.exp_avg_sq, &tensor.grad})
      for (std::size_t i = 0; i < array->size(); ++i) array->set(i, random.any_float());
  return all;
}

// One training step: weights and states move, in a way that only the step decides.
void advance(Model& model, std::uint64_t step) {
  Generator random(1000 + step);
  for (Tensor& tensor : model.tensors)
    for (std::size_t i = 0; i < tensor.weight.size(); ++i) {
      tensor.weight.set(i, tensor.weight[i] + static_cast<float>(1e-2 * random.normal()));
      tensor.exp_avg.set(i, static_cast<float>(1e-3 * random.normal()));
    }
}

// How trackers keep their arrays; every tensor draws from a stream of its own.
constexpr std::uint64_t seed = 0x0123456789abcdefu;
constexpr std::uint32_t stream_of(std::size_t t) { return t == 0 ? (1u << 23) - 1 : static_cast<std::uint32_t>(t); }

// Memory of every tensor, with known bytes around it.
struct Memory {
  std::vector<Array> previous, average;
  std::vector<Coherence> scalars;
  std::vector<CoherenceMemory> states;

  explicit Memory(const Model& model, DType storage = f32) : scalars(model.tensors.size()) {
    for (const Tensor& tensor : model.tensors)
      for (auto* arrays : {&previous, &average})
        arrays->emplace_back(Values(static_cast<std::size_t>(tensor.numel), -77.0f), storage, Placement::flush);
    for (std::size_t t = 0; t < scalars.size(); ++t)
      states.push_back({previous[t].view(), average[t].view(), &scalars[t], {seed, stream_of(t)}});
  }
  bool intact() const {
    const auto whole = [](const Array& array) { return array.intact(); };
    return std::ranges::all_of(previous, whole) && std::ranges::all_of(average, whole);
  }
};

bool same(double a, double b) {
  return std::bit_cast<std::uint64_t>(a) == std::bit_cast<std::uint64_t>(b) || (std::isnan(a) && std::isnan(b));
}

void expect_same(const TrackSums& a, const TrackSums& b, const std::string& where) {
  EXPECT_EQ(a.live, b.live) << where;
  EXPECT_EQ(a.flips, b.flips) << where;
  for (const auto member : {&TrackSums::xy, &TrackSums::xx, &TrackSums::yy, &TrackSums::r, &TrackSums::rr})
    EXPECT_TRUE(same(a.*member, b.*member)) << where << ": " << a.*member << " and " << b.*member;
}

// Three updates: the first remembers, the others sum.
template <class E>
std::vector<TrackSums> coherence(E&& engine, Model model, Memory& memory) {
  std::vector<TrackSums> sums(model.tensors.size());
  for (std::uint64_t step = 0; step < 3; ++step) {
    const auto inputs = model.inputs();
    engine.track_coherence(inputs, make_chunks(inputs), memory.states, 0.9f, sums);
    for (Coherence& scalars : memory.scalars) scalars.updates += 1;
    advance(model, step);
  }
  return sums;
}

TEST_P(TrackContract, CoherenceIsTheReferences) {
  for (const DType storage : {f32, bf16})
    for (Variant& variant : variants()) {
      Memory expected(variant.model, storage), memory(variant.model, storage);
      const auto wanted = coherence(ReferenceTracker{}, variant.model, expected);
      const auto found = coherence(CpuEngine(GetParam().isa, GetParam().threads), variant.model, memory);
      for (std::size_t t = 0; t < wanted.size(); ++t) {
        expect_same(wanted[t], found[t], variant.name);
        EXPECT_EQ(expected.previous[t].bytes(), memory.previous[t].bytes()) << variant.name;
        EXPECT_EQ(expected.average[t].bytes(), memory.average[t].bytes()) << variant.name;
      }
      EXPECT_TRUE(memory.intact()) << variant.name;
    }
}

TEST_P(TrackContract, SnapshotIsTheReferences) {
  for (const DType storage : {f32, bf16})
    for (Variant& variant : variants()) {
      const auto inputs = variant.model.inputs();
      const auto chunks = make_chunks(inputs);
      const auto before = variant.model.bytes();
      Memory memory(variant.model, storage);
      std::vector<SnapshotMemory> snapshots;
      for (std::size_t t = 0; t < inputs.size(); ++t) {
        for (std::size_t i = 0; i < memory.previous[t].size(); ++i)
          memory.previous[t].set(i, 0.01f * static_cast<float>(i % 7) - 0.03f);
        snapshots.push_back({memory.states[t].previous, &memory.scalars[t]});
      }
      std::vector<TrackSums> wanted(inputs.size()), found(inputs.size());
      ReferenceTracker{}.compare_snapshot(inputs, chunks, snapshots, wanted);
      CpuEngine(GetParam().isa, GetParam().threads).compare_snapshot(inputs, chunks, snapshots, found);
      for (std::size_t t = 0; t < wanted.size(); ++t) expect_same(wanted[t], found[t], variant.name);
      EXPECT_EQ(variant.model.bytes(), before) << variant.name;
      EXPECT_TRUE(variant.model.intact() && memory.intact());
    }
}

TEST_P(TrackContract, RetentionIsTheReferences) {
  for (const DType storage : {f32, bf16})
    for (Variant& variant : variants()) {
      const auto inputs = variant.model.inputs();
      const auto before = variant.model.bytes();
      Memory memory(variant.model, storage);
      for (Array& previous : memory.previous)
        for (std::size_t i = 0; i < previous.size(); ++i)
          previous.set(i, i % 5 == 0 ? 0.0f : i % 5 == 1 ? -0.0f : 0.01f * static_cast<float>(i % 7) - 0.02f);
      std::vector<TrackSums> wanted(inputs.size()), found(inputs.size());
      ReferenceTracker{}.measure_retention(inputs, make_chunks(inputs), memory.states, wanted);
      CpuEngine(GetParam().isa, GetParam().threads)
          .measure_retention(inputs, make_chunks(inputs), memory.states, found);
      for (std::size_t t = 0; t < wanted.size(); ++t) expect_same(wanted[t], found[t], variant.name);
      EXPECT_EQ(variant.model.bytes(), before) << variant.name;
      EXPECT_TRUE(variant.model.intact() && memory.intact());
    }
}

TEST_P(TrackContract, MovementIsTheReferences) {
  for (const DType storage : {f32, bf16})
    for (Variant& variant : variants()) {
      const auto inputs = variant.model.inputs();
      const auto chunks = make_chunks(inputs);
      Memory expected(variant.model, storage), memory(variant.model, storage);
      std::int64_t updates = 0;
      std::vector<MovementMemory> wanted, found;
      for (std::size_t t = 0; t < inputs.size(); ++t) {
        const MovementMemory state{{}, &updates, 1e-3f * static_cast<float>(t + 1), {seed, stream_of(t)}};
        for (auto* states : {&wanted, &found}) states->push_back(state);
        wanted.back().sums = expected.average[t].view();
        found.back().sums = memory.average[t].view();
      }
      for (updates = 0; updates < 3; ++updates) {
        ReferenceTracker{}.accumulate_movement(inputs, chunks, wanted);
        CpuEngine(GetParam().isa, GetParam().threads).accumulate_movement(inputs, chunks, found);
      }
      for (std::size_t t = 0; t < inputs.size(); ++t)
        for (std::size_t i = 0; i < memory.average[t].size(); ++i)
          EXPECT_TRUE(same(static_cast<double>(expected.average[t][i]), static_cast<double>(memory.average[t][i])))
              << variant.name << " " << t << " " << i;
      EXPECT_TRUE(memory.intact()) << variant.name;
    }
}

TEST(Coherence, PowersAreProductsAndSquareRoots) {
  EXPECT_EQ(power(0.3, 0), 1.0);
  EXPECT_EQ(power(0.3, 1), std::sqrt(std::sqrt(0.3)));
  EXPECT_EQ(power(0.3, 2), std::sqrt(0.3));
  EXPECT_EQ(power(0.3, 4), 0.3);
  EXPECT_EQ(power(0.3, 8), 0.3 * 0.3);
  for (int quarters = 0; quarters <= 64; ++quarters)
    EXPECT_NEAR(power(0.7, quarters), std::pow(0.7, quarters / 4.0), 1e-14) << quarters;
}

TEST(Coherence, AveragesCorrectTheirOwnBias) {
  Average average;
  EXPECT_EQ(average.mean(), 0.0);
  average.observe(3.0, 0.9);
  EXPECT_NEAR(average.mean(), 3.0, 1e-15);
  average.observe(std::nullopt, 0.9);
  EXPECT_NEAR(average.mean(), 3.0, 1e-15);
  average.observe(5.0, 0.9);
  EXPECT_NEAR(average.mean(), (0.9 * 0.1 * 3.0 + 0.1 * 5.0) / 0.19, 1e-15);
}

TEST(Coherence, WhatHasNoMeaningLeavesItsScalar) {
  EXPECT_FALSE(cosine(0.0, 0.0, 1.0));
  EXPECT_FALSE(cosine(0.0, 1.0, 0.0));
  EXPECT_FALSE(cosine(NAN, 1.0, 1.0));
  EXPECT_FALSE(cosine(1.0, INFINITY, INFINITY));
  EXPECT_EQ(*cosine(-6.0, 4.0, 9.0), -1.0);
  EXPECT_FALSE(relative_variance(0, 0, 0));
  EXPECT_FALSE(relative_variance(3, 0.0, 0.0));
  EXPECT_FALSE(relative_variance(3, NAN, 1.0));
  EXPECT_DOUBLE_EQ(*relative_variance(2, 4.0, 10.0), 0.25);  // 1 and 3: variance 1, mean 2

  Coherence scalars;
  observe(scalars, {.live = 4, .flips = 1, .xy = 1, .xx = 1, .yy = 4, .r = 4, .rr = 8}, 0.9);
  const Coherence before = scalars;
  observe(scalars, {}, 0.9);
  for (const auto member : {&Coherence::flip, &Coherence::direction, &Coherence::jitter}) {
    EXPECT_EQ((scalars.*member).value, (before.*member).value);
    EXPECT_EQ((scalars.*member).weight, (before.*member).weight);
  }
  EXPECT_EQ(scalars.updates, 2.0);
  EXPECT_NEAR(scalars.flip.mean(), 0.25, 1e-15);
  EXPECT_NEAR(scalars.direction.mean(), 0.5, 1e-15);
  EXPECT_NEAR(scalars.jitter.mean(), 1.0, 1e-15);
  EXPECT_NEAR(coherence_modifier(scalars, 0.5, {}), 0.75 * 0.5 * 0.5 / 2.0, 1e-15);
  EXPECT_NEAR(coherence_modifier(scalars, 0.5, {.alpha = 2, .d = 0, .a = 2, .b = 0, .c = 8}),
              2 * std::sqrt(0.75) * 0.25, 1e-15);
  EXPECT_EQ(coherence_modifier(scalars, 0.5, {.alpha = 1e-9}), 0.05);
  EXPECT_NEAR(snapshot_modifier(scalars, 0.05), 0.25, 1e-15);
}

TEST(Coherence, ThePastIsReadBeforeItIsUpdated) {
  // Steps of +1 and -1 in turn: against a past that already contained them, nothing would ever flip.
  std::vector<float> w(100, 0.0f), m(100, 1.0f), previous(100), average(100);
  Coherence scalars;
  const ScoreInputs tensor{.weight = view(w.data()), .exp_avg = view(m.data()), .numel = 100, .geometry = flat(100)};
  const CoherenceMemory memory{view(previous.data()), view(average.data()), &scalars};
  for (int step = 0; step < 20; ++step) {
    for (float& x : w) x += step % 2 == 0 ? 1.0f : -1.0f;
    track_coherence({&tensor, 1}, {&memory, 1}, 0.5);
  }
  EXPECT_EQ(scalars.updates, 20.0);
  EXPECT_NEAR(scalars.flip.mean(), 1.0, 1e-12);
  EXPECT_NEAR(scalars.direction.mean(), -1.0, 1e-6);
}

TEST(Coherence, RetentionIsThatOfNow) {
  float w[] = {1, 2, -3, 0};  // what is dead, or was 0, takes no part
  const float against[] = {2, 4, -6, 1000}, along[] = {-1, -2, 3, -1000}, none[] = {0, 0, 0, 7};
  const CoherenceMemory memory{.previous = view(w)};
  ScoreInputs tensor{.numel = 4, .geometry = flat(4)};
  for (const auto& [m, expected] : {std::pair(along, 1.0), std::pair(against, -1.0), std::pair(none, 0.0)}) {
    tensor.exp_avg = view(m);
    EXPECT_NEAR(measure_retention({&tensor, 1}, {&memory, 1}).at(0), expected, 1e-15);
  }
}

TEST(Track, DeadPlacesAreForgottenAndTakeNoPart) {
  Model model = training_model({300}, {f32});
  model.set_masks(0.5, 9);
  Memory memory(model);
  const auto inputs = model.inputs();
  track_coherence(inputs, memory.states, 0.9);
  advance(model, 1);
  track_coherence(inputs, memory.states, 0.9);
  for (std::int64_t i = 0; i < 300; ++i) {
    const auto at = static_cast<std::size_t>(i);
    const bool live = is_live(inputs[0], i);
    EXPECT_EQ(memory.previous[0][at], live ? model.tensors[0].weight[at] : 0.0f);
    EXPECT_TRUE(live || std::bit_cast<std::uint32_t>(memory.average[0][at]) == 0u);
  }
}

#if defined(__SSE__)
TEST(Track, DenormalsCountInEveryMode) {
  const auto run = [](unsigned mode) {
    Model model = training_model({5000}, {f32}, 3);
    Generator random(5);
    Memory memory(model);
    std::vector<float> sums(5000);
    std::int64_t updates = 0;
    const unsigned before = _mm_getcsr();
    for (int step = 0; step < 4; ++step) {
      for (Array* array : {&model.tensors[0].weight, &model.tensors[0].exp_avg, &model.tensors[0].grad})
        for (std::size_t i = 0; i < 5000; ++i) array->set(i, tiniest * static_cast<float>(random.below(2000) - 1000));
      const auto inputs = model.inputs();
      const MovementMemory movement{view(sums.data()), &updates, 1.0f};
      _mm_setcsr(mode);
      track_coherence(inputs, memory.states, 0.9);
      accumulate_movement(inputs, {&movement, 1});
      EXPECT_EQ(_mm_getcsr() & ~0x3fu, mode);
      _mm_setcsr(before);
    }
    EXPECT_GT(memory.scalars[0].direction.weight, 0.0);
    return std::pair(memory.previous[0].bytes(), memory.scalars[0].direction.value);
  };
  EXPECT_EQ(run(0x1f80u), run(0x1f80u | 0x8040u));
}
#endif

TEST(Track, SketchPositionsAreFixedAndFewAndInside) {
  for (const std::int64_t numel : {0, 1, 3, 4, 63, 64, 65, 66, 127, 1000, 1 << 20}) {
    const auto positions = sketch_positions("layer.weight", numel, 3);
    EXPECT_EQ(static_cast<std::int64_t>(positions.size()), std::min<std::int64_t>(numel, 64)) << numel;
    EXPECT_TRUE(std::ranges::is_sorted(positions));
    EXPECT_EQ(std::set(positions.begin(), positions.end()).size(), positions.size()) << numel;
    if (!positions.empty()) {
      EXPECT_GE(positions.front(), 0);
      EXPECT_LT(positions.back(), numel);
    }
    EXPECT_EQ(positions, sketch_positions("layer.weight", numel, 3));
  }
  const auto huge = sketch_positions("w", std::int64_t{5} << 40, 0);
  EXPECT_GT(huge.back(), std::int64_t{4} << 40);
  EXPECT_NE(sketch_positions("a", 1000, 0), sketch_positions("b", 1000, 0));
  EXPECT_NE(sketch_positions("a", 1000, 0), sketch_positions("a", 1000, 1));
}

TEST(Track, SketchComparesWithTheStepBefore) {
  Model model = training_model({1000}, {f32});
  const auto positions = sketch_positions("w", 1000, 0);
  std::vector<float> previous(64, -77.0f);
  Coherence scalars;
  const SketchMemory memory{positions.data(), 64, previous.data(), &scalars};
  track_sketch(model.inputs(), {&memory, 1}, 0.9);
  EXPECT_EQ(scalars.direction.weight, 0.0);
  for (std::size_t i = 0; i < 64; ++i)
    EXPECT_EQ(previous[i], model.tensors[0].exp_avg[static_cast<std::size_t>(positions[i])]);
  for (std::size_t i = 0; i < 1000; ++i) model.tensors[0].exp_avg.set(i, -model.tensors[0].exp_avg[i]);
  track_sketch(model.inputs(), {&memory, 1}, 0.9);
  EXPECT_NEAR(scalars.direction.mean(), -1.0, 1e-12);
  EXPECT_EQ(scalars.updates, 2.0);
}

TEST(Track, ErrorsNameWhatIsMissing) {
  Model model = training_model({10}, {f32});
  Memory memory(model);
  auto inputs = model.inputs();
  EXPECT_THROW(track_coherence(inputs, {}, 0.9), ShapeError);
  EXPECT_THROW(track_coherence(inputs, memory.states, 1.0), ArgumentError);
  EXPECT_THROW(track_coherence(inputs, memory.states, NAN), ArgumentError);
  inputs[0].exp_avg = {};
  EXPECT_THROW(measure_retention(inputs, {}), ShapeError);
  try {
    measure_retention(inputs, memory.states);
    FAIL() << "accepted";
  } catch (const MissingStateError& error) {
    EXPECT_NE(std::string(error.what()).find("exp_avg"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("layer0"), std::string::npos);
  }
  inputs[0].weight.data = static_cast<char*>(inputs[0].weight.data) + 1;
  std::int64_t updates = 0;
  const MovementMemory movement{memory.average[0].view(), &updates, 1.0f};
  EXPECT_THROW(accumulate_movement(inputs, {&movement, 1}), LayoutError);
  EXPECT_EQ(updates, 0);
  EXPECT_EQ(memory.scalars[0].updates, 0.0);
}

TEST(Track, NamesStandForTheirFormulas) {
  EXPECT_EQ(std::get<Bitter3>(make_scorer("bitter10")).eps, 1e-12f);
  EXPECT_EQ(std::get<Bitter3>(make_scorer("bitter10s")).eps, 1e-12f);
  EXPECT_EQ(std::get<Bitter3>(make_scorer("bitter10c")).eps, 1e-12f);
  EXPECT_EQ(std::get<Bitter3>(make_scorer("bitter3")).eps, 1e-8f);
  EXPECT_TRUE(std::holds_alternative<Identity>(make_scorer("movement")));
}

}  // namespace
}  // namespace bittersweet::test
