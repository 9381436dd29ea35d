// Trackers of models in the middle of their training, and what the reference engine makes of them.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <string>

#include "bittersweet/engine/reference_track.hpp"
#include "bittersweet/track.hpp"
#include "support/inputs.hpp"

namespace bittersweet::test {

// What every tracker keeps of every tensor of a model.
struct Tracked {
  Model model;
  std::vector<Array> previous, average;
  std::vector<Coherence> scalars;
  std::vector<std::int64_t> updates;
  std::vector<std::vector<std::int64_t>> positions;
  std::vector<Values> sketched;

  static constexpr std::uint64_t seed = 0x0123456789abcdefu;
  static constexpr std::uint32_t stream_of(std::size_t t) {
    return t == 0 ? (1u << 23) - 1 : static_cast<std::uint32_t>(t);
  }

  Tracked(const Model& of, DType previous_type, DType average_type, std::int64_t updates_before = 0)
      : model(of), scalars(of.tensors.size()), updates(of.tensors.size(), updates_before) {
    Generator random(static_cast<std::uint64_t>(of.tensors.size()));
    for (const Tensor& tensor : of.tensors) {
      const auto rubbish = [&] {
        return generate(tensor.numel, [&](std::int64_t i) { return i % 7 == 0 ? 0.0 : 1e-2 * random.normal(); });
      };
      previous.emplace_back(rubbish(), previous_type, Placement::flush);
      average.emplace_back(rubbish(), average_type, Placement::flush);
      positions.push_back(sketch_positions(tensor.name, tensor.numel, seed));
      sketched.emplace_back(positions.back().size(), -77.0f);
    }
    for (Coherence& of_tensor : scalars) of_tensor.updates = static_cast<double>(updates_before);
  }

  std::vector<CoherenceMemory> coherence() {
    std::vector<CoherenceMemory> all;
    for (std::size_t t = 0; t < scalars.size(); ++t)
      all.push_back({previous[t].view(), average[t].view(), &scalars[t], {seed, stream_of(t)}});
    return all;
  }
  std::vector<SnapshotMemory> snapshots() {
    std::vector<SnapshotMemory> all;
    for (std::size_t t = 0; t < scalars.size(); ++t) all.push_back({previous[t].view(), &scalars[t]});
    return all;
  }
  std::vector<SketchMemory> sketches() {
    std::vector<SketchMemory> all;
    for (std::size_t t = 0; t < scalars.size(); ++t)
      all.push_back(
          {positions[t].data(), static_cast<std::int64_t>(positions[t].size()), sketched[t].data(), &scalars[t]});
    return all;
  }
  std::vector<MovementMemory> movements() {
    std::vector<MovementMemory> all;
    for (std::size_t t = 0; t < scalars.size(); ++t)
      all.push_back({average[t].view(), &updates[t], 1e-3f * static_cast<float>(t + 1), {seed, stream_of(t)}});
    return all;
  }

  // One training step: weights, states and gradients move, in a way that only the step decides.
  void advance(std::uint64_t step) {
    Generator random(1000 + step);
    for (Tensor& tensor : model.tensors)
      for (std::size_t i = 0; i < tensor.weight.size(); ++i) {
        tensor.weight.set(i, tensor.weight[i] + static_cast<float>(1e-2 * random.normal()));
        tensor.exp_avg.set(i, static_cast<float>(1e-3 * random.normal()));
        tensor.exp_avg_sq.set(i, static_cast<float>(1e-6 * std::fabs(random.normal())));
      }
  }
};

// ---- the verbs by the reference engine ----

inline void reference_coherence(Tracked& of, double decay) {
  const auto inputs = of.model.inputs();
  std::vector<TrackSums> sums(inputs.size());
  ReferenceTracker{}.track_coherence(inputs, make_chunks(inputs), of.coherence(), static_cast<float>(decay), sums);
  for (std::size_t t = 0; t < sums.size(); ++t) observe(of.scalars[t], sums[t], decay);
}
inline std::vector<double> reference_retention(Tracked& of) {
  const auto inputs = of.model.inputs();
  std::vector<TrackSums> sums(inputs.size());
  ReferenceTracker{}.measure_retention(inputs, make_chunks(inputs), of.coherence(), sums);
  std::vector<double> found;
  for (const TrackSums& sum : sums) found.push_back(cosine(sum.xy, sum.xx, sum.yy).value_or(0.0));
  return found;
}
inline void reference_snapshot(Tracked& of) {
  const auto inputs = of.model.inputs();
  std::vector<TrackSums> sums(inputs.size());
  ReferenceTracker{}.compare_snapshot(inputs, make_chunks(inputs), of.snapshots(), sums);
  for (std::size_t t = 0; t < sums.size(); ++t) observe(of.scalars[t], sums[t], 0.0);
}
inline void reference_sketch(Tracked& of, double decay) {
  const auto inputs = of.model.inputs();
  const auto sketches = of.sketches();
  for (std::size_t t = 0; t < inputs.size(); ++t) observe(of.scalars[t], sketch_tensor(inputs[t], sketches[t]), decay);
}
inline void reference_movement(Tracked& of) {
  const auto inputs = of.model.inputs();
  ReferenceTracker{}.accumulate_movement(inputs, {}, of.movements());
  for (std::int64_t& count : of.updates) ++count;
}

// ---- comparison ----

inline bool same_numbers(const Coherence& a, const Coherence& b) {
  using AsWords = std::array<std::uint64_t, sizeof(Coherence) / 8>;
  return std::bit_cast<AsWords>(a) == std::bit_cast<AsWords>(b);
}

// NaN bits are nobody's promise.
inline void expect_same_array(const Array& expected, const Array& found, const std::string& what) {
  if (expected.bytes() == found.bytes()) return;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const float x = expected[i], y = found[i];
    if (std::bit_cast<std::uint32_t>(x) == std::bit_cast<std::uint32_t>(y) || (std::isnan(x) && std::isnan(y)))
      continue;
    ADD_FAILURE() << what << "[" << i << "] of " << expected.size() << ": " << x << " expected, found " << y;
    return;
  }
}

inline void expect_same(const Tracked& expected, const Tracked& found, const std::string& where) {
  for (std::size_t t = 0; t < expected.scalars.size(); ++t) {
    const std::string what =
        where + ", tensor " + std::to_string(t) + " of " + std::to_string(found.previous[t].size());
    EXPECT_TRUE(same_numbers(expected.scalars[t], found.scalars[t]))
        << what << ": direction " << expected.scalars[t].direction.value << " expected, found "
        << found.scalars[t].direction.value;
    EXPECT_EQ(expected.updates[t], found.updates[t]) << what;
    expect_same_array(expected.previous[t], found.previous[t], what + ", previous");
    expect_same_array(expected.average[t], found.average[t], what + ", average");
    EXPECT_EQ(expected.sketched[t], found.sketched[t]) << what;
    EXPECT_TRUE(found.previous[t].intact() && found.average[t].intact()) << what;
  }
  EXPECT_EQ(expected.model.bytes(), found.model.bytes()) << where;
  EXPECT_TRUE(found.model.intact()) << where;
}

struct TrackCase {
  std::string name;
  Model model;
};

// Sizes around lanes, groups, blocks and chunks; all types alone and mixed; masks; any bits.
inline std::vector<TrackCase> track_cases() {
  constexpr DType f32 = DType::f32, f16 = DType::f16, bf16 = DType::bf16;
  const std::vector<std::int64_t> sizes{1, 2, 0, 15, 16, 17, 63, 64, 65, 127, 128, 129, 4095, 4096, 4097};
  std::vector<TrackCase> all;
  all.push_back({"f32", training_model(sizes, {f32})});
  all.push_back({"bf16 under masks, flush", training_model(sizes, {bf16}, 2, Placement::flush)});
  all.back().model.set_masks(0.3, 1);
  all.push_back({"mixed, mostly dead", training_model(sizes, {f32, f16, bf16, bf16, f32}, 3, Placement::flush)});
  all.back().model.set_masks(0.9, 2);
  all.push_back({"several chunks", training_model({65537, 5, 70001}, {f32}, 4)});
  all.back().model.set_masks(0.5, 3);
  all.back().model.tensors[0].masked = false;
  all.push_back({"halves, one more than a chunk", training_model({65600, 9001}, {bf16, f16}, 5, Placement::flush)});
  all.push_back({"any bits", training_model({4097, 1000}, {f32}, 6)});
  all.push_back({"any bits under masks", training_model({300, 200}, {bf16, f32}, 8)});
  all.back().model.set_masks(0.5, 4);
  Generator random(7);
  for (std::size_t which = 0; which < 2; ++which)
    for (Tensor& tensor : all[all.size() - 1 - which].model.tensors)
      for (Array* array : {&tensor.weight, &tensor.exp_avg, &tensor.exp_avg_sq, &tensor.grad})
        for (std::size_t i = 0; i < array->size(); ++i) array->set(i, random.any_float());
  return all;
}

struct Kept {
  DType previous, average;
};
inline constexpr std::array kept_types{Kept{DType::f32, DType::f32}, Kept{DType::f32, DType::bf16},
                                       Kept{DType::bf16, DType::bf16}, Kept{DType::bf16, DType::f32}};

}  // namespace bittersweet::test
