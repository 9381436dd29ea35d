// Trackers on a device of this machine against the reference engine: scalars, counts and arrays, bit for bit. Every
// test is skipped, with the reason, where there is no usable device.
#include "bittersweet/cuda_track.hpp"
#include "cuda/device_support.hpp"
#include "cuda/track_support.hpp"

namespace bittersweet::test {
namespace {

// A copy of what is tracked, on the device. `read` brings what changed back.
class DeviceTracked {
 public:
  explicit DeviceTracked(const Tracked& of) : of_(of), inputs_(of.model.inputs()) {
    for (std::size_t t = 0; t < inputs_.size(); ++t) {
      const Tensor& tensor = of.model.tensors[t];
      inputs_[t].weight = put(tensor.weight);
      inputs_[t].exp_avg = put(tensor.exp_avg);
      inputs_[t].exp_avg_sq = put(tensor.exp_avg_sq);
      inputs_[t].grad = put(tensor.grad);
      if (inputs_[t].mask != nullptr)
        inputs_[t].mask =
            put(inputs_[t].mask, 8 * static_cast<std::size_t>(bits::words(tensor.numel))).as<std::uint64_t>();
      previous_.push_back(put(of.previous[t]));
      average_.push_back(put(of.average[t]));
      scalars_.push_back(put(&of.scalars[t], sizeof(Coherence)).as<Coherence>());
      updates_.push_back(put(&of.updates[t], sizeof(std::int64_t)).as<std::int64_t>());
      positions_.push_back(put(of.positions[t].data(), 8 * of.positions[t].size()).as<std::int64_t>());
      sketched_.push_back(put(of.sketched[t].data(), 4 * of.sketched[t].size()).as<float>());
    }
  }

  std::span<const ScoreInputs> inputs() const { return inputs_; }
  std::size_t bytes() const { return cuda::track_workspace_bytes(inputs_); }
  std::vector<CoherenceMemory> coherence() const {
    std::vector<CoherenceMemory> all;
    for (std::size_t t = 0; t < inputs_.size(); ++t)
      all.push_back({previous_[t], average_[t], scalars_[t], {Tracked::seed, Tracked::stream_of(t)}});
    return all;
  }
  std::vector<SnapshotMemory> snapshots() const {
    std::vector<SnapshotMemory> all;
    for (std::size_t t = 0; t < inputs_.size(); ++t) all.push_back({previous_[t], scalars_[t]});
    return all;
  }
  std::vector<SketchMemory> sketches() const {
    std::vector<SketchMemory> all;
    for (std::size_t t = 0; t < inputs_.size(); ++t)
      all.push_back({positions_[t], static_cast<std::int64_t>(of_.positions[t].size()), sketched_[t], scalars_[t]});
    return all;
  }
  std::vector<MovementMemory> movements() const {
    std::vector<MovementMemory> all;
    for (std::size_t t = 0; t < inputs_.size(); ++t)
      all.push_back(
          {average_[t], updates_[t], 1e-3f * static_cast<float>(t + 1), {Tracked::seed, Tracked::stream_of(t)}});
    return all;
  }

  Tracked read() const {
    check(cudaDeviceSynchronize());
    Tracked found = of_;
    const auto fetch = [](void* to, const void* from, std::size_t bytes) {
      if (bytes > 0) check(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost));
    };
    for (std::size_t t = 0; t < inputs_.size(); ++t) {
      fetch(found.previous[t].view().data, previous_[t].data, found.previous[t].bytes().size());
      fetch(found.average[t].view().data, average_[t].data, found.average[t].bytes().size());
      fetch(&found.scalars[t], scalars_[t], sizeof(Coherence));
      fetch(&found.updates[t], updates_[t], sizeof(std::int64_t));
      fetch(found.sketched[t].data(), sketched_[t], 4 * found.sketched[t].size());
    }
    return found;
  }

 private:
  const Memory& put(const void* data, std::size_t bytes) {
    memory_.push_back(std::make_unique<Memory>(data, bytes));
    return *memory_.back();
  }
  TensorView put(const Array& array) {
    const std::vector<unsigned char> bytes = array.bytes();
    return {put(bytes.data(), bytes.size()).as<void>(), array.dtype()};
  }

  Tracked of_;
  std::vector<std::unique_ptr<Memory>> memory_;
  std::vector<ScoreInputs> inputs_;
  std::vector<TensorView> previous_, average_;
  std::vector<Coherence*> scalars_;
  std::vector<std::int64_t*> updates_;
  std::vector<const std::int64_t*> positions_;
  std::vector<float*> sketched_;
};

using DeviceTrackTest = DeviceTest;

TEST_F(DeviceTrackTest, CoherenceAndRetention) {
  for (const TrackCase& one : track_cases())
    for (const Kept& kept : kept_types) {
      Tracked expected(one.model, kept.previous, kept.average, 1);
      const DeviceTracked there(expected);
      const Memory workspace(there.bytes()), retention(8 * one.model.tensors.size());
      for (int step = 0; step < 3; ++step) {
        reference_coherence(expected, 0.9);
        cuda::track_coherence(queue_, there.inputs(), there.coherence(), 0.9, workspace.as<void>(), there.bytes());
      }
      cuda::measure_retention(queue_, there.inputs(), there.coherence(), retention.as<double>(), workspace.as<void>(),
                              there.bytes());
      expect_same(expected, there.read(), one.name);
      EXPECT_EQ(retention.read<double>(), reference_retention(expected)) << one.name;
    }
}

TEST_F(DeviceTrackTest, SnapshotsSketchesAndMovement) {
  for (const TrackCase& one : track_cases())
    for (const DType type : {DType::f32, DType::bf16}) {
      Tracked expected(one.model, type, type, 1);
      const DeviceTracked there(expected);
      const Memory workspace(there.bytes());
      for (int step = 0; step < 2; ++step) {
        reference_snapshot(expected);
        cuda::compare_snapshot(queue_, there.inputs(), there.snapshots(), workspace.as<void>(), there.bytes());
        reference_sketch(expected, 0.75);
        cuda::track_sketch(queue_, there.inputs(), there.sketches(), 0.75);
        reference_movement(expected);
        cuda::accumulate_movement(queue_, there.inputs(), there.movements());
      }
      expect_same(expected, there.read(), one.name);
    }
}

// Counts lie on the device, so that each replay draws anew.
TEST_F(DeviceTrackTest, CapturedOnceAndReplayed) {
  Tracked expected(training_model({70001, 300, 5}, {DType::f32, DType::bf16}), DType::f32, DType::bf16, 1);
  const DeviceTracked there(expected);
  const Memory workspace(there.bytes());
  const auto enqueue = [&] {
    cuda::track_coherence(queue_, there.inputs(), there.coherence(), 0.9, workspace.as<void>(), there.bytes());
    cuda::accumulate_movement(queue_, there.inputs(), there.movements());
  };
  enqueue();  // kernels are loaded at their first launch
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t run = nullptr;
  check(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeGlobal));
  enqueue();
  check(cudaStreamEndCapture(stream(), &graph));
  check(cudaGraphInstantiate(&run, graph, 0));
  for (int replay = 0; replay < 3; ++replay) check(cudaGraphLaunch(run, stream()));
  for (int step = 0; step < 4; ++step) {
    reference_coherence(expected, 0.9);
    reference_movement(expected);
  }
  expect_same(expected, there.read(), "replayed");
  cudaGraphExecDestroy(run);
  cudaGraphDestroy(graph);
}

}  // namespace
}  // namespace bittersweet::test
