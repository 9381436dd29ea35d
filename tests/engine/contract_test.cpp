// Every verb of every engine gives the bits of the reference engine, for every scorer and storage, at awkward sizes,
// under masks, and without touching a byte beside its outputs.
#include <functional>
#include <map>
#include <memory>

#include "bittersweet/score/score_view.hpp"
#include "support/compare.hpp"
#include "support/engines.hpp"
#include "support/inputs.hpp"
#include "support/orders.hpp"

namespace bittersweet::test {
namespace {

class EngineContract : public EngineTest {};
BITTERSWEET_FOR_EVERY(fast_engines, EngineContract);

constexpr DType f32 = DType::f32, f16 = DType::f16, bf16 = DType::bf16;
const std::vector<std::int64_t> small_sizes{1, 2, 3, 0, 15, 16, 17, 31, 63, 64, 65, 127, 2047, 2048, 2049};

Geometry conv(std::int64_t out, std::int64_t in, std::int64_t window) { return {out, in, window, in * window, window}; }
Geometry transposed(std::int64_t out, std::int64_t in) { return {out, in, 1, 1, out}; }

struct Variant {
  const char* name;
  std::function<Model()> make;
  bool large = false;
};

const std::vector<Variant>& variants() {
  static const std::vector<Variant> all{
      {"f32", [] { return training_model(small_sizes, {f32}); }},
      {"bf16 under masks, flush",
       [] {
         Model model = training_model(small_sizes, {bf16}, 2, Placement::flush);
         model.set_masks(0.3, 1);
         return model;
       }},
      {"f16 mostly dead",
       [] {
         Model model = training_model(small_sizes, {f16}, 3);
         model.set_masks(0.9, 2);
         return model;
       }},
      {"mixed dtypes with modifiers, flush",
       [] {
         Model model = training_model(small_sizes, {f32, f16, bf16, bf16, f32}, 4, Placement::flush);
         for (std::size_t t = 0; t < model.tensors.size(); ++t)
           model.tensors[t].modifier = std::vector{1.0f, 0.5f, 3.0f, 0.0f}[t % 4];
         return model;
       }},
      {"shapes",
       [] {
         Model model = training_model({33 * 65, 6 * 10 * 9, 24 * 40, 5 * 64}, {f32, bf16}, 5);
         model.tensors[0].geometry = matrix(33, 65);
         model.tensors[1].geometry = conv(6, 10, 9);
         model.tensors[2].geometry = transposed(24, 40);
         model.tensors[3].geometry = matrix(5, 64);
         model.set_masks(0.1, 3);
         return model;
       }},
      {"blocks",
       [] {
         Model model =
             training_model({12 * 5 * 9, 70 * 9, 4 * 6 * 30 * 9, 5 * 24 * 30, 6 * 700, 66 * 66}, {f32, bf16}, 10);
         model.tensors[0].geometry = {12, 5, 9, 45, 9, 3};          // a conv in groups
         model.tensors[1].geometry = {70, 1, 9, 9, 9, 70};          // depthwise
         model.tensors[2].geometry = {4 * 30, 6, 9, 9, 30 * 9, 4};  // a transposed conv in groups
         model.tensors[3].geometry = {5 * 30, 24, 1, 1, 30, 5};     // experts, inputs first
         model.tensors[4].geometry = {6, 700, 1, 700, 1, 3};        // experts, outputs first
         model.tensors[5].geometry = {66, 66, 1, 1, 33, 2};
         model.set_masks(0.2, 5);
         model.tensors[4].masked = false;
         return model;
       }},
      {"orders",
       [] {
         Model model = training_model({33 * 65, 64 * 64, 6 * 10 * 9, 2 * 2048, 25 * 4, 12}, {f32, bf16, f16}, 11);
         model.set_masks(0.3, 6);
         return ordered(model);
       }},
      {"orders of shapes",
       [] {
         Model model = training_model(
             {6 * 10 * 9, 24 * 40, 24 * 40, 12 * 7 * 9, 12 * 5 * 9, 5 * 24 * 30, 6 * 700, 5 * 24 * 30, 8 * 30 * 9},
             {f32, bf16}, 12);
         const std::vector<std::pair<Geometry, MemoryOrder>> shapes{
             {conv(6, 10, 9), {10, 9}},              // channels_last
             {matrix(24, 40), {24, 40}},             // a transposed matrix
             {transposed(24, 40), {40, 24}},         // (in, out) in memory as (out, in)
             {{12, 7, 9, 9, 12 * 9}, {12, 9}},       // a transposed conv in channels_last
             {{12, 5, 9, 45, 9, 3}, {5, 9}},         // a conv in groups, channels_last
             {{5 * 30, 24, 1, 1, 30, 5}, {24, 30}},  // experts, inputs first; in memory outputs first
             {{6, 700, 1, 700, 1, 3}, {6, 700}},     // experts as one transposed matrix: features leave blocks
             {{5 * 24, 30, 1, 30, 1, 5}, {24, 30}},  // experts, outputs first; in memory inputs first
             {conv(8, 30, 9), {8 * 30, 9}},          // kernel positions first: rows in pieces
         };
         for (std::size_t t = 0; t < shapes.size(); ++t) {
           model.tensors[t].geometry = shapes[t].first;
           if (t % 3 != 1) {
             model.tensors[t].mask = random_mask(model.tensors[t].numel, 0.3, t);
             model.tensors[t].masked = true;
           }
           model.tensors[t] = ordered(model.tensors[t], shapes[t].second, Placement::flush);
         }
         return model;
       }},
      {"any bits",
       [] {
         Model model = training_model({2049, 1000}, {f32}, 6);
         Generator random(7);
         for (Tensor& tensor : model.tensors)
           for (Array* array : {&tensor.weight, &tensor.exp_avg, &tensor.exp_avg_sq, &tensor.grad, &tensor.scores})
             for (std::size_t i = 0; i < array->size(); ++i) array->set(i, random.any_float());
         return model;
       }},
      {"several chunks",
       [] {
         Model model = training_model({65537, 5, 65536, 300}, {f32}, 8);
         model.set_masks(0.5, 4);
         model.tensors[2].masked = false;
         model.tensors[3].mask.fill(0);
         return model;
       },
       true},
      {"several chunks in orders",
       [] {
         Model model = training_model({257 * 256, 5, 3 * 145 * 151}, {f32}, 13);
         model.set_masks(0.4, 7);
         return ordered(model);
       },
       true},
      {"several chunks, mixed", [] { return training_model({65535, 65600}, {bf16, f16, f32}, 9, Placement::flush); },
       true},
  };
  return all;
}

// The work that the reference engine does once for all engines under test.
struct Case {
  const Variant* variant;
  std::shared_ptr<const Model> model;
  std::vector<ScoreInputs> inputs;
  ScoreView view;
  std::vector<Chunk> chunks;
  std::vector<Values> scores;
  Values quantiles;  // of the live scores that are numbers: 21 of them, or none

  Case(const Variant& which, std::shared_ptr<const Model> tensors, const Scorer& scorer)
      : variant(&which),
        model(std::move(tensors)),
        inputs(model->inputs()),
        view(make_view(inputs, scorer)),
        chunks(make_chunks(inputs)),
        scores(write(ReferenceEngine{})) {
    Values live;
    for (std::size_t t = 0; t < scores.size(); ++t)
      for (std::size_t i = 0; i < scores[t].size(); ++i)
        if (is_live(inputs[t], static_cast<std::int64_t>(i)) && !std::isnan(scores[t][i])) live.push_back(scores[t][i]);
    std::sort(live.begin(), live.end());
    for (std::size_t q = 0; q <= 20 && !live.empty(); ++q) quantiles.push_back(live[q * (live.size() - 1) / 20]);
  }

  template <class E>
  std::vector<Values> write(E&& engine) const {
    std::vector<Values> out;
    std::vector<float*> pointers;
    for (const ScoreInputs& tensor : inputs) {
      out.emplace_back(static_cast<std::size_t>(tensor.numel) + 1, -77.0f);
      pointers.push_back(out.back().data());
    }
    engine.write_scores(view, chunks, pointers);
    for (Values& values : out) {
      EXPECT_EQ(values.back(), -77.0f) << "written past the end";
      values.pop_back();
    }
    return out;
  }
  std::string label() const { return std::string(info_of(view.scorer).name) + " on " + variant->name; }
};

// f(case) for every scorer and variant; large ones with a few scorers.
template <class F>
void for_each_case(F&& f) {
  static const std::vector<std::unique_ptr<Case>> all = [] {
    std::vector<std::unique_ptr<Case>> cases;
    for (const Variant& variant : variants()) {
      const auto model = std::make_shared<const Model>(variant.make());
      for (const Scorer& scorer : all_scorers()) {
        const std::string_view name = info_of(scorer).name;
        if (variant.large && name != "bitter7" && name != "bitter5" && name != "random") continue;
        cases.push_back(std::make_unique<Case>(variant, model, scorer));
      }
    }
    return cases;
  }();
  for (const auto& one : all) {
    SCOPED_TRACE(one->label());
    f(*one);
    ASSERT_TRUE(one->model->intact()) << "a byte beside an input was written";
    if (testing::Test::HasFatalFailure()) return;
  }
}

TEST_P(EngineContract, WriteScores) {
  run([](auto& engine) {
    for_each_case([&](const Case& c) {
      const std::vector<Values> scores = c.write(engine);
      for (std::size_t t = 0; t < scores.size(); ++t)
        ASSERT_TRUE(same_floats(c.scores[t], scores[t])) << c.inputs[t].name;
    });
  });
}

TEST_P(EngineContract, SampleAndGather) {
  run([](auto& engine) {
    ReferenceEngine reference;
    for_each_case([&](const Case& c) {
      for (const LineSample plan : {LineSample{1, 0}, LineSample{67, 1}, LineSample{512, 0xfedcba9876543210u}}) {
        Values expected(static_cast<std::size_t>(plan.lines * LineSample::width)), found(expected.size());
        reference.sample(c.view, plan, expected.data());
        engine.sample(c.view, plan, found.data());
        ASSERT_TRUE(same_floats(expected, found)) << plan.lines << " lines";
      }
      std::vector<std::int64_t> positions;
      for (std::int64_t p = 0; p < c.view.size(); p += 1 + p % 5) positions.push_back(p);
      Values expected(positions.size()), found(positions.size());
      reference.gather(c.view, positions, expected.data());
      engine.gather(c.view, positions, found.data());
      ASSERT_TRUE(same_floats(expected, found));
      engine.gather(c.view, {}, nullptr);
    });
  });
}

// Ends at scores, between them, at zero, at infinity, and on one value.
std::vector<Bracket> brackets_for(const Case& c) {
  std::vector<Bracket> all{{-infinity, infinity}, {tiniest, infinity}, {0.0f, 0.0f}, {-1.0f, 1e-7f}};
  if (c.quantiles.empty()) return all;
  const float q30 = c.quantiles[6], q50 = c.quantiles[10], q55 = c.quantiles[11];
  all.insert(all.end(), {{q30, q55},
                         {q50, q50},
                         {tiniest, q50},
                         {std::nextafter(q50, -infinity), q55},
                         {c.quantiles.front(), c.quantiles.back()}});
  std::erase_if(all, [](const Bracket& bracket) { return bracket.low > bracket.high; });
  return all;
}

// What the reference makes of each bracket.
struct Bracketed {
  Bracket bracket;
  Workspace workspace;
  FreshMasks masks;
  BracketResult result;

  Bracketed(const Case& c, const Bracket& which)
      : bracket(which),
        masks(c.inputs),
        result(ReferenceEngine{}.bracket(c.view, c.chunks, which, masks.table(), c.view.size(), workspace)) {}
};

const std::vector<std::unique_ptr<Bracketed>>& bracketed(const Case& c) {
  static std::map<const Case*, std::vector<std::unique_ptr<Bracketed>>> known;
  auto& all = known[&c];
  if (all.empty())
    for (const Bracket& bracket : brackets_for(c)) all.push_back(std::make_unique<Bracketed>(c, bracket));
  return all;
}

TEST_P(EngineContract, Bracket) {
  run([](auto& engine) {
    Workspace workspace;
    for_each_case([&](const Case& c) {
      for (const auto& expected : bracketed(c))
        for (const bool heavy : {false, true}) {
          const Bracket bracket{expected->bracket.low, expected->bracket.high, heavy};
          const std::string label = "bracket " + show(bracket.low) + " to " + show(bracket.high);
          FreshMasks masks(c.inputs);
          const BracketResult found =
              engine.bracket(c.view, c.chunks, bracket, masks.table(), c.view.size(), workspace);
          ASSERT_EQ(found.total, expected->result.total) << label;
          ASSERT_EQ(found.chunk, expected->result.chunk) << label;
          ASSERT_FALSE(found.overflow);
          ASSERT_TRUE(same_masks(expected->masks.bits(), masks.bits())) << label;
          for (std::size_t k = 0; k < c.chunks.size(); ++k) {
            const Candidates &e = expected->result.candidates[k], &f = found.candidates[k];
            ASSERT_TRUE(same_floats({e.scores, e.count}, {f.scores, f.count})) << label << ", chunk " << k;
            ASSERT_TRUE(std::equal(e.offsets, e.offsets + e.count, f.offsets)) << label << ", chunk " << k;
          }
          constexpr std::int64_t room = 3, most_threads = 3;
          const BracketResult cramped = engine.bracket(c.view, c.chunks, bracket, {}, room, workspace);
          ASSERT_EQ(cramped.chunk, found.chunk) << label << " without masks and room";
          ASSERT_TRUE(cramped.overflow || found.total.inside <= room * most_threads) << label;
        }
    });
  });
}

TEST_P(EngineContract, Histogram) {
  run([](auto& engine) {
    ReferenceEngine reference;
    Workspace workspace;
    for_each_case([&](const Case& c) {
      const std::uint32_t key = c.quantiles.empty() ? key_of_zero : key_of(c.quantiles[10]);
      for (const Digit digit : {Digit{}, Digit{key >> 16, 16, 16}, Digit{key_of_zero >> 16, 16, 16}, Digit{0, 0, 11},
                                Digit{key >> 21, 11, 11}}) {
        std::vector<std::int64_t> expected(std::size_t{1} << digit.digit_bits, -1), found(expected);
        reference.histogram(c.view, c.chunks, digit, expected, workspace);
        engine.histogram(c.view, c.chunks, digit, found, workspace);
        ASSERT_EQ(found, expected) << digit.prefix_bits << " bits of prefix";
      }
    });
  });
}

// Ranges of one key, of few, of groups of keys, of all; with one unit bin a key, with several, and with wide ones.
TEST_P(EngineContract, Tally) {
  run([](auto& engine) {
    ReferenceEngine reference;
    for_each_case([&](const Case& c) {
      const Bracketed& all = *bracketed(c).front();  // everything but the infinities is a candidate
      std::vector<std::int64_t> units(c.inputs.size());
      for (std::size_t t = 0; t < units.size(); ++t) units[t] = t % 4 == 3 ? -1 : static_cast<std::int64_t>(3 * t);
      const std::uint32_t key = c.quantiles.empty() ? key_of_zero : key_of(c.quantiles[10]);
      for (const KeyRange& range :
           {KeyRange{key, 1, 0, 50, 1}, KeyRange{key - 3, 7, 0, 5, 10}, KeyRange{key_of_zero - 100, 70000, 4, 1, 100},
            KeyRange{1, ~0u - 1, 18, 1, 1000}, KeyRange{key, 0, 0, 1, 1}}) {
        std::vector<std::int64_t> expected(static_cast<std::size_t>(range.bins()) + 3, -1), found(expected);
        reference.tally(c.chunks, all.result.candidates, units, range, expected);
        engine.tally(c.chunks, all.result.candidates, units, range, found);
        ASSERT_EQ(found, expected) << range.keys << " keys from " << range.first;
        std::int64_t sum = 0, direct = 0;
        for (const std::int64_t n : found) sum += n;
        for (std::size_t k = 0; k < c.chunks.size(); ++k)
          for (std::uint32_t i = 0; i < all.result.candidates[k].count; ++i) {
            const std::uint32_t at = key_of(all.result.candidates[k].scores[i]);
            direct += units[c.chunks[k].tensor] >= 0 && at >= range.first && at - range.first < range.keys;
          }
        ASSERT_EQ(sum, direct);
      }
    });
  });
}

TEST_P(EngineContract, CountRuns) {
  run([](auto& engine) {
    ReferenceEngine reference;
    for_each_case([&](const Case& c) {
      for (std::size_t t = 0; t < c.inputs.size(); ++t) {
        // As a box (of two outer axes, where its size allows) of a tensor that is larger on each.
        const std::int64_t numel = c.inputs[t].numel, outer = numel % 6 == 0 ? 6 : 1;
        RunMap map{.length = numel % 12 == 0 ? numel / 12 : std::max<std::int64_t>(numel / outer, 1),
                   .parts = 3,
                   .part = 1,
                   .axes = 2,
                   .shape = {5, 9},
                   .offset = {2, 4},
                   .size = {numel % 12 == 0 ? 2 : 1, outer}};
        for (const RunRange& range : {RunRange{map, 0, 135, 1}, RunRange{map, 60, 40, 7}, RunRange{map, 67, 1, 1}})
          for (const float value : {0.0f, c.quantiles.empty() ? 1.0f : c.quantiles[10], infinity}) {
            std::vector<std::int64_t> expected(static_cast<std::size_t>(range.bins()) + 2, -1), found(expected);
            reference.count_runs(c.view, t, value, range, expected);
            engine.count_runs(c.view, t, value, range, found);
            ASSERT_EQ(found, expected) << c.inputs[t].name << ", " << show(value);
          }
      }
    });
  });
}

TEST_P(EngineContract, MomentsAndCount) {
  run([](auto& engine) {
    ReferenceEngine reference;
    for_each_case([&](const Case& c) {
      const Moments expected = reference.moments(c.view, c.chunks), found = engine.moments(c.view, c.chunks);
      ASSERT_EQ(found.finite, expected.finite);
      ASSERT_EQ(found.nan, expected.nan);
      ASSERT_EQ(found.total, expected.total);
      ASSERT_EQ(std::bit_cast<std::uint64_t>(found.sum), std::bit_cast<std::uint64_t>(expected.sum));
      ASSERT_EQ(std::bit_cast<std::uint64_t>(found.sum_of_squares),
                std::bit_cast<std::uint64_t>(expected.sum_of_squares));

      Values thresholds{-infinity, -1.0f, -0.0f, 0.0f, tiniest, infinity};
      thresholds.insert(thresholds.end(), c.quantiles.begin(), c.quantiles.end());
      std::vector<CountsAt> expected_counts(thresholds.size()), counts(thresholds.size(), {-1, -1});
      reference.count(c.view, c.chunks, thresholds, expected_counts);
      engine.count(c.view, c.chunks, thresholds, counts);
      ASSERT_EQ(counts, expected_counts);
    });
  });
}

TEST_P(EngineContract, WriteMaskAndSettle) {
  run([](auto& engine) {
    ReferenceEngine reference;
    Workspace workspace;
    for_each_case([&](const Case& c) {
      if (c.quantiles.empty()) return;
      for (const float threshold : {c.quantiles[10], c.quantiles[0], 0.0f, -infinity, infinity}) {
        std::vector<ChunkQuota> quotas;  // not every chunk, and every kind of share
        for (std::uint32_t k = 0; k < c.chunks.size(); ++k)
          if (k % 4 != 3) quotas.push_back({k, std::vector<std::int64_t>{0, 1, 5, all_ties}[k % 3 + (k > 4)]});
        FreshMasks expected(c.inputs), found(c.inputs);
        const std::int64_t nan = reference.write_mask(c.view, c.chunks, quotas, threshold, expected.table());
        ASSERT_EQ(engine.write_mask(c.view, c.chunks, quotas, threshold, found.table()), nan);
        ASSERT_TRUE(same_masks(expected.bits(), found.bits())) << "threshold " << show(threshold);
      }
      const Bracket bracket{c.quantiles[5], c.quantiles[15]};
      FreshMasks expected(c.inputs), found(c.inputs);
      const BracketResult result =
          reference.bracket(c.view, c.chunks, bracket, expected.table(), c.view.size(), workspace);
      reference.bracket(c.view, c.chunks, bracket, found.table(), c.view.size(), workspace);
      std::vector<std::int64_t> ties(c.chunks.size());
      for (std::size_t k = 0; k < ties.size(); ++k) ties[k] = k % 3 == 2 ? all_ties : static_cast<std::int64_t>(k % 3);
      reference.settle(c.chunks, result.candidates, c.quantiles[10], ties, expected.table());
      engine.settle(c.chunks, result.candidates, c.quantiles[10], ties, found.table());
      ASSERT_TRUE(same_masks(expected.bits(), found.bits())) << "after settle";

      // The same and a survey, where the live bits of some chunks are known.
      Unsettled left{{}, result.candidates, ties, c.quantiles[10]};
      for (std::size_t k = 0; k < c.chunks.size(); ++k) {
        const BracketCounts& counts = result.chunk[k];
        left.live.push_back(k % 3 == 1 ? -1 : counts.inside + counts.equal_high + counts.above + counts.nan);
      }
      FreshMasks again(c.inputs);
      reference.bracket(c.view, c.chunks, bracket, again.table(), c.view.size(), workspace);
      std::vector<std::int64_t> live(c.inputs.size()), expected_live(c.inputs.size());
      const std::int64_t rows = reference.survey(c.inputs, c.chunks, expected.read_only(), expected_live);
      ASSERT_EQ(engine.settle_and_survey(c.inputs, c.chunks, left, again.table(), live), rows);
      ASSERT_EQ(live, expected_live);
      ASSERT_TRUE(same_masks(expected.bits(), again.bits())) << "after settle_and_survey";
    });
  });
}

TEST_P(EngineContract, GroupMask) {
  run([](auto& engine) {
    ReferenceEngine reference;
    for_each_case([&](const Case& c) {
      for (std::size_t t = 0; t < c.inputs.size(); ++t)
        for (const GroupRule rule : {GroupRule{0, c.inputs[t].geometry.row_size() / 2, 3}, GroupRule{4, 2, 0},
                                     GroupRule{2, 1, 0}, GroupRule{0, 0, 0}, GroupRule{5, 5, 0}}) {
          FreshMasks expected(c.inputs), found(c.inputs);
          const std::int64_t nan = reference.group_mask(c.view, t, rule, expected.table());
          ASSERT_EQ(engine.group_mask(c.view, t, rule, found.table()), nan);
          ASSERT_TRUE(same_masks(expected.bits(), found.bits()))
              << c.inputs[t].name << " in groups of " << rule.group << ", " << rule.base << " each";
        }
    });
  });
}

TEST_P(EngineContract, ApplyVerifyPopcount) {
  run([](auto& engine) {
    ReferenceEngine reference;
    for (const Variant& variant : variants()) {
      const Model untouched = variant.make();
      for (const std::uint32_t which : {roles::weight, roles::weight | roles::exp_avg | roles::exp_avg_sq,
                                        roles::max_exp_avg_sq | roles::grad, 31u}) {
        SCOPED_TRACE(variant.name);
        const Model model = untouched, expected = untouched;
        const auto inputs = model.inputs(), reference_inputs = expected.inputs();
        const std::vector<Chunk> chunks = make_chunks(inputs);
        std::vector<Words> words;
        std::vector<const std::uint64_t*> masks;
        for (std::size_t t = 0; t < inputs.size(); ++t) {
          words.push_back(random_mask(inputs[t].numel, t % 3 == 2 ? 0.95 : 0.4, 50 + t, Placement::flush));
          masks.push_back(t % 5 == 4 ? nullptr : words.back().data());
        }
        std::vector<std::int64_t> counts(inputs.size(), -1), expected_counts(inputs.size(), -2);
        reference.verify_mask(reference_inputs, chunks, masks, which, expected_counts);
        engine.verify_mask(inputs, chunks, masks, which, counts);
        ASSERT_EQ(counts, expected_counts);
        ASSERT_GT(std::accumulate(counts.begin(), counts.end(), std::int64_t{0}), 0);

        reference.apply_mask(reference_inputs, chunks, masks, which);
        engine.apply_mask(inputs, chunks, masks, which);
        ASSERT_EQ(model.bytes(), expected.bytes());
        ASSERT_TRUE(model.intact());
        engine.verify_mask(inputs, chunks, masks, which, counts);
        ASSERT_EQ(counts, std::vector<std::int64_t>(inputs.size(), 0));

        reference.popcount(inputs, masks, expected_counts);
        engine.popcount(inputs, masks, counts);
        ASSERT_EQ(counts, expected_counts);
      }
    }
  });
}

// Against element-by-element logic: rows that cross chunks and words, interleaved rows, convolutions, no elements.
TEST_P(EngineContract, SurveyCountsLiveElementsAndEmptiedRows) {
  const std::vector<std::pair<Geometry, MemoryOrder>> shapes{
      {matrix(37, 100), {}},
      {matrix(3, 70'000), {}},
      {matrix(1024, 64), {}},
      {{96, 50, 1, 1, 96}, {}},
      {{8, 16, 9, 144, 9}, {}},
      {{0, 5, 1, 5, 1}, {}},
      {matrix(1, 1), {}},
      {{500, 300, 1, 1, 500}, {}},
      {matrix(2500, 33), {}},
      {{96, 50, 1, 1, 32, 3}, {}},
      {{30, 7, 9, 63, 9, 5}, {}},
      {{600, 300, 1, 1, 200, 3}, {}},
      {{60, 11, 9, 9, 180, 3}, {}},
      {{600, 20, 9, 180, 9}, {20, 9}},       // channels_last over two chunks
      {{60, 2000, 1, 1, 60}, {2000, 60}},    // (in, out) in memory as (out, in)
      {matrix(2500, 33), {2500, 33}},        // transposed
      {{60, 11, 9, 9, 180, 3}, {20, 9}},     // a transposed conv in groups, channels_last
      {{600, 20, 9, 180, 9}, {12'000, 9}}};  // kernel positions first
  run([&](auto& engine) {
    std::vector<Words> own, fresh;
    std::vector<ScoreInputs> tensors;
    std::vector<std::int64_t> expected_live;
    std::int64_t expected_rows = 0;
    for (std::size_t t = 0; t < shapes.size(); ++t) {
      const Geometry& g = shapes[t].first;
      const MemoryOrder& order = shapes[t].second;
      const std::int64_t numel = g.rows * g.row_size();
      own.push_back(random_mask(numel, 0.3, 7 * t + 1));
      fresh.push_back(random_mask(numel, 0.5, 7 * t + 2));
      const std::int64_t rows = std::max<std::int64_t>(g.rows / g.blocks, 1);
      const auto each = [&](std::int64_t row, auto&& f) {
        for (std::int64_t i = 0; i < g.inputs; ++i)
          for (std::int64_t c = 0; c < g.inner; ++c)
            f(order.memory_of(row / rows * rows * g.row_size() + row % rows * g.row_stride + i * g.input_stride + c));
      };
      std::int64_t live = 0;
      for (std::int64_t row = 0; row < g.rows; ++row) {
        if (row % 3 == 0) each(row, [&](std::int64_t i) { bits::clear(fresh[t].data(), i); });
        if (row % 6 == 0) each(row, [&](std::int64_t i) { bits::clear(own[t].data(), i); });
        bool had = t % 2 == 0 && g.inputs > 0, has = false;
        each(row, [&](std::int64_t i) {
          had |= bits::get(own[t].data(), i);
          has |= bits::get(fresh[t].data(), i);
          live += bits::get(fresh[t].data(), i);
        });
        expected_rows += had && !has;
      }
      expected_live.push_back(live);
      tensors.push_back({.mask = t % 2 == 0 ? nullptr : own[t].data(), .numel = numel, .geometry = g, .order = order});
    }
    std::vector<const std::uint64_t*> masks;
    for (const Words& words : fresh) masks.push_back(words.data());
    std::vector<std::int64_t> live(shapes.size(), -1);
    const std::vector<Chunk> chunks = make_chunks(tensors);
    EXPECT_EQ(engine.survey(tensors, chunks, masks, live), expected_rows);
    EXPECT_EQ(live, expected_live);
    EXPECT_GT(expected_rows, 1000);
    std::vector<std::uint64_t*> table;
    for (Words& words : fresh) table.push_back(words.data());
    std::ranges::fill(live, -1);
    Unsettled nothing;
    nothing.live.assign(chunks.size(), -1);
    EXPECT_EQ(engine.settle_and_survey(tensors, chunks, nothing, table, live), expected_rows);
    EXPECT_EQ(live, expected_live);
  });
}

}  // namespace
}  // namespace bittersweet::test
