// What is refused, by which error, and that nothing has changed when one is thrown.
#include <functional>

#include "bittersweet/prune.hpp"
#include "support/compare.hpp"
#include "support/inputs.hpp"

namespace bittersweet::test {
namespace {

// Runs f, expects an Expected whose message contains each of `parts`.
template <class Expected, class F>
void expect_error(F&& f, const std::vector<std::string>& parts) {
  try {
    f();
    ADD_FAILURE() << "nothing was thrown; expected an error about " << parts.front();
  } catch (const Expected& error) {
    for (const std::string& part : parts)
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what() << "\nlacks: " << part;
  }
}

struct Call {
  Model model = training_model({600}, {DType::f32});
  std::vector<ScoreInputs> inputs = model.inputs();
  Scorer scorer = Bitter7{};
  Budget budget{.sparsity = 0.5};
  PruneOptions options{};

  void operator()() {
    const auto before = model.bytes();
    FreshMasks masks(inputs);
    Workspace workspace;
    try {
      prune(inputs, scorer, budget, options, masks.table(), workspace);
    } catch (...) {
      EXPECT_EQ(model.bytes(), before);
      throw;
    }
  }
};

template <class Expected>
void expect_refused(const std::function<void(Call&)>& change, const std::vector<std::string>& parts) {
  Call call;
  change(call);
  expect_error<Expected>(call, parts);
}

TEST(Arguments, Budgets) {
  expect_refused<ArgumentError>([](Call& c) { c.budget = {}; }, {"sparsity, k", "neither"});
  expect_refused<ArgumentError>([](Call& c) { c.budget = {.sparsity = 0.5, .k = 3}; }, {"sparsity, k", "both"});
  expect_refused<ArgumentError>([](Call& c) { c.budget = {.k = -1}; }, {"k: -1", "0 to 600"});
  expect_refused<ArgumentError>([](Call& c) { c.budget = {.k = 601}; }, {"k: 601", "0 to 600"});
  for (const double wrong : {-1e-9, 1.0000001, std::nan("")})
    expect_refused<ArgumentError>([&](Call& c) { c.budget = {.sparsity = wrong}; }, {"sparsity: ", "0 to 1"});
}

TEST(Arguments, BudgetsRoundToNearest) {
  EXPECT_EQ(resolve({.sparsity = 0.29}, 100), 29);
  EXPECT_EQ(resolve({.sparsity = 0.57}, 100), 57);
  EXPECT_EQ(resolve({.sparsity = 0.5}, 5), 3);
  EXPECT_EQ(resolve({.sparsity = 1.0}, 7), 7);
  EXPECT_EQ(resolve({.sparsity = 0.0}, 7), 0);
  EXPECT_EQ(resolve({.sparsity = 0.5}, 0), 0);
  EXPECT_EQ(resolve({.sparsity = 0.5}, (std::int64_t{1} << 40) + 2), (std::int64_t{1} << 39) + 1);
  EXPECT_EQ(resolve({.k = 5}, 5), 5);
}

TEST(Arguments, Options) {
  expect_refused<ArgumentError>([](Call& c) { c.options.distribution = Distribution::uniform; },
                                {"distribution", "global"});
  expect_refused<ArgumentError>(
      [](Call& c) {
        c.options.scope = {Scope::row};
        c.options.ties = Ties::below;
      },
      {"ties", "row"});
  expect_refused<ArgumentError>(
      [](Call& c) {
        c.options.selector = Streaming{};
        c.options.ties = Ties::exact;
      },
      {"ties", "streaming"});
  expect_refused<ArgumentError>(
      [](Call& c) {
        c.options.scope = {Scope::tensor};
        c.options.max_tensor_sparsity = 0.5;
      },
      {"max_tensor_sparsity", "global"});
  const auto ranges = [](Call& c) { c.options.tensor_sparsity = {c.inputs.size(), CountRange{0, 0}}; };
  expect_refused<ArgumentError>([&](Call& c) { ranges(c); }, {"tensor_sparsity", "the ranges allow 0"});
  expect_refused<ArgumentError>([](Call& c) { c.options.tensor_sparsity.resize(99); },
                                {"tensor_sparsity", "99 ranges"});
  expect_refused<ArgumentError>(
      [&](Call& c) {
        ranges(c);
        c.options.tensor_sparsity[0] = {2, 1};
      },
      {"tensor_sparsity", "least <= most"});
  expect_refused<ArgumentError>(
      [&](Call& c) {
        ranges(c);
        c.options.scope = {Scope::tensor};
      },
      {"tensor_sparsity", "global"});
  expect_refused<ArgumentError>(
      [&](Call& c) {
        ranges(c);
        c.options.ties = Ties::below;
      },
      {"tensor_sparsity", "ties"});
  expect_refused<ArgumentError>(
      [&](Call& c) {
        ranges(c);
        c.options.max_tensor_sparsity = 0.5;
      },
      {"max_tensor_sparsity", "one of them"});
  for (const double wrong : {-0.1, 1.1, std::nan("")})
    expect_refused<ArgumentError>([&](Call& c) { c.options.max_tensor_sparsity = wrong; },
                                  {"max_tensor_sparsity", "0 to 1"});
  expect_refused<ArgumentError>(
      [](Call& c) {
        c.options.scope = parse_scope("2:4");
        c.budget = {.sparsity = 0.7};
      },
      {"sparsity", "2:4"});
  expect_refused<ShapeError>(
      [](Call& c) {
        c.options.scope = parse_scope("3:7");
        c.budget = {};
      },
      {"3:7", "600", "layer0", "remainder"});
  EXPECT_THROW(make_selector("median"), ArgumentError);
  expect_error<ArgumentError>([] { make_selector("median"); }, {"median", "exact", "streaming"});
  expect_error<ArgumentError>([] { set_num_threads(-1); }, {"n: -1"});
}

TEST(Arguments, EpsIsChecked) {
  for (const float wrong : {-1.0f, not_a_number})
    expect_refused<ArgumentError>([&](Call& c) { c.scorer = Bitter0{.eps = wrong}; }, {"eps"});
}

TEST(Arguments, Tensors) {
  expect_refused<MissingStateError>([](Call& c) { c.inputs[0].exp_avg_sq = {}; }, {"exp_avg_sq", "bitter7", "layer0"});
  expect_refused<ArgumentError>([](Call& c) { c.inputs[0].weight.data = nullptr; }, {"weight", "layer0", "600"});
  expect_refused<ShapeError>([](Call& c) { c.inputs[0].numel = -1; }, {"numel: -1", "layer0"});
  expect_refused<ShapeError>([](Call& c) { c.inputs[0].geometry = matrix(10, 61); }, {"geometry", "610", "600"});
  for (const std::int64_t blocks : {-1, 0, 3})
    expect_refused<ShapeError>([&](Call& c) { c.inputs[0].geometry.blocks = blocks; },
                               {"geometry", std::to_string(blocks) + " blocks", "1 rows", "layer0"});
  expect_refused<DTypeError>(
      [](Call& c) {
        c.scorer = Wanda{};
        c.inputs[0].input_norm.dtype = DType::bf16;
      },
      {"input_norm", "bfloat16"});
  expect_refused<LayoutError>(
      [](Call& c) { c.inputs[0].weight.data = static_cast<char*>(c.inputs[0].weight.data) + 1; },
      {"layer0", "float32"});

  Call call;
  Workspace workspace;
  const std::vector<std::uint64_t*> no_masks;
  expect_error<ShapeError>([&] { make_masks(call.inputs, Magnitude{}, {.k = 1}, {}, no_masks, workspace); },
                           {"masks: 0", "1 tensors"});
  expect_error<ShapeError>([&] { apply_masks(call.inputs, {}); }, {"masks: 0"});
  expect_error<ShapeError>([&] { count_live(call.inputs, {}); }, {"masks: 0"});
  expect_error<ShapeError>([&] { count_violations(call.inputs, {}, roles::weight); }, {"masks: 0"});
  expect_error<ShapeError>([&] { write_scores(call.inputs, Magnitude{}, {}); }, {"1 tensors"});
}

TEST(Arguments, EmptyTensorsNeedNoMemory) {
  const std::vector<ScoreInputs> inputs{
      {.weight = {nullptr, DType::f32}, .exp_avg_sq = {nullptr, DType::f32}, .geometry = flat(0), .name = "empty"}};
  std::uint64_t* const masks[] = {nullptr};
  Workspace workspace;
  EXPECT_EQ(prune(inputs, Bitter7{}, {.sparsity = 0.5}, {}, masks, workspace).total, 0);
}

// A long call can be interrupted between its reads; the weights are as they were.
TEST(Interruption, LeavesTheWeightsAlone) {
  struct Interrupt {};
  for_each_selector([](const auto& selector) {
    Call call;
    const auto before = call.model.bytes();
    int calls = 0;
    call.options.selector = selector;
    call.options.between_passes = [&] {
      ++calls;
      throw Interrupt{};
    };
    EXPECT_THROW(call(), Interrupt) << selector.name;
    EXPECT_EQ(calls, 1);
    EXPECT_EQ(call.model.bytes(), before);
  });
}

TEST(Exactness, NegativeNormsAreOrderedRightly) {
  constexpr std::int64_t n = 100000;
  Model model = training_model({n}, {DType::f32});
  for (std::size_t i = 0; i < n; ++i) model.tensors[0].input_norm.set(i, i % 2 ? 1.0f : -1.0f);
  const auto inputs = model.inputs();
  Workspace workspace;
  for (const std::int64_t k : {1, 100, 49000}) {
    const auto by = [&](const Selector& selector) {
      return threshold(inputs, Wanda{}, {.k = k}, {.selector = selector}, workspace).value;
    };
    EXPECT_EQ(by(Exact{}), by(KthValue{})) << "k " << k;
  }
}

}  // namespace
}  // namespace bittersweet::test
