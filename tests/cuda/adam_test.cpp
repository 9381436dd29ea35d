// The optimizer's pass of the CUDA engine on the emulator against the reference engine, bit by bit.
#include "bittersweet/error.hpp"
#include "cuda/adam_emulated.hpp"

namespace bittersweet::test {
namespace {

TEST(CudaAdam, SizesStoragesAndPlacements) {
  std::uint64_t seed = 0;
  for (const AdamStorage& storage : adam_storages)
    for (const AdamPlacement placement : {AdamPlacement::aligned, AdamPlacement::flush, AdamPlacement::offset})
      for (const double dead : {-1.0, 0.0, 0.5, 0.95, 1.0})
        for (const AdamRounding& rounding : {AdamRounding{}, AdamRounding{false}, AdamRounding{true, 16, 32}}) {
          SCOPED_TRACE(show(storage, placement) + ", dead " + std::to_string(dead) + ", lanes " +
                       std::to_string(rounding.contracted ? rounding.lanes_f32 : 0));
          AdamModel model = adam_model(storage, ++seed, placement);
          model.set_options(telling);
          for (AdamTensor& tensor : model.tensors) tensor.options.amsgrad = seed % 2 != 0;
          if (dead >= 0) model.set_masks(dead, seed);
          expect_like_reference(model, {.rounding = rounding}, 2, seed);
        }
}

// The last elements are rounded by a rule of their own, wherever they lie against vectors and tiles.
TEST(CudaAdam, TailsOfEveryLength) {
  for (const AdamStorage& storage : adam_storages)
    for (const AdamRounding& rounding :
         {AdamRounding{true, 8, 16}, AdamRounding{true, 16, 32}, AdamRounding{true, 7, 31}, AdamRounding{true, 1, 1}}) {
      SCOPED_TRACE(show(storage, AdamPlacement::aligned) + ", lanes " + std::to_string(rounding.lanes_f32));
      std::vector<std::int64_t> sizes;
      for (std::int64_t n = 0; n < 70; ++n) sizes.push_back(n);
      for (std::int64_t n = 1020; n < 1060; ++n) sizes.push_back(n);
      AdamModel model = adam_model(storage, 5, AdamPlacement::aligned, sizes);
      model.set_options(telling);
      expect_like_reference(model, {.rounding = rounding});
    }
}

// The rules do differ on these inputs, or equality would show nothing.
TEST(CudaAdam, RoundingsAreTold) {
  for (const AdamStorage& storage : adam_storages) {
    AdamModel fused = adam_model(storage, 5, AdamPlacement::aligned, std::vector<std::int64_t>(400, 31));
    fused.set_options(telling);
    AdamModel plain = fused, all_rest = fused;
    for (int call = 0; call < 3; ++call) {
      emulated_step(fused);
      emulated_step(plain, {.rounding = {false}});
      emulated_step(all_rest, {.rounding = {true, 16, 32}});
    }
    EXPECT_FALSE(fused.bytes() == plain.bytes());
    EXPECT_FALSE(fused.bytes() == all_rest.bytes());
    AdamModel expected = fused;
    reference_step(expected, {});
    emulated_step(fused);
    expect_same(expected, fused);
  }
}

TEST(CudaAdam, Options) {
  std::uint64_t seed = 40;
  for (const AdamStorage& storage : adam_storages)
    for (const bool decoupled : {true, false})
      for (const bool amsgrad : {true, false})
        for (const bool maximize : {true, false})
          for (const AdamOptions& values :
               {AdamOptions{}, telling, AdamOptions{.lr = 0}, AdamOptions{.lr = 0.1, .beta1 = 0, .beta2 = 0},
                AdamOptions{.lr = 0.5, .beta1 = 0.5, .weight_decay = 3}}) {
            AdamModel model = adam_model(storage, ++seed, AdamPlacement::aligned, {5, 64, 300});
            AdamOptions options = values;
            options.decoupled = decoupled;
            options.amsgrad = amsgrad;
            options.maximize = maximize;
            model.set_options(options);
            model.set_masks(0.3, seed);
            expect_like_reference(model, {}, 3, seed);
          }
}

TEST(CudaAdam, EachTensorByItsOwn) {
  AdamModel model;
  for (std::size_t t = 0; t < 40; ++t) {
    model.tensors.push_back(adam_tensor(static_cast<std::int64_t>(t * 37 % 200), adam_storages[t % 4], t,
                                        static_cast<AdamPlacement>(t % 3)));
    AdamTensor& tensor = model.tensors.back();
    tensor.options = {.lr = 0.001 * static_cast<double>(t),
                      .beta1 = 0.8 + 0.004 * static_cast<double>(t),
                      .weight_decay = t % 5 * 0.1,
                      .decoupled = t % 2 == 0,
                      .amsgrad = t % 3 == 0,
                      .maximize = t % 7 == 0};
    tensor.step = static_cast<float>(t * t * 100);
    if (t % 4 == 1) tensor.lr = 0.25f;
    tensor.masked = t % 3 != 1;
    tensor.mask = random_mask(tensor.numel, 0.4, t);
  }
  expect_like_reference(model, {}, 3);
}

TEST(CudaAdam, FewLaunchesWhateverTheNumberOfTensors) {
  for (const auto& [tensors, launches] : {std::pair{0, 0}, {1, 2}, {148, 2}, {440, 2}, {441, 3}, {1000, 6}}) {
    AdamModel model = adam_model(adam_storages[0], 3, AdamPlacement::aligned,
                                 std::vector<std::int64_t>(static_cast<std::size_t>(tensors), 19));
    model.set_masks(0.5, 3);
    AdamModel expected = model;
    const std::vector<std::uint32_t> dirty = reference_step(expected, {});
    const Left left = emulated_step(model);
    EXPECT_EQ(left.launches, launches) << tensors << " tensors";
    EXPECT_EQ(left.dirty, dirty);
    expect_same(expected, model);
  }
}

// Dead places end as +0 whatever they and the gradient held.
TEST(CudaAdam, NothingSurvivesWhereItIsDead) {
  const Values nasty{not_a_number, infinity, -infinity, -0.0f, tiniest, 3e38f, 0.0f};
  std::uint64_t seed = 70;
  for (const AdamStorage& storage : adam_storages)
    for (const AdamPlacement placement : {AdamPlacement::aligned, AdamPlacement::offset})
      for (const double dead : {0.5, 0.9, 1.0}) {
        AdamModel model = adam_model(storage, ++seed, placement);
        model.set_masks(dead, seed);
        AdamOptions options = telling;
        options.amsgrad = true;
        options.eps = 0;
        model.set_options(options);
        Generator random(seed);
        for (AdamTensor& tensor : model.tensors)
          for (std::size_t i = 0; i < static_cast<std::size_t>(tensor.numel); ++i)
            if (tensor.is_dead(i))
              for (Array* array : tensor.arrays())
                array->set(i, nasty[static_cast<std::size_t>(random.below(std::ssize(nasty)))]);
        expect_like_reference(model, {}, 1, seed);
        emulated_step(model);
        for (const AdamTensor& tensor : model.tensors)
          for (const Array* array : {&tensor.w, &tensor.m, &tensor.v, &tensor.largest})
            for (std::size_t i = 0; i < static_cast<std::size_t>(tensor.numel); ++i) {
              if (tensor.is_dead(i)) {
                ASSERT_TRUE(same_bits((*array)[i], 0.0f)) << i;
              }
            }
      }
}

TEST(CudaAdam, LiveNumbersThatAreNone) {
  for (const AdamStorage& storage : adam_storages) {
    AdamModel model = adam_model(storage, 9, AdamPlacement::aligned, {300});
    model.set_options(telling);
    AdamModel expected = model;
    for (AdamModel* m : {&model, &expected}) {
      m->tensors[0].g.set(5, not_a_number);
      m->tensors[0].g.set(299, infinity);
      m->tensors[0].w.set(77, -infinity);
    }
    reference_step(expected, {});
    emulated_step(model);
    for (std::size_t a = 0; a < 5; ++a)
      for (std::size_t i = 0; i < 300; ++i) {
        const float x = (*expected.tensors[0].arrays()[a])[i], y = (*model.tensors[0].arrays()[a])[i];
        ASSERT_TRUE(std::isnan(x) ? std::isnan(y) : same_bits(x, y)) << a << ", " << i;
      }
    EXPECT_TRUE(std::isnan(model.tensors[0].w[5]));
  }
}

TEST(CudaAdam, FoundInfForbidsEverything) {
  for (const float found : {1.0f, 2.0f, -1.0f, not_a_number}) {
    AdamModel model = adam_model(adam_storages[1], 4);
    model.set_masks(0.5, 4);
    const AdamModel before = model;
    const Left left = emulated_step(model, {.scale = 8}, &found);
    expect_same(before, model);
    EXPECT_EQ(left.dirty, std::vector<std::uint32_t>(model.tensors.size(), 0));
  }
  AdamModel model = adam_model(adam_storages[1], 4), expected = model;
  const float nothing = 0;
  reference_step(expected, {});
  emulated_step(model, {}, &nothing);
  expect_same(expected, model);
}

TEST(CudaAdam, GradientsAreDividedInPlace) {
  std::uint64_t seed = 20;
  for (const AdamStorage& storage : adam_storages)
    for (const AdamPlacement placement : {AdamPlacement::aligned, AdamPlacement::offset})
      for (const float scale : {0.0f, 1.0f, 3.0f, 65536.0f})
        for (const double dead : {-1.0, 0.5, 1.0}) {
          AdamModel model = adam_model(storage, ++seed, placement);
          if (dead >= 0) model.set_masks(dead, seed);
          const std::vector<unsigned char> before = model.tensors.back().g.bytes();
          expect_like_reference(model, {.scale = scale}, 2, seed);
          emulated_step(model, {.scale = scale});
          EXPECT_EQ(model.tensors.back().g.bytes() == before, scale == 0.0f || scale == 1.0f);
        }
}

// Masks may hold the weights alone: states of dead weights go on, and trust is void.
TEST(CudaAdam, WeightsAlone) {
  std::uint64_t seed = 30;
  for (const AdamStorage& storage : adam_storages)
    for (const AdamPlacement placement : {AdamPlacement::aligned, AdamPlacement::offset})
      for (const double dead : {0.5, 1.0})
        for (const float scale : {0.0f, 3.0f}) {
          AdamModel model = adam_model(storage, ++seed, placement);
          model.set_masks(dead, seed);
          AdamOptions options = telling;
          options.amsgrad = true;
          model.set_options(options);
          for (AdamTensor& tensor : model.tensors) tensor.trusted = seed % 2 != 0;
          expect_like_reference(model, {.scale = scale, .weights_only = true}, 2, seed);
          emulated_step(model, {.weights_only = true});
          EXPECT_TRUE(dead < 1 || model.tensors.back().m[0] != 0.0f);
        }
}

// What is known to be zero is neither read nor written: poison stays there and is not told of.
TEST(CudaAdam, TrustedGroupsAreLeftAlone) {
  for (const AdamStorage& storage : adam_storages)
    for (const bool amsgrad : {true, false}) {
      AdamModel model = adam_model(storage, 6, AdamPlacement::aligned, {4096, 100});
      for (AdamTensor& tensor : model.tensors) {
        tensor.options.amsgrad = amsgrad;
        tensor.trusted = tensor.masked = true;
        tensor.mask = Words(tensor.numel);
        tensor.mask.fill(0);
      }
      for (std::int64_t i = 0; i < 1000; ++i) bits::set(model.tensors[0].mask.data(), i);  // 1000 = 125 * 8
      const AdamModel before = model;
      AdamModel expected = model;
      reference_step(expected, {});
      const Left left = emulated_step(model);
      EXPECT_EQ(left.dirty, (std::vector<std::uint32_t>{0, 0}));
      for (std::size_t a = 0; a < 5; ++a) {
        EXPECT_EQ(model.tensors[1].arrays()[a]->bytes(), before.tensors[1].arrays()[a]->bytes());
        for (std::size_t i = 0; i < 4096; ++i)
          ASSERT_TRUE(same_bits((*model.tensors[0].arrays()[a])[i],
                                (*(i < 1000 ? expected : before).tensors[0].arrays()[a])[i]))
              << a << ", " << i;
      }

      // A group with a live element is read and repaired whole.
      bits::set(model.tensors[0].mask.data(), 2000);
      EXPECT_EQ(emulated_step(model).dirty, (std::vector<std::uint32_t>{1, 0}));
      EXPECT_TRUE(same_bits(model.tensors[0].w[2001], 0.0f));
      EXPECT_TRUE(same_bits(model.tensors[0].m[2003], 0.0f));
    }
}

TEST(CudaAdam, TrustedZerosGiveTheReferencesBits) {
  std::uint64_t seed = 90;
  for (const AdamStorage& storage : adam_storages)
    for (const double dead : {0.5, 0.99})
      for (const float scale : {0.0f, 5.0f}) {
        AdamModel model = adam_model(storage, ++seed);
        model.set_masks(dead, seed);
        emulated_step(model);  // leaves the zeros
        for (AdamTensor& tensor : model.tensors) tensor.trusted = true;
        expect_like_reference(model, {.scale = scale}, 2, seed);
      }
}

TEST(CudaAdam, DirtyWeightsAreTold) {
  for (const AdamStorage& storage : adam_storages)
    for (const std::size_t place : {std::size_t{0}, std::size_t{1023}, std::size_t{1024}, std::size_t{2099}})
      for (const float value : {tiniest, -1.0f, not_a_number, -0.0f}) {
        AdamModel model = adam_model(storage, 2, AdamPlacement::aligned, {2100, 2100});
        for (AdamTensor& tensor : model.tensors) {
          tensor.mask = random_mask(tensor.numel, 0.5, 3);
          tensor.masked = true;
        }
        emulated_step(model);
        EXPECT_EQ(emulated_step(model).dirty, (std::vector<std::uint32_t>{0, 0}));
        bits::clear(model.tensors[1].mask.data(), static_cast<std::int64_t>(place));
        model.tensors[1].w.set(place, value);
        const std::uint32_t dirty = model.tensors[1].w[place] != 0.0f;
        EXPECT_EQ(emulated_step(model).dirty, (std::vector<std::uint32_t>{0, dirty}));
        EXPECT_TRUE(same_bits(model.tensors[1].w[place], 0.0f));
      }
}

TEST(CudaAdam, ArgumentsAreCheckedFirst) {
  AdamModel model = adam_model(adam_storages[0], 1, AdamPlacement::aligned, {10, 20});
  const AdamModel before = model;
  const std::vector<ScoreInputs> inputs = model.inputs();
  const std::vector<AdamOptions> options = model.options();
  std::vector<float*> steps{&model.tensors[0].step, &model.tensors[1].step};
  std::vector<std::uint32_t> dirty(2);
  const cuda::AdamArguments good{.steps = steps, .dirty = dirty.data()};
  EmulatedCuda engine;
  const auto call = [&](const auto& change) {
    std::vector<ScoreInputs> t = inputs;
    std::vector<AdamOptions> o = options;
    cuda::AdamArguments c = good;
    change(t, o, c);
    engine.step_adam(t, o, c);
  };
  std::vector<float*> one{steps[0]}, null{steps[0], nullptr};
  const std::vector<const float*> rates(3);
  const std::vector<std::uint8_t> trusted(1);
  EXPECT_THROW(call([](auto&, auto& o, auto&) { o.pop_back(); }), ShapeError);
  EXPECT_THROW(call([&](auto&, auto&, auto& c) { c.steps = one; }), ShapeError);
  EXPECT_THROW(call([&](auto&, auto&, auto& c) { c.lr = rates; }), ShapeError);
  EXPECT_THROW(call([&](auto&, auto&, auto& c) { c.trusted = trusted; }), ShapeError);
  EXPECT_THROW(call([](auto& t, auto&, auto&) { t[1].numel = -1; }), ShapeError);
  EXPECT_THROW(call([&](auto&, auto&, auto& c) { c.steps = null; }), ArgumentError);
  EXPECT_THROW(call([](auto&, auto&, auto& c) { c.dirty = nullptr; }), ArgumentError);
  EXPECT_THROW(call([](auto&, auto&, auto& c) { c.rounding.lanes_f32 = 0; }), ArgumentError);
  EXPECT_THROW(call([](auto&, auto& o, auto&) { o[1].beta2 = 1; }), ArgumentError);
  EXPECT_THROW(call([](auto&, auto& o, auto&) { o[1].lr = -1; }), ArgumentError);
  EXPECT_THROW(call([](auto& t, auto&, auto&) { t[1].exp_avg_sq = {}; }), MissingStateError);
  EXPECT_THROW(call([](auto& t, auto& o, auto&) { o[1].amsgrad = true, t[1].max_exp_avg_sq = {}; }), MissingStateError);
  EXPECT_THROW(call([](auto& t, auto&, auto&) { t[1].grad.dtype = DType::bf16; }), DTypeError);
  EXPECT_THROW(call([](auto& t, auto&, auto&) { t[0].weight.data = static_cast<char*>(t[0].weight.data) + 1; }),
               LayoutError);
  expect_same(before, model);
  EXPECT_EQ(dirty, std::vector<std::uint32_t>(2));
  EXPECT_NO_THROW(call([](auto&, auto&, auto&) {}));
}

}  // namespace
}  // namespace bittersweet::test
