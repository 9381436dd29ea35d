// The CUDA engine's verbs outside a step, on the emulator.
#include "cuda/step_support.hpp"

namespace bittersweet::test {
namespace {

TEST(CudaVerbs, WriteScores) {
  std::uint64_t seed = 0;
  for (const Scorer& scorer : all_scorers())
    for (const std::vector<DType>& dtypes : storages()) {
      Model model = training_model({1, 1500, 33, 0, 1024}, dtypes, ++seed);
      model.tensors[1].modifier = 0.5f;
      const std::vector<ScoreInputs> inputs = model.inputs();
      std::vector<Values> want, got;
      std::vector<float*> to_want, to_got;
      for (const ScoreInputs& tensor : inputs) {
        want.emplace_back(static_cast<std::size_t>(tensor.numel), -7.0f);
        got.emplace_back(static_cast<std::size_t>(tensor.numel), -7.0f);
      }
      for (std::size_t t = 0; t < inputs.size(); ++t) {
        to_want.push_back(want[t].data());
        to_got.push_back(got[t].data());
      }
      ReferenceEngine().write_scores(make_view(inputs, scorer), {}, to_want);
      EmulatedCuda(seed).write_scores(inputs, scorer, to_got);
      for (std::size_t t = 0; t < inputs.size(); ++t)
        EXPECT_TRUE(same_floats(want[t], got[t])) << name_of(scorer) << ", tensor " << t;
    }
}

TEST(CudaVerbs, ApplyCountAndVerify) {
  std::uint64_t seed = 0;
  for (const std::vector<DType>& dtypes : storages())
    for (const Placement placement : {Placement::flush, Placement::offset}) {
      Model model = training_model({2100, 1024, 0, 31, 3072, 1}, dtypes, ++seed, placement);
      model.set_masks(seed % 2 ? 0.5 : 0.05, seed);
      model.tensors[1].mask.fill(0);
      model.tensors[4].mask.fill(~std::uint64_t{0});
      const std::vector<ScoreInputs> inputs = model.inputs();
      std::vector<const std::uint64_t*> masks;
      for (const ScoreInputs& tensor : inputs) masks.push_back(tensor.mask);
      constexpr std::uint32_t which = roles::weight | roles::exp_avg_sq | roles::grad;
      ReferenceEngine reference;
      EmulatedCuda engine(seed);
      std::vector<std::int64_t> want(inputs.size());
      reference.popcount(inputs, masks, want);
      EXPECT_EQ(engine.count_live(inputs, masks), want);
      reference.verify_mask(inputs, {}, masks, which, want);
      EXPECT_EQ(engine.count_violations(inputs, masks, which), want);

      const auto before = model.bytes();
      const std::uint32_t shut = cuda::status::failed, open = cuda::status::overflow;
      engine.apply_masks(inputs, masks, which, &shut);
      EXPECT_EQ(model.bytes(), before) << "a shut gate let a write through";
      Model expected = model;
      reference.apply_mask(expected.inputs(), {}, masks, which);
      engine.apply_masks(inputs, masks, which, &open);
      EXPECT_EQ(model.bytes(), expected.bytes());
      EXPECT_TRUE(model.intact());
      EXPECT_EQ(engine.count_violations(inputs, masks, which), std::vector<std::int64_t>(inputs.size(), 0));
    }
}

TEST(CudaVerbs, NoMaskMeansAllLive) {
  const Model model = training_model({70, 2000}, {DType::f32});
  const std::vector<const std::uint64_t*> none(2, nullptr);
  EXPECT_EQ(EmulatedCuda().count_live(model.inputs(), none), (std::vector<std::int64_t>{70, 2000}));
}

// The kernel that proves the margins on a device, over some floats of the host, whose roots are IEEE.
TEST(CudaVerbs, ProveMargin) {
  const cuda::MarginProof proof = EmulatedCuda().prove_margin(4099);
  EXPECT_EQ(proof.checked, 0x7f800000u / 4099 + 1);
  EXPECT_EQ(proof.wrong_roots, 0u);
  EXPECT_GT(proof.rough_error, 0.0f);
  EXPECT_LT(proof.rough_error, 0x1p-22f);
  EXPECT_LT(proof.reciprocal_error, 0x1p-22f);
}

}  // namespace
}  // namespace bittersweet::test
