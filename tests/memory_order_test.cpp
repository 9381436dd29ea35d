// Whole selections over tensors in other orders of memory are, bit for bit, those over row-major copies.
#include "bittersweet/flow.hpp"
#include "support/compare.hpp"
#include "support/engines.hpp"
#include "support/inputs.hpp"
#include "support/orders.hpp"

namespace bittersweet::test {
namespace {

class MemoryOrders : public EngineTest {};
BITTERSWEET_FOR_EVERY(engines, MemoryOrders);

struct Shape {
  Geometry geometry;
  MemoryOrder order;
};
const std::vector<Shape> shapes{
    {{20, 12, 9, 108, 9}, {12, 9}},     // channels_last
    {matrix(96, 60), {96, 60}},         // transposed
    {matrix(32, 24), {}},               // row-major among them
    {{66, 40, 1, 1, 66}, {40, 66}},     // (in, out) in memory as (out, in)
    {{24, 8, 9, 9, 216}, {24, 9}},      // a transposed conv in channels_last
    {{12, 8, 9, 72, 9, 3}, {8, 9}},     // a conv in groups
    {{40, 24, 1, 24, 1, 5}, {40, 24}},  // experts as one transposed matrix
    {{70, 12, 9, 108, 9}, {840, 9}},    // kernel positions first
};

// Few different values, so that ties split in the middle of some tensor, or many.
Model model_in(bool few, double dead, DType dtype) {
  std::vector<std::int64_t> sizes;
  for (const Shape& shape : shapes) sizes.push_back(shape.geometry.rows * shape.geometry.row_size());
  Model model = training_model(sizes, {dtype}, 21);
  for (std::size_t t = 0; t < shapes.size(); ++t) {
    Tensor& tensor = model.tensors[t];
    tensor.geometry = shapes[t].geometry;
    Generator random(t + 1);
    for (std::size_t i = 0; few && i < tensor.weight.size(); ++i) {
      tensor.weight.set(i, 0.25f * static_cast<float>(random.below(4)));
      tensor.scores.set(i, static_cast<float>(random.below(3)) - 1.0f);
    }
  }
  if (dead > 0) model.set_masks(dead, 9);
  return model;
}

Model in_orders(const Model& model) {
  Model moved;
  for (std::size_t t = 0; t < shapes.size(); ++t)
    moved.tensors.push_back(ordered(model.tensors[t], shapes[t].order, Placement::flush));
  return moved;
}

void expect_same(const PruneReport& expected, const PruneReport& found) {
  EXPECT_EQ(found.value, expected.value);
  EXPECT_EQ(found.k, expected.k);
  EXPECT_EQ(found.total, expected.total);
  EXPECT_EQ(found.pruned, expected.pruned);
  EXPECT_EQ(found.dead, expected.dead);
  EXPECT_EQ(found.count_below, expected.count_below);
  EXPECT_EQ(found.count_equal, expected.count_equal);
  EXPECT_EQ(found.nonfinite, expected.nonfinite);
  EXPECT_EQ(found.standard_error, expected.standard_error);
  EXPECT_EQ(found.converged, expected.converged);
  EXPECT_EQ(found.v_below_eps, expected.v_below_eps);
  EXPECT_EQ(found.v_zero, expected.v_zero);
  EXPECT_EQ(found.tensor_pruned, expected.tensor_pruned);
  EXPECT_EQ(found.tensor_threshold, expected.tensor_threshold);
  EXPECT_EQ(found.churn, expected.churn);
  EXPECT_EQ(found.empty_rows, expected.empty_rows);
}

struct Pair {
  Model model, moved;
  std::vector<ScoreInputs> inputs, moved_inputs;
  Pair(bool few, double dead, DType dtype)
      : model(model_in(few, dead, dtype)),
        moved(in_orders(model)),
        inputs(model.inputs()),
        moved_inputs(moved.inputs()) {}

  template <class E>
  void expect_masks(E& engine, const Scorer& scorer, const Budget& budget, const PruneOptions& options) const {
    Workspace workspace;
    FreshMasks expected(inputs), found(moved_inputs);
    expect_same(flow::make_masks(engine, inputs, scorer, budget, options, expected.table(), workspace),
                flow::make_masks(engine, moved_inputs, scorer, budget, options, found.table(), workspace));
    ASSERT_TRUE(same_masks(expected.bits(), logical_bits(found.bits(), moved_inputs)));
    ASSERT_TRUE(moved.intact());
  }
};

TEST_P(MemoryOrders, EveryScorer) {
  run([](auto& engine) {
    const Pair pair(false, 0.3, DType::f32);
    for (const Scorer& scorer : all_scorers())
      for (const Scope scope : {Scope{Scope::global}, Scope{Scope::row}}) {
        SCOPED_TRACE(std::string(info_of(scorer).name) + (scope.in_groups() ? " by rows" : ""));
        ASSERT_NO_FATAL_FAILURE(pair.expect_masks(engine, scorer, {.sparsity = 0.6}, {.scope = scope}));
      }
  });
}

TEST_P(MemoryOrders, ScopesTiesAndBudgets) {
  run([](auto& engine) {
    for (const bool few : {false, true})
      for (const double dead : {0.0, 0.4})
        for (const DType dtype : {DType::f32, DType::bf16}) {
          const Pair pair(few, dead, dtype);
          for (const double sparsity : {0.0, 0.1, 0.37, 0.5, 0.83, 1.0})
            for (const bool regrow : {false, true}) {
              SCOPED_TRACE(testing::Message() << (few ? "few values" : "many values") << ", dead " << dead << ", "
                                              << name_of(dtype) << ", sparsity " << sparsity << ", regrow " << regrow);
              const Budget budget{.sparsity = sparsity};
              for (const Ties ties : {Ties::exact, Ties::at_or_below, Ties::below})
                for (const Scope scope : {Scope{Scope::global}, Scope{Scope::tensor}})
                  ASSERT_NO_FATAL_FAILURE(
                      pair.expect_masks(engine, Magnitude{}, budget, {.ties = ties, .regrow = regrow, .scope = scope}));
              ASSERT_NO_FATAL_FAILURE(
                  pair.expect_masks(engine, Magnitude{}, budget, {.regrow = regrow, .scope = {Scope::row}}));
              ASSERT_NO_FATAL_FAILURE(
                  pair.expect_masks(engine, Identity{}, budget,
                                    {.nonfinite = NonFinite::keep, .regrow = regrow, .max_tensor_sparsity = 0.7}));
            }
          ASSERT_NO_FATAL_FAILURE(
              pair.expect_masks(engine, Bitter7{}, {}, {.scope = {Scope::n_of_m, 2, 4}, .remainder = Remainder::keep}));
          ASSERT_NO_FATAL_FAILURE(pair.expect_masks(engine, Bitter3{}, {.sparsity = 0.5},
                                                    {.scope = {Scope::tensor}, .distribution = Distribution::erk}));
        }
  });
}

TEST_P(MemoryOrders, EverySelector) {
  run([](auto& engine) {
    for (const bool few : {false, true}) {
      const Pair pair(few, 0.2, DType::f32);
      for (const Selector& selector :
           {Selector{Exact{}}, Selector{Exact{.guess = Bracket{0.5f, 0.5f}}},
            Selector{Exact{.guess = Bracket{0.0f, 0.5f, true}}}, Selector{Exact{.guess = Bracket{2.0f, 3.0f}}},
            Selector{Exact{.capacity = 3}}, Selector{Histogram{}}, Selector{KthValue{}},
            Selector{Sampling{.verify = true, .by = Sampling::By::element}}, Selector{Streaming{.tolerance = 0}}})
        for (const double sparsity : {0.3, 0.5, 0.7}) {
          SCOPED_TRACE(std::string(name_of(selector)) + " of " + std::to_string(sparsity));
          ASSERT_NO_FATAL_FAILURE(
              pair.expect_masks(engine, Magnitude{}, {.sparsity = sparsity}, {.selector = selector, .seed = 4}));
        }
    }
  });
}

// NaN and infinity where they fall, and an error that names the first NaN by its logical index.
TEST_P(MemoryOrders, NaN) {
  run([](auto& engine) {
    Model model = model_in(true, 0.2, DType::f32);
    Generator random(5);
    for (Tensor& tensor : model.tensors)
      for (int i = 0; i < 40; ++i) {
        const auto at = static_cast<std::size_t>(random.below(tensor.numel));
        tensor.scores.set(at, i % 4 == 0 ? infinity : not_a_number);
      }
    const Model moved = in_orders(model);
    const auto inputs = model.inputs(), moved_inputs = moved.inputs();
    Workspace workspace;
    for (const Scope scope : {Scope{Scope::global}, Scope{Scope::tensor}, Scope{Scope::row}}) {
      FreshMasks expected(inputs), found(moved_inputs);
      const PruneOptions options{.nonfinite = NonFinite::keep, .scope = scope};
      expect_same(
          flow::make_masks(engine, inputs, Identity{}, {.sparsity = 0.9}, options, expected.table(), workspace),
          flow::make_masks(engine, moved_inputs, Identity{}, {.sparsity = 0.9}, options, found.table(), workspace));
      ASSERT_TRUE(same_masks(expected.bits(), logical_bits(found.bits(), moved_inputs)));
      const auto said = [&](const std::vector<ScoreInputs>& tensors) -> std::string {
        try {
          FreshMasks masks(tensors);
          flow::make_masks(engine, tensors, Identity{}, {.sparsity = 0.5}, {.scope = scope}, masks.table(), workspace);
        } catch (const NonFiniteScoreError& error) {
          return error.what();
        }
        return "nothing";
      };
      ASSERT_EQ(said(moved_inputs), said(inputs));
      ASSERT_NE(said(inputs), "nothing");
    }
  });
}

// Ties over several chunks of one transposed tensor, in which the quota ends.
TEST_P(MemoryOrders, TiesThatSplitALargeTensor) {
  run([](auto& engine) {
    Model model = training_model({300 * 517, 100, 260 * 256}, {DType::f32}, 31);
    for (Tensor& tensor : model.tensors) {
      Generator random(static_cast<std::uint64_t>(tensor.numel));
      for (std::size_t i = 0; i < tensor.scores.size(); ++i)
        tensor.scores.set(i, random.below(2) ? 0.0f : static_cast<float>(random.normal()));
    }
    Model moved;
    moved.tensors.push_back(ordered(model.tensors[0], {300, 517}));
    moved.tensors.push_back(ordered(model.tensors[1], {}));
    moved.tensors.push_back(ordered(model.tensors[2], {64, 65}));
    const auto inputs = model.inputs(), moved_inputs = moved.inputs();
    Workspace workspace;
    for (const bool magnitudes : {false, true})
      for (const double sparsity : {0.1, 0.3, 0.49, 0.6, 0.74, 0.9}) {
        SCOPED_TRACE(sparsity);
        for (Model* either : {&model, &moved})
          for (Tensor& tensor : either->tensors) tensor.modifier = magnitudes ? 1.0f : 2.0f;
        FreshMasks expected(inputs), found(moved_inputs);
        const Scorer scorer = magnitudes ? Scorer{Magnitude{}} : Scorer{Identity{}};
        expect_same(
            flow::make_masks(engine, inputs, scorer, {.sparsity = sparsity}, {}, expected.table(), workspace),
            flow::make_masks(engine, moved_inputs, scorer, {.sparsity = sparsity}, {}, found.table(), workspace));
        ASSERT_TRUE(same_masks(expected.bits(), logical_bits(found.bits(), moved_inputs)));
      }
  });
}

TEST(MemoryOrder, MustFitItsTensor) {
  const Values values(12, 1.0f);
  ScoreInputs tensor{.scores = view(values.data()), .numel = 12, .geometry = flat(12), .name = "odd"};
  const std::span<const ScoreInputs> one(&tensor, 1);
  for (const MemoryOrder order : {MemoryOrder{3, 4}, MemoryOrder{3, 2}, MemoryOrder{12, 1}, MemoryOrder{1, 1}}) {
    tensor.order = order;
    EXPECT_NO_THROW(make_view(one, Identity{}));
  }
  for (const MemoryOrder order : {MemoryOrder{5, 2}, MemoryOrder{0, 4}, MemoryOrder{-3, -4}, MemoryOrder{4, 6}}) {
    tensor.order = order;
    EXPECT_THROW(make_view(one, Identity{}), ShapeError) << order.p << " x " << order.q;
  }
}

}  // namespace
}  // namespace bittersweet::test
