// The verbs of a selection that several ranks make together, on the devices of this machine against the reference
// engine. Every test is skipped, with the reason, where there is no usable device.
#include "bittersweet/engine/reference.hpp"
#include "cuda/device_model.hpp"

namespace bittersweet::test {
namespace {

const std::vector<std::int64_t> sizes{1, 31, 0, 33, 1024, 1025, 70008, 2400};

class DeviceRounds : public DeviceTest {
 protected:
  std::vector<std::int64_t> read(const Memory& bins) const {
    check(cudaStreamSynchronize(stream()));
    return bins.read<std::int64_t>();
  }

  void compare(const Model& model, const Scorer& scorer, float low, float high, bool aligned) {
    if (key_of(high) - key_of(low) >= 0x80000000u) high = 0.0f;  // wider than a bracket of a device can be
    SCOPED_TRACE(std::string(info_of(scorer).name) + (aligned ? "" : ", misaligned"));
    const std::vector<ScoreInputs> inputs = model.inputs();
    const ScoreView view = make_view(inputs, scorer);
    const std::vector<Chunk> chunks = make_chunks(inputs);
    const FreshMasks want_masks(inputs);
    Workspace here;
    ReferenceEngine reference;
    const BracketResult want = reference.bracket(view, chunks, {low, high}, want_masks.table(), view.size(), here);

    const DeviceModel there(model, aligned);
    const std::size_t bytes = cuda::step_workspace_bytes(there.inputs(), scorer, {}, true);
    const Memory workspace(bytes), report(sizeof(cuda::BracketReport));
    cuda::bracket(queue_, there.inputs(), scorer, {low, high}, there.table(), workspace.as<void>(), bytes,
                  report.as<cuda::BracketReport>());
    check(cudaStreamSynchronize(stream()));
    const cuda::BracketReport found = report.read<cuda::BracketReport>().front();
    EXPECT_EQ(found.counts, want.total);
    EXPECT_EQ(found.overflow, 0);
    EXPECT_TRUE(same_masks(want_masks.bits(), there.read_masks()));

    std::vector<std::int64_t> units;
    for (std::size_t t = 0; t < inputs.size(); ++t) units.push_back(t % 4 == 1 ? -1 : static_cast<std::int64_t>(t) / 2);
    const std::uint32_t key = key_of(low);
    for (const KeyRange& keys : {KeyRange{key + 1, 1, 0, 4, 1}, KeyRange{key, 30000, 0, 2, 2},
                                 KeyRange{1, ~0u - 1, 15, 1, 4}, KeyRange{key, 0, 0, 1, 4}}) {
      std::vector<std::int64_t> bins(static_cast<std::size_t>(keys.bins()) + 3);
      reference.tally(chunks, want.candidates, units, keys, bins);
      const Memory out(8 * bins.size());
      cuda::tally(queue_, there.inputs(), units, keys, workspace.as<void>(), bytes,
                  {out.as<std::int64_t>(), bins.size()});
      EXPECT_EQ(read(out), bins);
    }

    for (std::size_t t = 0; t < inputs.size(); ++t) {
      const std::int64_t outer = inputs[t].numel % 24 == 0 && inputs[t].numel > 0 ? 24 : 1;
      const RunMap map{.length = std::max<std::int64_t>(inputs[t].numel / outer, 1),
                       .parts = 3,
                       .part = 1,
                       .axes = 2,
                       .shape = {5, 14},
                       .offset = {1, 2},
                       .size = {outer == 1 ? 1 : 2, outer == 1 ? 1 : 12}};
      for (const RunRange& runs : {RunRange{map, 0, 210, 1}, RunRange{map, 20, 100, 7}}) {
        std::vector<std::int64_t> bins(static_cast<std::size_t>(runs.bins()) + 2);
        reference.count_runs(view, t, low, runs, bins);
        const Memory out(8 * bins.size());
        cuda::count_runs(queue_, there.inputs(), scorer, t, low, runs, {out.as<std::int64_t>(), bins.size()});
        EXPECT_EQ(read(out), bins) << "tensor " << t;
      }
    }
  }
};

float score_at_rank(const Model& model, const Scorer& scorer, double share) {
  const std::vector<ScoreInputs> inputs = model.inputs();
  std::vector<Values> scores;
  std::vector<float*> to;
  for (const ScoreInputs& tensor : inputs) scores.emplace_back(static_cast<std::size_t>(tensor.numel));
  for (Values& values : scores) to.push_back(values.data());
  ReferenceEngine().write_scores(make_view(inputs, scorer), {}, to);
  Values all;
  for (const Values& values : scores)
    for (const float score : values)
      if (!std::isnan(score)) all.push_back(score);
  std::sort(all.begin(), all.end());
  return all[static_cast<std::size_t>(share * static_cast<double>(all.size() - 1))];
}

TEST_F(DeviceRounds, EveryScorerAndDtype) {
  const std::vector<std::vector<DType>> dtypes{
      {DType::f32}, {DType::bf16}, {DType::f16}, {DType::bf16, DType::f32, DType::f32}};
  std::uint64_t seed = 0;
  for (const Scorer& scorer : all_scorers())
    for (const auto& types : dtypes)
      for (const bool aligned : {true, false}) {
        if (info_of(scorer).name == "bitter8") continue;  // approximate here
        Model model = training_model(sizes, types, ++seed);
        if (seed % 3 == 0) model.set_masks(0.5, seed);
        compare(model, scorer, score_at_rank(model, scorer, 0.3), score_at_rank(model, scorer, 0.8), aligned);
      }
}

TEST_F(DeviceRounds, ThousandsOfTies) {
  for (const char* name : {"three_values", "half_zeros", "all_equal", "half_normal"}) {
    SCOPED_TRACE(name);
    const Model model = model_of({values_named(name, 131149, 2), values_named(name, 24000, 1)});
    const float value = score_at_rank(model, Identity{}, 0.5);
    compare(model, Identity{}, std::min(value, 0.0f), value + 1.0f, true);
    compare(model, Identity{}, value, value, true);
  }
}

TEST_F(DeviceRounds, RandomNumbersOfParts) {
  const Model model = training_model({70001, 1024}, {DType::f32}, 3);
  const DeviceModel there(model, true);
  std::vector<ScoreInputs> inputs = model.inputs(), parts(there.inputs().begin(), there.inputs().end());
  std::vector<Values> want;
  std::vector<Memory> found;
  std::vector<float*> here, out;
  for (std::size_t t = 0; t < inputs.size(); ++t) {
    inputs[t].origin = parts[t].origin = t == 0 ? 12345 : std::int64_t{1} << 34;
    want.emplace_back(static_cast<std::size_t>(inputs[t].numel));
    found.emplace_back(4 * want.back().size());
    out.push_back(found.back().as<float>());
  }
  for (Values& values : want) here.push_back(values.data());
  ReferenceEngine().write_scores(make_view(inputs, Random{}), {}, here);
  cuda::write_scores(queue_, parts, Random{}, out);
  check(cudaStreamSynchronize(stream()));
  for (std::size_t t = 0; t < inputs.size(); ++t) EXPECT_TRUE(same_floats(want[t], found[t].read<float>()));
}

}  // namespace
}  // namespace bittersweet::test
