// The optimizer's pass of the CUDA engine with stochastic rounding, on the emulator against the reference engine.
#include "bittersweet/error.hpp"
#include "cuda/adam_emulated.hpp"

namespace bittersweet::test {
namespace {

// bf16 weights and moments are drawn by the count that the device holds; tensors without a key are rounded to nearest.
TEST(CudaAdamDrawn, DrawnTensorsHaveTheReferencesBits) {
  std::uint64_t seed = 300;
  for (const AdamStorage& storage : adam_storages) {
    if (storage.weight == DType::f16) continue;
    for (const AdamPlacement placement : {AdamPlacement::aligned, AdamPlacement::flush, AdamPlacement::offset})
      for (const double dead : {-1.0, 0.5, 1.0})
        for (const AdamCall& call :
             {AdamCall{}, AdamCall{.rounding = {false}, .scale = 8}, AdamCall{.weights_only = true}}) {
          SCOPED_TRACE(show(storage, placement) + ", dead " + std::to_string(dead));
          AdamModel model = adam_model(storage, ++seed, placement);
          AdamOptions options = telling;
          options.amsgrad = seed % 2 != 0;
          model.set_options(options);
          if (dead >= 0) model.set_masks(dead, seed);
          AdamModel expected = model, nearest = model;
          for (int step = 0; step < 2; ++step) {
            std::vector<std::optional<RoundingKey>> draws(model.tensors.size());
            for (std::size_t t = 0; t < draws.size(); ++t)
              if (t % 4 != 1)
                draws[t] = RoundingKey{~seed << 20, static_cast<std::uint32_t>(model.tensors[t].step) + 1,
                                       static_cast<std::uint32_t>(t * 1000)};
            AdamCall drawn = call;
            drawn.draws = draws;
            const std::vector<std::uint32_t> dirty = reference_step(expected, drawn);
            EXPECT_EQ(emulated_step(model, drawn, nullptr, ++seed).dirty, dirty);
          }
          expect_same(expected, model);
          if (storage.weight != DType::bf16 || dead == 1.0) continue;
          reference_step(nearest, call);
          reference_step(nearest, call);
          EXPECT_FALSE(nearest.bytes() == model.bytes());
        }
  }
}

TEST(CudaAdamDrawn, DrawsThatCannotBeAreRefused) {
  const auto with = [](std::size_t storage, std::uint32_t stream, std::size_t count) {
    AdamModel model = adam_model(adam_storages[storage], 3, AdamPlacement::aligned, {64, 64});
    const std::vector<std::optional<RoundingKey>> draws(count, RoundingKey{1, 1, stream});
    AdamCall call;
    call.draws = draws;
    emulated_step(model, call);
  };
  EXPECT_THROW(with(3, 0, 2), DTypeError);
  EXPECT_THROW(with(1, 1u << 22, 2), ArgumentError);
  EXPECT_THROW(with(1, 0, 1), ShapeError);
  EXPECT_NO_THROW(with(1, 0, 2));
}

}  // namespace
}  // namespace bittersweet::test
