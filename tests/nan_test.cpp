// NaN scores: the error that names the first and counts all, what is not looked at, and what is kept.
#include <algorithm>
#include <cstring>

#include "bittersweet/prune.hpp"
#include "support/compare.hpp"
#include "support/inputs.hpp"

namespace bittersweet::test {
namespace {

struct NaNModel {
  Model model;
  std::vector<ScoreInputs> inputs;
  NaNModel() : model(training_model({700, 3000, 64 * 8}, {DType::f32})) {
    model.tensors[2].geometry = matrix(8, 64);
    model.tensors[1].geometry = matrix(50, 60);
    model.tensors[0].geometry = matrix(7, 100);
    for (const std::size_t i : {77u, 78u, 2999u}) model.tensors[1].weight.set(i, not_a_number);
    inputs = model.inputs();
  }
};

TEST(NaN, RaisesNamesTheFirstAndChangesNothing) {
  for (const char* scope : {"global", "tensor", "row", "2:4"})
    for_each_selector([&](const auto& selector) {
      SCOPED_TRACE(std::string(scope) + ", " + std::string(selector.name));
      const NaNModel m;
      const auto before = m.model.bytes();
      FreshMasks masks(m.inputs);
      Workspace workspace;
      const std::uint32_t which = roles::weight | roles::exp_avg | roles::exp_avg_sq | roles::grad;
      const std::optional<Ties> ties = selector.approximate && std::strlen(scope) > 3 && scope[0] != 'r'
                                           ? std::optional(Ties::at_or_below)
                                           : std::nullopt;
      try {
        prune(m.inputs, Bitter7{}, {.sparsity = 0.5}, {.selector = selector, .ties = ties, .scope = parse_scope(scope)},
              masks.table(), workspace, which);
        ADD_FAILURE() << "NaN scores were taken";
      } catch (const NonFiniteScoreError& error) {
        EXPECT_EQ(error.parameter(), "layer1");
        EXPECT_EQ(error.count(), 3);
        EXPECT_EQ(error.first_index(), 77);
        EXPECT_NE(std::string(error.what()).find("'layer1' at flat index 77"), std::string::npos);
      }
      EXPECT_EQ(m.model.bytes(), before);
      EXPECT_TRUE(m.model.intact());
    });
}

// The count is of all tensors, whatever competes with what; a sample that met some of them does not stop at these.
TEST(NaN, CountsThoseOfAllTensors) {
  for (const char* scope : {"global", "tensor", "row", "2:4"})
    for_each_selector([&](const auto& selector) {
      SCOPED_TRACE(std::string(scope) + ", " + std::string(selector.name));
      std::vector<Values> values{values_named("half_normal", 4, 1),
                                 values_named("half_normal", 60000, 2),
                                 {},
                                 values_named("half_normal", 512, 3),
                                 values_named("half_normal", 800, 4)};
      for (std::size_t i = 40; i < values[1].size(); i += 7) values[1][i] = not_a_number;
      values[3].back() = values[3].front() = not_a_number;
      std::fill(values[4].begin(), values[4].end(), not_a_number);
      Model model = model_of(values);
      for (Tensor& tensor : model.tensors)
        if (tensor.numel > 4) tensor.geometry = matrix(tensor.numel / 8, 8);
      const auto before = model.bytes();
      const auto inputs = model.inputs();
      FreshMasks masks(inputs);
      Workspace workspace;
      const std::int64_t all = (60000 - 40 + 6) / 7 + 2 + 800;
      PruneOptions options{.selector = selector, .scope = parse_scope(scope)};
      try {
        prune(inputs, Magnitude{}, {.sparsity = 0.5}, options, masks.table(), workspace);
        ADD_FAILURE() << "NaN scores were taken";
      } catch (const NonFiniteScoreError& error) {
        EXPECT_EQ(error.parameter(), "tensor1");
        EXPECT_EQ(error.count(), all);
        EXPECT_EQ(error.first_index(), 40);
      }
      EXPECT_EQ(model.bytes(), before);
      options.nonfinite = NonFinite::keep;
      EXPECT_EQ(prune(inputs, Magnitude{}, {.sparsity = 0.5}, options, masks.table(), workspace).nonfinite, all);
    });
}

// A tensor that gives nothing is not read, and its NaN are neither an error, nor named, nor counted.
TEST(NaN, OfATensorThatGivesNothing) {
  Values one(1, not_a_number), many = values_named("half_normal", 1000, 1);
  many[31] = many[999] = not_a_number;
  const Model model = model_of({one, many});
  const auto inputs = model.inputs();
  FreshMasks masks(inputs);
  Workspace workspace;
  try {
    make_masks(inputs, Magnitude{}, {.sparsity = 0.4}, {.scope = {Scope::tensor}}, masks.table(), workspace);
    ADD_FAILURE() << "NaN scores were taken";
  } catch (const NonFiniteScoreError& error) {
    EXPECT_EQ(error.parameter(), "tensor1");
    EXPECT_EQ(error.count(), 2);
    EXPECT_EQ(error.first_index(), 31);
  }
}

// Inputs behind the last whole N:M group stay dense and are not scored: their NaN are not looked at.
TEST(NaN, BehindTheLastWholeGroup) {
  struct Case {
    std::int64_t numel;
    Geometry geometry;
    MemoryOrder order;
    std::vector<std::int64_t> left, ranked;  // flat indices
  };
  const std::vector<Case> cases{
      {30, matrix(3, 10), {}, {8, 9, 18, 29}, {10, 27}},
      {30, {3, 10, 1, 1, 3}, {}, {24, 26, 29}, {23, 1}},             // (inputs, outputs)
      {60, {2, 10, 3, 30, 3}, {}, {24, 29, 54, 59}, {23, 53, 30}},   // a convolution
      {60, {2, 10, 3, 30, 3}, {10, 3}, {24, 29, 54, 59}, {23, 53}},  // in channels_last
      {30, matrix(3, 10), {3, 10}, {8, 19, 29}, {17, 2}},            // transposed in memory
      {60, {6, 5, 2, 2, 6, 2}, {}, {24, 29, 54, 59}, {23, 53}},      // ConvTranspose in two groups
      {6, matrix(2, 3), {}, {0, 1, 2, 3, 4, 5}, {}}};                // no whole group at all
  for (const Case& c : cases)
    for (const bool ranked : {false, true}) {
      SCOPED_TRACE(std::to_string(&c - cases.data()));
      if (ranked && c.ranked.empty()) continue;
      Model model = model_of({values_named("half_normal", c.numel, 1), values_named("half_normal", 40, 2)});
      model.tensors[0].geometry = c.geometry;
      model.tensors[1].geometry = matrix(5, 8);
      std::vector<ScoreInputs> inputs = model.inputs();
      inputs[0].order = c.order;
      const auto spoil = [&](std::int64_t i) {
        model.tensors[0].weight.set(static_cast<std::size_t>(c.order.memory_of(i)), not_a_number);
      };
      for (const std::int64_t i : c.left) spoil(i);
      if (ranked)
        for (const std::int64_t i : c.ranked) spoil(i);
      FreshMasks masks(inputs);
      Workspace workspace;
      PruneOptions options{.scope = {Scope::n_of_m, 2, 4}, .remainder = Remainder::keep};
      if (!ranked) {
        EXPECT_EQ(make_masks(inputs, Magnitude{}, {}, options, masks.table(), workspace).nonfinite, 0);
        for (const std::int64_t i : c.left) EXPECT_TRUE(bits::get(masks.table()[0], c.order.memory_of(i)));
        continue;
      }
      try {
        make_masks(inputs, Magnitude{}, {}, options, masks.table(), workspace);
        ADD_FAILURE() << "NaN scores were taken";
      } catch (const NonFiniteScoreError& error) {
        EXPECT_EQ(error.count(), static_cast<std::int64_t>(c.ranked.size()));
        EXPECT_EQ(error.first_index(), std::ranges::min(c.ranked));
      }
      options.nonfinite = NonFinite::keep;
      EXPECT_EQ(make_masks(inputs, Magnitude{}, {}, options, masks.table(), workspace).nonfinite,
                static_cast<std::int64_t>(c.ranked.size()));
    }
}

TEST(NaN, ThresholdRaisesToo) {
  const NaNModel m;
  Workspace workspace;
  for (const Selector& selector :
       {Selector{Exact{}}, Selector{Histogram{}}, Selector{KthValue{}}, Selector{Streaming{}}})
    EXPECT_THROW(threshold(m.inputs, Bitter7{}, {.sparsity = 0.5}, {.selector = selector}, workspace),
                 NonFiniteScoreError)
        << name_of(selector);
}

TEST(NaN, OfTheDeadIsNotScored) {
  NaNModel m;
  m.model.set_masks(0.0, 1);
  for (const std::int64_t i : {77, 78, 2999}) bits::clear(m.model.tensors[1].mask.data(), i);
  const auto inputs = m.model.inputs();
  Workspace workspace;
  for_each_selector([&](const auto& selector) {
    FreshMasks masks(inputs);
    const PruneReport report =
        make_masks(inputs, Bitter7{}, {.sparsity = 0.5}, {.selector = selector}, masks.table(), workspace);
    EXPECT_EQ(report.nonfinite, 0) << selector.name;
    EXPECT_EQ(report.dead, 3);
  });
}

TEST(NaN, KeepCountsOnceAndNeverPrunes) {
  const NaNModel m;
  for (const char* scope : {"global", "tensor", "row"})
    for (const bool capped : {false, true}) {
      if (capped && scope[0] != 'g') continue;
      FreshMasks masks(m.inputs);
      Workspace workspace;
      PruneOptions options{.nonfinite = NonFinite::keep, .scope = parse_scope(scope)};
      if (capped) options.max_tensor_sparsity = 0.45;  // every tensor is selected twice
      const PruneReport report =
          make_masks(m.inputs, Magnitude{}, {.sparsity = 0.5}, options, masks.table(), workspace);
      EXPECT_EQ(report.nonfinite, 3) << scope << (capped ? ", capped" : "");
      for (const std::int64_t i : {77, 78, 2999}) EXPECT_TRUE(bits::get(masks.table()[1], i)) << scope;
    }
}

}  // namespace
}  // namespace bittersweet::test
