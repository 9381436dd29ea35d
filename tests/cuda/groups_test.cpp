// Rows and N:M groups of the CUDA engine on the emulator: masks, counts and reports are the reference engine's, for
// every length of rows, N:M, storage, placement, order of memory, mask and budget, whatever the order of threads.
#include "cuda/group_support.hpp"

namespace bittersweet::test {
namespace {

Model matrices(const std::vector<std::pair<std::int64_t, std::int64_t>>& shapes, const std::vector<DType>& dtypes,
               std::uint64_t seed = 1, Placement placement = Placement::flush) {
  std::vector<std::int64_t> sizes;
  for (const auto& [rows, columns] : shapes) sizes.push_back(rows * columns);
  Model model = training_model(sizes, dtypes, seed, placement);
  for (std::size_t t = 0; t < shapes.size(); ++t) {
    model.tensors[t].geometry = matrix(shapes[t].first, shapes[t].second);
    model.tensors[t].input_norm = Array(half_normal(shapes[t].second, seed + t), DType::f32, placement);
  }
  return model;
}

const std::vector<std::pair<std::int64_t, std::int64_t>> every_class{
    {300, 2}, {7, 32}, {5, 64}, {9, 65}, {4, 96}, {3, 512}, {3, 513}, {2, 1024}, {3, 1056}, {2, 4096}, {2, 5001}};

TEST(CudaRows, EveryLengthScorerAndStorage) {
  std::uint64_t seed = 0;
  for (const Scorer& scorer : all_scorers()) {
    const std::vector<DType>& dtypes = storages()[seed % storages().size()];
    const Placement placement = seed % 3 == 2 ? Placement::offset : Placement::flush;
    ++seed;
    SCOPED_TRACE(name_of(scorer) + ", storage " + name_of(dtypes[0]) + " of " + std::to_string(dtypes.size()));
    expect_groups_like_reference({.model = matrices(every_class, dtypes, seed, placement),
                                  .scorer = scorer,
                                  .budget = {.sparsity = 0.1 * static_cast<double>(1 + seed % 9)},
                                  .seed = seed});
  }
}

TEST(CudaRows, EveryStorageAndPlacementOfWanda) {
  std::uint64_t seed = 50;
  for (const std::vector<DType>& dtypes : storages())
    for (const Placement placement : {Placement::flush, Placement::offset})
      for (const double sparsity : {0.3, 0.5, 0.8}) {
        SCOPED_TRACE(std::string(name_of(dtypes[0])) + ", sparsity " + std::to_string(sparsity));
        expect_groups_like_reference(
            {.model = matrices({{3, 2048}, {2, 4096}, {5, 160}, {3, 48}}, dtypes, ++seed, placement),
             .scorer = Wanda{},
             .budget = {.sparsity = sparsity},
             .seed = seed});
      }
}

TEST(CudaRows, NamedValuesTiesAndBudgets) {
  std::uint64_t seed = 0;
  for (const NamedValues& named : named_values())
    for (const double sparsity : {0.0, 0.03, 0.5, 1.0}) {
      ++seed;
      Model model = model_of({named.make(3 * 1504, seed), named.make(7 * 100, seed), named.make(40 * 6, seed)},
                             seed % 3 ? DType::f32 : DType::bf16, seed % 2 ? Placement::offset : Placement::flush);
      model.tensors[0].geometry = matrix(3, 1504);
      model.tensors[1].geometry = matrix(7, 100);
      model.tensors[2].geometry = matrix(40, 6);
      for (const Scorer& scorer : {Scorer(Identity{}), Scorer(Magnitude{})}) {
        const Rounding rounding = seed % 2 ? Rounding::nearest : Rounding::floor;
        SCOPED_TRACE(std::string(named.name) + ", " + name_of(scorer) + ", sparsity " + std::to_string(sparsity));
        expect_groups_like_reference({.model = model,
                                      .scorer = scorer,
                                      .budget = {.sparsity = sparsity},
                                      .options = {.scope = {Scope::row}, .rounding = rounding},
                                      .seed = seed});
      }
    }
}

TEST(CudaRows, OneLongRow) {
  for (const char* name : {"normal", "half_zeros", "two_values", "row_scale", "all_equal", "bf16_rounded"})
    for (const std::int64_t n : {33000, 65536, 100003}) {
      SCOPED_TRACE(std::string(name) + " of " + std::to_string(n));
      Model model = model_of({values_named(name, n, 3)}, DType::f32, Placement::flush);
      for (const double sparsity : {0.2, 0.6})
        expect_groups_like_reference({.model = model, .scorer = Identity{}, .budget = {.sparsity = sparsity}});
    }
}

TEST(CudaRows, CurrentMasksAndRegrow) {
  std::uint64_t seed = 0;
  for (const double dead : {0.3, 0.9, 1.0})
    for (const bool regrow : {false, true})
      for (const double sparsity : {0.1, 0.5, 0.95}) {
        ++seed;
        Model model = matrices({{300, 2}, {9, 65}, {4, 96}, {3, 513}, {2, 1056}, {1, 3000}, {2, 4096}}, {DType::f32},
                               seed, seed % 2 ? Placement::flush : Placement::offset);
        model.set_masks(dead, seed);
        model.tensors[1].masked = false;
        SCOPED_TRACE("dead " + std::to_string(dead) + ", sparsity " + std::to_string(sparsity));
        expect_groups_like_reference({.model = model,
                                      .scorer = seed % 2 ? Scorer(Bitter7{}) : Scorer(Wanda{}),
                                      .budget = {.sparsity = sparsity},
                                      .options = {.regrow = regrow, .scope = {Scope::row}},
                                      .seed = seed});
        expect_groups_like_reference(
            {.model = model,
             .scorer = Magnitude{},
             .budget = {},
             .options = {.regrow = regrow, .scope = {Scope::n_of_m, 2, 4}, .remainder = Remainder::keep},
             .seed = seed});
      }
}

struct Shape {
  Geometry geometry;
  MemoryOrder order;
};
const std::vector<Shape> shapes{
    {{20, 12, 9, 108, 9}, {12, 9}},     // channels_last
    {{6, 64, 9, 576, 9}, {64, 9}},      // with longer rows
    {{2, 128, 9, 1152, 9}, {128, 9}},   // and longer ones
    {matrix(96, 60), {96, 60}},         // transposed
    {matrix(70, 130), {70, 130}},       // transposed, longer
    {matrix(32, 24), {}},               // row-major among them
    {{66, 40, 1, 1, 66}, {40, 66}},     // (in, out) in memory as (out, in)
    {{66, 140, 1, 1, 66}, {140, 66}},   // likewise
    {{66, 140, 1, 1, 66}, {}},          // (in, out)
    {{24, 8, 9, 9, 216}, {24, 9}},      // a transposed conv in channels_last
    {{24, 16, 9, 9, 216}, {}},          // a transposed conv
    {{12, 8, 9, 72, 9, 3}, {8, 9}},     // a conv in groups
    {{40, 24, 1, 24, 1, 5}, {40, 24}},  // experts as one transposed matrix
    {{70, 12, 9, 108, 9}, {840, 9}},    // kernel positions first
    {{3 * 24, 80, 1, 1, 24, 3}, {}},    // experts, inputs first
    {{30, 7, 9, 63, 9, 5}, {}},         // a conv in groups
};

// Few different values, so that ties split.
Model model_in(bool few, double dead, DType dtype, std::uint64_t seed) {
  std::vector<std::int64_t> sizes;
  for (const Shape& shape : shapes) sizes.push_back(shape.geometry.rows * shape.geometry.row_size());
  Model model = training_model(sizes, {dtype}, seed);
  for (std::size_t t = 0; t < shapes.size(); ++t) {
    Tensor& tensor = model.tensors[t];
    tensor.geometry = shapes[t].geometry;
    tensor.input_norm = Array(half_normal(tensor.geometry.features(), t), DType::f32);
    Generator random(t + 1);
    for (std::size_t i = 0; few && i < tensor.weight.size(); ++i)
      tensor.weight.set(i, 0.25f * static_cast<float>(random.below(4)));
    if (t % 3 == 0)  // inside a row, the later one before the other in channels_last memory
      for (const std::size_t place : {40, 7}) tensor.weight.set(tensor.weight.size() / 2 + place, not_a_number);
  }
  if (dead > 0) model.set_masks(dead, 9);
  return model;
}

Model in_orders(const Model& model, Placement placement) {
  Model moved;
  for (std::size_t t = 0; t < shapes.size(); ++t)
    moved.tensors.push_back(ordered(model.tensors[t], shapes[t].order, placement));
  return moved;
}

TEST(CudaGroups, OrdersOfMemoryGiveTheBitsOfRowMajorCopies) {
  std::uint64_t seed = 0;
  for (const bool few : {false, true})
    for (const double dead : {0.0, 0.4})
      for (const Placement placement : {Placement::flush, Placement::offset}) {
        ++seed;
        const Model model = model_in(few, dead, seed % 2 ? DType::f32 : DType::bf16, seed);
        GroupStep step{.model = in_orders(model, placement), .seed = seed};
        for (const Scope scope : {Scope{Scope::row}, Scope{Scope::n_of_m, 2, 4}, Scope{Scope::n_of_m, 3, 5}})
          for (const Scorer& scorer : {Scorer(Magnitude{}), Scorer(Wanda{}), Scorer(Random{.seed = 5})}) {
            SCOPED_TRACE(name_of(scorer) + (few ? ", few values, " : ", ") + std::to_string(scope.keep) + ":" +
                         std::to_string(scope.of));
            step.scorer = scorer;
            step.options = {.nonfinite = NonFinite::keep, .scope = scope, .remainder = Remainder::keep};
            step.budget = scope.of ? Budget{} : Budget{.sparsity = 0.45};
            const Outcome got = run(step);
            expect_groups_of_reference(model, step, got);
            EXPECT_TRUE(step.model.intact());
            std::int64_t first = 0;  // NaN are told by logical position
            bool found = false;
            const auto inputs = model.inputs();
            const ScoreView view = make_view(inputs, scorer);
            if (name_of(scorer) == "magnitude" && !scope.of)
              for (std::size_t t = 0; t < inputs.size() && !found; ++t)
                for (std::int64_t i = 0; i < inputs[t].numel && !found; ++i)
                  if (is_live(inputs[t], i) && std::isnan(score_element(Magnitude{}, view, t, i))) {
                    found = true;
                    first = view.offset[t] + i;
                  }
            if (found) {
              EXPECT_EQ(got.report.first_nan, first);
            }
          }
      }
}

TEST(CudaGroups, EveryNofM) {
  const std::vector<std::pair<std::int64_t, std::int64_t>> all{
      {2, 4},  {4, 8},   {1, 4},  {3, 4}, {1, 2}, {0, 4}, {4, 4},  {1, 1},   {0, 1},   {7, 8},   {8, 16},
      {5, 16}, {16, 32}, {1, 32}, {2, 3}, {3, 5}, {5, 7}, {9, 12}, {20, 48}, {30, 64}, {40, 80}, {64, 160}};
  std::uint64_t seed = 0;
  for (const auto& [keep, of] : all)
    for (const std::int64_t groups : {std::int64_t{1}, 1 + 480 / of})
      for (const bool left : {false, true}) {
        ++seed;
        const std::int64_t inputs = of * groups + (left ? (of + 1) / 2 : 0);
        Model model = matrices({{5, inputs}, {1 + 1500 / inputs, inputs}}, storages()[seed % storages().size()], seed,
                               seed % 4 ? Placement::flush : Placement::offset);
        for (std::size_t i = 0; i < model.tensors[0].weight.size(); i += 3) model.tensors[0].weight.set(i, 0.5f);
        model.tensors[1].weight.set(1, not_a_number);
        if (seed % 2) model.set_masks(0.3, seed);
        SCOPED_TRACE(std::to_string(keep) + ":" + std::to_string(of) + " of " + std::to_string(inputs));
        for (const Budget& budget : {Budget{}, Budget{.k = model.numel() * (of - keep) / of / 2}})
          expect_groups_like_reference({.model = model,
                                        .scorer = seed % 3 ? Scorer(Magnitude{}) : Scorer(Wanda{}),
                                        .budget = budget,
                                        .options = {.scope = {Scope::n_of_m, keep, of}, .remainder = Remainder::keep},
                                        .seed = seed});
      }
}

TEST(CudaGroups, EveryScorerByTwoOfFour) {
  std::uint64_t seed = 0;
  for (const Scorer& scorer : all_scorers())
    for (const bool vectors : {false, true}) {
      const std::vector<DType>& dtypes = storages()[++seed % storages().size()];
      SCOPED_TRACE(name_of(scorer) + ", storage " + name_of(dtypes[0]));
      expect_groups_like_reference({.model = matrices({{20, 64}, {3, 1000}, {1, 4}}, dtypes, seed,
                                                      vectors ? Placement::flush : Placement::offset),
                                    .scorer = scorer,
                                    .budget = {},
                                    .options = {.scope = {Scope::n_of_m, 2, 4}},
                                    .seed = seed});
    }
}

TEST(CudaGroups, ExtremeInputs) {
  std::uint64_t seed = 0;
  for (const Scorer& scorer : {Scorer(Identity{}), Scorer(Magnitude{}), Scorer(Bitter7{}), Scorer(Bitter8{})})
    for (const DType dtype : {DType::f32, DType::f16}) {
      Model model = matrices({{3, 1536}, {6, 256}, {60, 16}}, {dtype}, ++seed);
      Generator random(seed);
      for (Tensor& tensor : model.tensors)
        for (Array* array : {&tensor.weight, &tensor.exp_avg_sq, &tensor.scores})
          for (std::size_t i = 0; i < array->size(); ++i) {
            const std::int64_t kind = random.below(8);
            if (kind == 0) array->set(i, random.any_float());
            if (kind == 1) array->set(i, random.below(2) ? 0.0f : -0.0f);
            if (kind == 2) array->set(i, tiniest * static_cast<float>(random.below(1000)));
            if (kind == 3 && random.below(20) == 0) array->set(i, infinity);
          }
      for (const Scope scope : {Scope{Scope::row}, Scope{Scope::n_of_m, 2, 4}, Scope{Scope::n_of_m, 6, 16}})
        expect_groups_like_reference({.model = model,
                                      .scorer = scorer,
                                      .budget = scope.of ? Budget{} : Budget{.sparsity = 0.4},
                                      .options = {.scope = scope},
                                      .seed = seed});
    }
}

TEST(CudaGroups, SharesOfTensors) {
  std::uint64_t seed = 0;
  for (const Distribution distribution : {Distribution::uniform, Distribution::erk, Distribution::layer_adaptive})
    for (const double dead : {0.0, 0.4})
      for (const double sparsity : {0.1, 0.45}) {
        Model model = matrices({{40, 20}, {3, 1100}, {10, 120}, {60, 8}}, {DType::f32}, ++seed);
        if (dead > 0) model.set_masks(dead, seed);
        SCOPED_TRACE("dead " + std::to_string(dead) + ", sparsity " + std::to_string(sparsity));
        for (const Scope scope : {Scope{Scope::row}, Scope{Scope::n_of_m, 2, 4}})
          for (const Budget& budget :
               {Budget{.sparsity = sparsity}, Budget{.k = static_cast<std::int64_t>(3e3 * sparsity)}})
            expect_groups_like_reference({.model = model,
                                          .budget = budget,
                                          .options = {.scope = scope, .distribution = distribution},
                                          .seed = seed});
      }
}

// NaN everywhere, zero tensors, empty tensors, many small tensors.
TEST(CudaGroups, OddModels) {
  expect_groups_like_reference({});
  expect_groups_like_reference({.model = training_model({0, 500, 0, 0, 1, 0}, {DType::f32})});
  Model nans = matrices({{2, 2000}, {40, 4}, {3, 100}}, {DType::f32});
  for (Tensor& tensor : nans.tensors)
    for (std::size_t i = 0; i < tensor.weight.size(); ++i) tensor.weight.set(i, not_a_number);
  expect_groups_like_reference({.model = nans});
  expect_groups_like_reference({.model = nans, .budget = {}, .options = {.scope = {Scope::n_of_m, 2, 4}}});
  std::vector<std::pair<std::int64_t, std::int64_t>> many;
  for (std::int64_t t = 0; t < 400; ++t) many.emplace_back(1 + t % 3, 4 + 4 * (t % 7));
  expect_groups_like_reference({.model = matrices(many, {DType::f32, DType::bf16})});
  expect_groups_like_reference(
      {.model = matrices(many, {DType::f32, DType::bf16}), .budget = {}, .options = {.scope = {Scope::n_of_m, 1, 4}}});
}

TEST(CudaGroups, ZerosAndVoidSteps) {
  for (const Scope scope : {Scope{Scope::row}, Scope{Scope::n_of_m, 2, 4}}) {
    GroupStep step{.model = matrices({{3, 1056}, {40, 24}}, {DType::f32, DType::bf16}),
                   .budget = scope.of ? Budget{} : Budget{.sparsity = 0.5},
                   .options = {.zero = roles::weight | roles::exp_avg, .scope = scope}};
    step.model.set_masks(0.2, 4);
    const Model before = step.model;
    const Outcome got = run(step);
    expect_groups_of_reference(before, step, got);
    for (std::size_t t = 0; t < 2; ++t)
      for (std::size_t i = 0; i < step.model.tensors[t].weight.size(); ++i) {
        const bool keep = bits::get(got.masks[t].data(), static_cast<std::int64_t>(i));
        ASSERT_TRUE(same_bits(step.model.tensors[t].weight[i], keep ? before.tensors[t].weight[i] : 0.0f));
        ASSERT_TRUE(same_bits(step.model.tensors[t].exp_avg[i], keep ? before.tensors[t].exp_avg[i] : 0.0f));
      }
  }
  GroupStep bad{.model = matrices({{3, 1056}, {40, 24}}, {DType::f32}),
                .options = {.zero = roles::weight, .scope = {Scope::row}}};
  bad.model.tensors[1].weight.set(500, not_a_number);
  bad.model.tensors[1].weight.set(77, not_a_number);
  bad.model.set_masks(0.0, 2);
  bits::clear(bad.model.tensors[0].mask.data(), 5);
  const auto bytes = bad.model.bytes();
  const Outcome got = run(bad);
  EXPECT_EQ(got.report.status, cuda::status::nan | cuda::status::failed);
  EXPECT_EQ(got.report.nan, 2);
  EXPECT_EQ(got.report.first_nan, 3 * 1056 + 77);
  EXPECT_EQ(bad.model.bytes(), bytes);
  for (std::size_t t = 0; t < 2; ++t)
    EXPECT_TRUE(std::equal(got.masks[t].begin(), got.masks[t].end(), bad.model.tensors[t].mask.data()));

  const FreshMasks masks(bad.model.inputs());
  EmulatedCuda engine;
  for (const std::int64_t k : {std::int64_t{-1}, bad.model.numel() + 1})
    EXPECT_EQ(engine.step(bad.model.inputs(), Identity{}, {.k = k}, bad.options, masks.table()).status &
                  (cuda::status::bad_k | cuda::status::failed),
              cuda::status::bad_k | cuda::status::failed);
  EXPECT_EQ(bad.model.bytes(), bytes);
}

TEST(CudaGroups, ArgumentsAreRefusedAsOnTheHost) {
  const GroupStep step{.model = matrices({{4, 6}}, {DType::f32})};
  const auto inputs = step.model.inputs();
  const FreshMasks masks(inputs);
  EmulatedCuda engine;
  const auto with = [&](const cuda::StepOptions& options, MaskTable table) {
    engine.step(inputs, Magnitude{}, {.k = 12}, options, table);
  };
  EXPECT_THROW(with({.scope = {Scope::n_of_m, 2, 4}}, masks.table()), ShapeError);
  EXPECT_NO_THROW(with({.scope = {Scope::n_of_m, 2, 4}, .remainder = Remainder::keep}, masks.table()));
  EXPECT_THROW(with({.ties = Ties::below, .scope = {Scope::row}}, masks.table()), ArgumentError);
  EXPECT_THROW(with({.scope = {Scope::row}, .max_tensor_sparsity = 0.5}, masks.table()), ArgumentError);
  EXPECT_THROW(with({.scope = {Scope::row}}, {}), ArgumentError);
}

// The same bits and the same report under 40 orders of threads and several grids.
TEST(CudaGroups, OrderOfThreadsNeverShows) {
  Model model = matrices({{2, 1600}, {3, 200}, {30, 10}, {4, 130}}, {DType::f32}, 3);
  model.tensors[3].geometry = {4, 130, 1, 1, 4};
  for (std::size_t i = 0; i < model.tensors[0].weight.size(); i += 2) model.tensors[0].weight.set(i, 0.01f);
  model.set_masks(0.2, 3);
  for (const Scope scope : {Scope{Scope::row}, Scope{Scope::n_of_m, 2, 4}, Scope{Scope::n_of_m, 50, 65}}) {
    GroupStep step{.model = model,
                   .budget = scope.of ? Budget{} : Budget{.sparsity = 0.5},
                   .options = {.scope = scope, .remainder = Remainder::keep}};
    const Outcome first = run(step);
    expect_groups_of_reference(model, step, first);
    for (std::uint64_t seed = 2; seed < 42; ++seed) {
      step.seed = seed;
      step.processors = 1 + static_cast<unsigned>(seed % 3);
      const Outcome got = run(step);
      ASSERT_TRUE(same_masks(first.masks, got.masks)) << "seed " << seed;
      ASSERT_EQ(std::memcmp(&first.report, &got.report, sizeof got.report), 0) << "seed " << seed;
    }
  }
}

}  // namespace
}  // namespace bittersweet::test
