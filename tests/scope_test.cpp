// Scopes and distributions: how much each tensor gives, by hand and in sums; and masks of rows and N:M groups against
// brute force, in every memory layout, on every engine.
#include "bittersweet/scope.hpp"

#include "bittersweet/flow.hpp"
#include "support/compare.hpp"
#include "support/engines.hpp"
#include "support/inputs.hpp"
#include "support/orders.hpp"

namespace bittersweet::test {
namespace {

using Counts = std::vector<std::int64_t>;

TEST(Scopes, Parse) {
  EXPECT_EQ(parse_scope("global").kind, Scope::global);
  EXPECT_EQ(parse_scope("tensor").kind, Scope::tensor);
  EXPECT_EQ(parse_scope("row").kind, Scope::row);
  const Scope two_of_four = parse_scope("2:4");
  EXPECT_EQ(two_of_four.kind, Scope::n_of_m);
  EXPECT_EQ(two_of_four.keep, 2);
  EXPECT_EQ(two_of_four.of, 4);
  EXPECT_EQ(parse_scope("0:3").keep, 0);
  EXPECT_EQ(parse_scope("16:16").of, 16);
  for (const char* wrong :
       {"", "rows", "Global", "5:4", "2:0", ":4", "2:", "-1:4", "2:4:8", "2.5:4", "a:b", "1:99999", "0:0", " 2:4"})
    EXPECT_THROW(parse_scope(wrong), ArgumentError) << "'" << wrong << "'";
}

// ---- allocation ----

struct Layers {
  std::vector<ScoreInputs> tensors;
  Counts dead;
  std::int64_t total = 0;
  Layers(const std::vector<std::pair<std::int64_t, std::int64_t>>& shapes, Counts dead_counts = {})
      : dead(std::move(dead_counts)) {
    for (const auto& [rows, columns] : shapes) {
      tensors.push_back({.numel = rows * columns, .geometry = matrix(rows, columns)});
      total += rows * columns;
    }
    dead.resize(tensors.size());
  }
  Counts give(Distribution distribution, double sparsity, double most = 1.0) const {
    return allocate(tensors, dead, distribution, resolve({.sparsity = sparsity}, total), total, sparsity, most);
  }
};

std::int64_t sum(const Counts& counts) { return std::accumulate(counts.begin(), counts.end(), std::int64_t{0}); }

TEST(Allocate, UniformRoundsEachTensorAlone) {
  const Layers layers({{10, 10}, {3, 5}, {1, 1}, {7, 1}});
  EXPECT_EQ(layers.give(Distribution::uniform, 0.29), (Counts{29, 4, 0, 2}));
  EXPECT_EQ(layers.give(Distribution::uniform, 0.5), (Counts{50, 8, 1, 4}));
  EXPECT_EQ(layers.give(Distribution::uniform, 0.0), (Counts{0, 0, 0, 0}));
  EXPECT_EQ(layers.give(Distribution::uniform, 1.0), (Counts{100, 15, 1, 7}));
  const Layers partly_dead({{10, 10}, {3, 5}}, {60, 2});
  EXPECT_EQ(partly_dead.give(Distribution::uniform, 0.5), (Counts{60, 8}));
}

// Kept counts proportional to rows + columns. By hand: 100 x 100 and 20 x 20 at half of 10,400: 5,200 kept in parts
// 200 : 40, that is 4,333.3 and 866.7, but the second has only 400, so 4,800 and 400.
TEST(Allocate, ErkByHand) {
  EXPECT_EQ(Layers({{100, 100}, {20, 20}}).give(Distribution::erk, 0.5), (Counts{5200, 0}));
  // 90 % of 100 x 100, 50 x 200, 40 x 10: 2,040 kept in parts 200 : 250 : 50 = 816 : 1020 : 204.
  EXPECT_EQ(Layers({{100, 100}, {50, 200}, {40, 10}}).give(Distribution::erk, 0.9), (Counts{9184, 8980, 196}));
  // The shape's own sum of sizes where it is given: a conv of 8 x 4 x 3 x 3 has 18, not 8 + 4.
  Layers conv({{8, 36}, {16, 16}});
  conv.tensors[0].geometry = {8, 4, 9, 36, 9};
  conv.tensors[0].dimension_sum = 18;
  // 288 + 256 = 544, half: 272 kept in parts 18 : 32 = 97.92 : 174.08; the larger remainder of the pruned goes first.
  EXPECT_EQ(conv.give(Distribution::erk, 0.5), (Counts{190, 82}));
}

// s times 0.7 .. 1.3 over depth, renormalised. Three equal layers: factors 0.7, 1, 1.3 already average to one.
TEST(Allocate, LayerAdaptiveByHand) {
  EXPECT_EQ(Layers({{10, 100}, {10, 100}, {10, 100}}).give(Distribution::layer_adaptive, 0.5), (Counts{350, 500, 650}));
  EXPECT_EQ(Layers({{10, 100}}).give(Distribution::layer_adaptive, 0.5), (Counts{500}));
  // 100 and 300: shares 70 : 390 of 200 = 30.43 : 169.57.
  EXPECT_EQ(Layers({{10, 10}, {10, 30}}).give(Distribution::layer_adaptive, 0.5), (Counts{30, 170}));
  // At 0.9 the last would give 1.17: capped at 0.95, and the others make up for it in their proportions 0.7 : 1.
  const Counts capped = Layers({{10, 100}, {10, 100}, {10, 100}}).give(Distribution::layer_adaptive, 0.9);
  EXPECT_EQ(capped, (Counts{800, 950, 950}));
}

TEST(Allocate, SumsAndBounds) {
  Generator random(1);
  for (int round = 0; round < 500; ++round) {
    std::vector<std::pair<std::int64_t, std::int64_t>> shapes;
    Counts dead;
    for (std::int64_t t = 0, n = 1 + random.below(12); t < n; ++t) {
      shapes.emplace_back(1 + random.below(200), random.below(20) == 0 ? 0 : 1 + random.below(100));
      dead.push_back(random.below(3) ? 0 : random.below(shapes.back().first * shapes.back().second + 1));
    }
    const Layers layers(shapes, dead);
    const double sparsity = random.below(8) ? random.uniform() : static_cast<double>(random.below(2));
    for (const Distribution distribution : {Distribution::uniform, Distribution::erk, Distribution::layer_adaptive}) {
      const double most = random.below(2) ? 1.0 : 0.5;
      const Counts given = layers.give(distribution, sparsity, most);
      const std::int64_t k = resolve({.sparsity = sparsity}, layers.total);
      const double cap = distribution == Distribution::layer_adaptive ? std::max(0.95, sparsity) : 1.0;
      std::int64_t least = 0, greatest = 0;
      for (std::size_t t = 0; t < given.size(); ++t) {
        const auto n = static_cast<double>(layers.tensors[t].numel);
        const auto high = std::max(dead[t], static_cast<std::int64_t>(std::ceil(std::min(cap, most) * n)));
        ASSERT_GE(given[t], dead[t]) << "round " << round;
        ASSERT_LE(given[t], std::min(layers.tensors[t].numel, high)) << "round " << round;
        least += dead[t];
        greatest += std::min(layers.tensors[t].numel, high);
      }
      if (distribution == Distribution::uniform) continue;
      ASSERT_EQ(sum(given), std::clamp(k, least, greatest)) << "round " << round;
    }
  }
}

TEST(Allocate, RoundToSumByLargestRemainder) {
  const std::vector<double> wanted{1.2, 2.7, 3.7, 4.4};
  const auto rounded = [&](const Counts& high, std::int64_t total) {
    Counts k(4);
    detail::round_to_sum(
        OneThread{}, 4, total, [&](std::int64_t i) { return wanted[static_cast<std::size_t>(i)]; },
        [&](std::int64_t i) { return detail::Counts{0, high[static_cast<std::size_t>(i)]}; }, k.data());
    return k;
  };
  const Counts high{9, 9, 9, 9};
  EXPECT_EQ(rounded(high, 10), (Counts{1, 2, 3, 4}));
  EXPECT_EQ(rounded(high, 11), (Counts{1, 3, 3, 4}));  // equal remainders: the lower first
  EXPECT_EQ(rounded(high, 12), (Counts{1, 3, 4, 4}));
  EXPECT_EQ(rounded({9, 2, 9, 9}, 12), (Counts{1, 2, 4, 5}));
  EXPECT_EQ(rounded(high, 8), (Counts{1, 1, 2, 4}));          // and likewise down
  EXPECT_EQ(rounded(high, 21), (Counts{3, 5, 6, 7}));         // more than one each
  EXPECT_EQ(rounded({2, 2, 2, 2}, 9), (Counts{2, 2, 2, 2}));  // as many as there may be
}

TEST(GroupRules, OfRowsAndGroups) {
  const ScoreInputs tensor{.numel = 50, .geometry = matrix(5, 10), .name = "w"};
  const Scope row{Scope::row};
  GroupRule rule = group_rule(tensor, row, Rounding::nearest, Remainder::error, true, 0.35, 0);
  EXPECT_EQ(rule.base, 4);  // floor(3.5 + 0.5)
  EXPECT_EQ(pruned_by(tensor.geometry, rule), 20);
  rule = group_rule(tensor, row, Rounding::floor, Remainder::error, true, 0.39, 0);
  EXPECT_EQ(rule.base, 3);
  rule = group_rule(tensor, row, Rounding::nearest, Remainder::error, false, 0, 23);  // 23 over 5 rows
  EXPECT_EQ(rule.base, 4);
  EXPECT_EQ(rule.extra, 3);
  EXPECT_EQ(pruned_by(tensor.geometry, rule), 23);

  const Scope two_of_four = parse_scope("2:4"), one_of_five = parse_scope("1:5");
  EXPECT_THROW(group_rule(tensor, two_of_four, Rounding::nearest, Remainder::error, true, 0.5, 0), ShapeError);
  rule = group_rule(tensor, two_of_four, Rounding::nearest, Remainder::keep, true, 0.5, 0);
  EXPECT_EQ(rule.group, 4);
  EXPECT_EQ(rule.base, 2);
  EXPECT_EQ(pruned_by(tensor.geometry, rule), 5 * 2 * 2);
  EXPECT_EQ(group_rule(tensor, one_of_five, Rounding::nearest, Remainder::error, true, 0.8, 0).base, 4);
  EXPECT_EQ(group_rule(tensor, one_of_five, Rounding::nearest, Remainder::error, true, 0.5, 0).base, 3);
  EXPECT_EQ(group_rule(tensor, one_of_five, Rounding::nearest, Remainder::error, true, 1.0, 0).base, 4);  // one is kept
}

// ---- masks of groups, against brute force ----

class GroupMasks : public EngineTest {};
BITTERSWEET_FOR_EVERY(engines, GroupMasks);

struct Layout {
  const char* name;
  Geometry geometry;
  MemoryOrder order{};
};
const Layout layouts[] = {
    {"linear", matrix(130, 24)},
    {"one row", matrix(1, 300)},
    {"one column", matrix(300, 1)},
    {"conv", {70, 12, 9, 108, 9}},
    {"wide conv", {3, 260, 9, 2340, 9}},
    {"wide linear", matrix(2, 2100)},
    {"transposed", {66, 40, 1, 1, 66}},
    {"transposed, blocks that start on mask words", {192, 23, 1, 1, 192}},
    {"transposed conv", {70, 12, 9, 9, 630}},
    {"wide transposed conv", {130, 5, 49, 49, 6370}},
    {"inputs that 4 does not divide", matrix(9, 23)},
    {"grouped conv", {12, 5, 9, 45, 9, 3}},
    {"depthwise conv", {70, 1, 9, 9, 9, 70}},
    {"grouped transposed conv", {72, 8, 9, 9, 216, 3}},
    {"grouped transposed conv of many rows", {260, 8, 1, 1, 130, 2}},
    {"depthwise transposed conv", {7, 1, 25, 25, 25, 7}},
    {"experts, outputs first", {40, 24, 1, 24, 1, 5}},
    {"experts, inputs first", {150, 24, 1, 1, 30, 5}},
    {"experts, blocks that start on mask words", {384, 12, 1, 1, 192, 2}},
    {"conv, channels_last", {70, 12, 9, 108, 9}, {12, 9}},
    {"wide conv, channels_last", {3, 260, 9, 2340, 9}, {260, 9}},
    {"conv, last axes swapped", {20, 12, 15, 180, 15}, {5, 3}},
    {"grouped conv, channels_last", {12, 5, 9, 45, 9, 3}, {5, 9}},
    {"conv, outputs last", {70, 12, 9, 108, 9}, {70, 108}},
    {"conv, kernel first", {70, 12, 9, 108, 9}, {840, 9}},
    {"linear, transposed in memory", matrix(130, 24), {130, 24}},
    {"linear, transposed on mask words", matrix(192, 23), {192, 23}},
    {"linear, oddly folded", matrix(130, 24), {5, 39}},
    {"(in, out), transposed in memory", {66, 40, 1, 1, 66}, {40, 66}},
    {"(in, out), oddly folded", {66, 40, 1, 1, 66}, {20, 33}},
    {"transposed conv, channels_last", {70, 12, 9, 9, 630}, {70, 9}},
    {"transposed conv, inputs last", {70, 12, 9, 9, 630}, {12, 630}},
    {"grouped transposed conv, channels_last", {72, 8, 9, 9, 216, 3}, {24, 9}},
    {"experts, outputs first, inputs first in memory", {40, 24, 1, 24, 1, 5}, {8, 24}},
    {"experts, outputs first, one transposed matrix", {40, 24, 1, 24, 1, 5}, {40, 24}},
    {"experts, inputs first, outputs first in memory", {150, 24, 1, 1, 30, 5}, {24, 30}},
    {"experts, inputs first, experts last in memory", {150, 24, 1, 1, 30, 5}, {5, 720}},
};

// Element of (row, input, inner), counted from its block.
std::int64_t at(const Geometry& g, std::int64_t row, std::int64_t input, std::int64_t inner) {
  const std::int64_t rows = g.rows / g.blocks, block = row / rows;
  return block * rows * g.inputs * g.inner + (row - block * rows) * g.row_stride + input * g.input_stride + inner;
}

// Element by element: the same elements in the same rows, in logical order where it is said so.
TEST(Layouts, RowsInMemory) {
  int kinds[3]{}, features = 0;
  for (const Layout& layout : layouts) {
    SCOPED_TRACE(layout.name);
    const Geometry& g = layout.geometry;
    const RowLayout found = rows_in_memory(g, layout.order);
    const Geometry& m = found.geometry;
    ++kinds[found.kind];
    const std::vector<std::size_t> logical = logical_indices(g.rows * g.row_size(), layout.order);
    Geometry walk = g;
    walk.input_stride = found.feature_stride;
    for (std::size_t i = 0; i < logical.size() && found.feature_stride > 0; ++i, ++features)
      ASSERT_EQ(walk.feature_of(static_cast<std::int64_t>(i)), g.feature_of(static_cast<std::int64_t>(logical[i])));
    if (found.kind == RowLayout::scattered) continue;
    ASSERT_EQ(m.rows, g.rows);
    ASSERT_EQ(m.row_size(), g.row_size());
    for (std::int64_t row = 0; row < g.rows; ++row) {
      std::vector<std::size_t> expected, own;
      for (std::int64_t e = 0; e < g.row_size(); ++e) {
        expected.push_back(static_cast<std::size_t>(at(g, row, e / g.inner, e % g.inner)));
        own.push_back(logical[static_cast<std::size_t>(at(m, row, e / m.inner, e % m.inner))]);
      }
      if (found.kind == RowLayout::permuted) std::sort(own.begin(), own.end());
      ASSERT_EQ(own, expected) << "row " << row;
    }
  }
  EXPECT_GT(kinds[RowLayout::strided], 20);
  EXPECT_GT(kinds[RowLayout::permuted], 3);
  EXPECT_GT(kinds[RowLayout::scattered], 3);
  EXPECT_GT(features, 1000);
}

TEST(Layouts, InputFeatures) {
  for (const Layout& layout : layouts) {
    const Geometry& g = layout.geometry;
    std::vector<int> met(static_cast<std::size_t>(g.rows * g.inputs * g.inner));
    for (std::int64_t row = 0; row < g.rows; ++row) {
      ASSERT_EQ(g.first_of(row), at(g, row, 0, 0)) << layout.name;
      for (std::int64_t input = 0; input < g.inputs; ++input)
        for (std::int64_t inner = 0; inner < g.inner; ++inner) {
          const std::int64_t index = at(g, row, input, inner), block = row / (g.rows / g.blocks);
          ASSERT_EQ(g.feature_of(index), block * g.inputs + input) << layout.name;
          ++met[static_cast<std::size_t>(index)];
        }
    }
    ASSERT_EQ(met, std::vector<int>(met.size(), 1)) << layout.name;
    ASSERT_EQ(g.features(), g.blocks * g.inputs);
  }
}

// The members of every group: a row's all elements, or `group` consecutive inputs at one inner position.
std::vector<std::vector<std::int64_t>> groups_of(const Geometry& g, std::int64_t group) {
  std::vector<std::vector<std::int64_t>> all;
  for (std::int64_t row = 0; row < g.rows; ++row) {
    if (group == 0) {
      all.emplace_back();
      for (std::int64_t input = 0; input < g.inputs; ++input)
        for (std::int64_t inner = 0; inner < g.inner; ++inner) all.back().push_back(at(g, row, input, inner));
      continue;
    }
    for (std::int64_t inner = 0; inner < g.inner; ++inner)
      for (std::int64_t first = 0; first + group <= g.inputs; first += group) {
        all.emplace_back();
        for (std::int64_t input = first; input < first + group; ++input) all.back().push_back(at(g, row, input, inner));
      }
  }
  return all;
}

// One by one, prunes the lowest live score of a group (the first of equals) until `share` of it are dead.
std::vector<std::uint64_t> brute_force(const Tensor& tensor, const GroupRule& rule) {
  std::vector<std::uint64_t> keep(static_cast<std::size_t>(bits::words(tensor.numel)));
  for (std::int64_t i = 0; i < tensor.numel; ++i)
    if (!tensor.masked || bits::get(tensor.mask.data(), i)) bits::set(keep.data(), i);
  const auto groups = groups_of(tensor.geometry, rule.group);
  for (std::size_t number = 0; number < groups.size(); ++number) {
    const auto per_row = groups.size() / static_cast<std::size_t>(tensor.geometry.rows);
    const auto row = static_cast<std::int64_t>(number / per_row);
    std::int64_t left = rule.base + (row < rule.extra);
    for (const std::int64_t i : groups[number]) left -= !bits::get(keep.data(), i);
    for (; left > 0; --left) {
      std::int64_t lowest = -1;
      for (const std::int64_t i : groups[number]) {
        const float score = std::fabs(tensor.weight[static_cast<std::size_t>(i)]);
        if (!bits::get(keep.data(), i) || std::isnan(score)) continue;
        if (lowest < 0 || score < std::fabs(tensor.weight[static_cast<std::size_t>(lowest)])) lowest = i;
      }
      if (lowest < 0) break;
      bits::clear(keep.data(), lowest);
    }
  }
  return keep;
}

TEST_P(GroupMasks, AreThoseOfBruteForce) {
  run([](auto& engine) {
    std::uint64_t seed = 0;
    for (const Layout& layout : layouts)
      for (const char* name : {"half_normal", "three_values", "infinities"})
        for (const double dead : {0.0, 0.4}) {
          const Geometry& g = layout.geometry;
          Model model = model_of({values_named(name, g.rows * g.inputs * g.inner, ++seed)},
                                 seed % 3 == 0 ? DType::bf16 : DType::f32, Placement::flush);
          model.tensors[0].geometry = g;
          if (dead > 0) model.set_masks(dead, seed);
          const Tensor moved = ordered(model.tensors[0], layout.order, Placement::flush);
          const std::vector<ScoreInputs> inputs{moved.inputs()};
          for (const GroupRule rule :
               {GroupRule{0, g.row_size() / 3, 0}, GroupRule{0, g.row_size() / 2, g.rows / 2}, GroupRule{4, 2, 0},
                GroupRule{2, 1, 0}, GroupRule{4, 4, 0}, GroupRule{7, 3, 0}, GroupRule{100, 41, 0}}) {
            FreshMasks masks(inputs);
            ASSERT_EQ(engine.group_mask(make_view(inputs, Magnitude{}), 0, rule, masks.table()), 0);
            ASSERT_TRUE(same_words(brute_force(model.tensors[0], rule), logical_bits(masks.bits(), inputs)[0]))
                << layout.name << ", " << name << ", dead " << dead << ", groups of " << rule.group;
          }
        }
  });
}

TEST_P(GroupMasks, NaNIsCountedAndNeverPruned) {
  run([](auto& engine) {
    for (const Geometry& geometry : {matrix(40, 24), matrix(8, 120), Geometry{40, 24, 1, 1, 40}}) {
      Values values = values_named("infinities", 40 * 24, 1);
      for (std::size_t i = 0; i < values.size(); i += 5) values[i] = i % 2 == 0 ? not_a_number : -not_a_number;
      Model model = model_of({values});
      model.tensors[0].geometry = geometry;
      model.set_masks(0.2, 4);
      const auto inputs = model.inputs();
      std::int64_t nan = 0;
      for (std::size_t i = 0; i < values.size(); ++i)
        nan += std::isnan(values[i]) && bits::get(inputs[0].mask, static_cast<std::int64_t>(i));
      for (const GroupRule rule : {GroupRule{0, geometry.inputs - 1, 0}, GroupRule{4, 3, 0}, GroupRule{4, 4, 0}}) {
        FreshMasks masks(inputs);
        EXPECT_EQ(engine.group_mask(make_view(inputs, Magnitude{}), 0, rule, masks.table()), nan);
        ASSERT_TRUE(same_words(brute_force(model.tensors[0], rule), masks.bits()[0]));
      }
    }
  });
}

// Scores of both signs, which no absolute value hides: denormals, zeros of both signs, infinities, and few values.
TEST_P(GroupMasks, SignedScoresAreThoseOfTheReference) {
  run([](auto& engine) {
    ReferenceEngine reference;
    Generator random(11);
    for (const bool few : {false, true}) {
      Model model = training_model({37 * 260}, {DType::f32}, 12);
      model.tensors[0].geometry = matrix(37, 260);
      for (std::size_t i = 0; i < model.tensors[0].scores.size(); ++i) {
        const float any = random.any_float();
        const float rare[] = {0.0f, -0.0f, 1e-45f, -1e-45f, 1.0f, -1.0f};
        model.tensors[0].scores.set(i, few ? rare[std::bit_cast<std::uint32_t>(any) % 6] : any);
      }
      for (const double dead : {0.0, 0.5}) {
        if (dead > 0) model.set_masks(dead, 13);
        const auto inputs = model.inputs();
        const ScoreView view = make_view(inputs, Identity{});
        for (std::int64_t k = 0; k <= 260; k += 13)
          for (const std::int64_t group : {0, 2, 4, 8, 16, 65}) {
            const GroupRule rule{group, group > 0 ? k % (group + 1) : k, 5};
            FreshMasks expected(inputs), found(inputs);
            const std::int64_t nan = reference.group_mask(view, 0, rule, expected.table());
            ASSERT_EQ(engine.group_mask(view, 0, rule, found.table()), nan);
            ASSERT_TRUE(same_masks(expected.bits(), found.bits())) << "groups of " << group << ", " << rule.base;
          }
      }
    }
  });
}

// What the search remembers of a row must not show in the next, however unlike it is.
TEST_P(GroupMasks, UnlikeRowsAreThoseOfTheReference) {
  run([](auto& engine) {
    ReferenceEngine reference;
    constexpr float quiet_payload = 0x1p-3f;
    for (const std::int64_t columns : {1, 63, 64, 65, 1000, 65'536}) {
      constexpr std::int64_t rows = 24;
      Generator random(21);
      Model model = training_model({rows * columns}, {DType::f32}, 22);
      model.tensors[0].geometry = matrix(rows, columns);
      for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t i = 0; i < columns; ++i) {
          const float any = random.any_float();
          const float normal = std::fmod(any, 8.0f) == std::fmod(any, 8.0f) ? std::fmod(any, 8.0f) : quiet_payload;
          const float kinds[] = {normal, normal * 1e-30f, -normal * 1e30f, 1.5f, i % 2 == 0 ? 0.0f : -0.0f,
                                 // NaN whose payload the upper half does not show, of both signs
                                 i % 3 == 0 ? std::bit_cast<float>(0x7f800001u) : normal,
                                 i % 3 == 0 ? std::bit_cast<float>(0xff800001u) : normal,
                                 i % 3 == 0 ? std::bit_cast<float>(0xffc00000u) : 1.0f + normal * 1e-6f};
          model.tensors[0].scores.set(static_cast<std::size_t>(r * columns + i), kinds[r % 8]);
        }
      const auto inputs = model.inputs();
      const ScoreView view = make_view(inputs, Identity{});
      for (const std::int64_t k : {std::int64_t{1}, columns / 3, columns / 2, columns - 1, columns}) {
        FreshMasks expected(inputs), found(inputs);
        const GroupRule rule{0, k, 7};
        const std::int64_t nan = reference.group_mask(view, 0, rule, expected.table());
        ASSERT_EQ(engine.group_mask(view, 0, rule, found.table()), nan);
        ASSERT_TRUE(same_masks(expected.bits(), found.bits())) << columns << " columns, " << k;
      }
    }
  });
}

}  // namespace
}  // namespace bittersweet::test
