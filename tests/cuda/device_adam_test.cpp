// step_adam of cuda.hpp on a device of this machine against the reference engine: arrays, counts and flags, bit for
// bit. Every test is skipped, with the reason, where there is no usable device.
#include "cuda/adam_support.hpp"
#include "cuda/device_support.hpp"

namespace bittersweet::test {
namespace {

constexpr AdamOptions telling{.beta1 = 0.3, .beta2 = 0.95, .weight_decay = 0.1};  // betas at which roundings differ

// A copy of a model on the device, and what a call needs beside it.
class DeviceAdam {
 public:
  explicit DeviceAdam(const AdamModel& model, bool aligned = true)
      : model_(model), dirty_(4 * std::max<std::size_t>(model.tensors.size(), 1)), workspace_(bytes_needed()) {
    for (const AdamTensor& tensor : model.tensors) {
      std::vector<TensorView> views;
      for (const Array* array : tensor.arrays()) {
        const std::vector<unsigned char> bytes = array->bytes();
        arrays_.emplace_back(bytes.data(), bytes.size(), aligned ? 0 : size_of(array->dtype()));
        views.push_back({arrays_.back().as<void>(), array->dtype()});
      }
      ScoreInputs inputs = tensor.inputs();
      inputs.weight = views[0];
      inputs.grad = views[1];
      inputs.exp_avg = views[2];
      inputs.exp_avg_sq = views[3];
      inputs.max_exp_avg_sq = views[4];
      if (tensor.masked) {
        masks_.emplace_back(tensor.mask.data(), 8 * static_cast<std::size_t>(bits::words(tensor.numel)));
        inputs.mask = masks_.back().as<std::uint64_t>();
      }
      inputs_.push_back(inputs);
      steps_.emplace_back(&tensor.step, sizeof(float));
      lr_.emplace_back(&tensor.lr, sizeof(float));
      counts_.push_back(steps_.back().as<float>());
      rates_.push_back(tensor.lr >= 0 ? lr_.back().as<float>() : nullptr);
    }
  }

  void enqueue(const cuda::Queue& queue, const AdamCall& call, const float* grad_scale = nullptr,
               const float* found_inf = nullptr) const {
    const std::vector<std::uint8_t> trusted = model_.trusted();
    cuda::step_adam(queue, inputs_, model_.options(),
                    {.rounding = call.rounding,
                     .weights_only = call.weights_only,
                     .steps = counts_,
                     .lr = rates_,
                     .trusted = trusted,
                     .draws = call.draws,
                     .grad_scale = grad_scale,
                     .found_inf = found_inf,
                     .dirty = dirty_.as<std::uint32_t>()},
                    workspace_.as<void>(), bytes_needed());
  }
  void set_rate(std::size_t t, float value) const {
    check(cudaMemcpy(lr_[t].as<float>(), &value, sizeof value, cudaMemcpyHostToDevice));
  }
  std::vector<std::uint32_t> dirty() const {
    std::vector<std::uint32_t> all = dirty_.read<std::uint32_t>();
    all.resize(model_.tensors.size());
    return all;
  }
  void expect_same(const AdamModel& expected) const {
    check(cudaDeviceSynchronize());
    const auto bytes = expected.bytes();
    for (std::size_t a = 0; a < bytes.size(); ++a)
      EXPECT_TRUE(arrays_[a].read<unsigned char>() == bytes[a]) << "array " << a % 5 << " of tensor " << a / 5;
    for (std::size_t t = 0; t < steps_.size(); ++t)
      EXPECT_EQ(steps_[t].read<float>().front(), expected.tensors[t].step) << "step of tensor " << t;
  }

 private:
  std::size_t bytes_needed() const { return cuda::adam_workspace_bytes(model_.inputs()); }

  AdamModel model_;
  std::vector<Memory> arrays_, masks_, steps_, lr_;
  std::vector<ScoreInputs> inputs_;
  std::vector<float*> counts_;
  std::vector<const float*> rates_;
  Memory dirty_, workspace_;
};

class DeviceAdamTest : public DeviceTest {
 protected:
  void compare(AdamModel model, const AdamCall& call, bool aligned) {
    const DeviceAdam there(model, aligned);
    const Memory scales(&call.scale, sizeof call.scale);
    for (int i = 0; i < 3; ++i) {
      const std::vector<std::uint32_t> dirty = reference_step(model, call);
      there.enqueue(queue_, call, call.scale != 0 ? scales.as<float>() : nullptr);
      check(cudaStreamSynchronize(stream()));
      EXPECT_EQ(there.dirty(), dirty);
    }
    there.expect_same(model);
  }
};

TEST_F(DeviceAdamTest, SizesStoragesMasksAndOptions) {
  std::uint64_t seed = 0;
  for (const AdamStorage& storage : adam_storages)
    for (const bool aligned : {true, false})
      for (const double dead : {-1.0, 0.5, 1.0})
        for (const bool amsgrad : {false, true})
          for (const AdamRounding& rounding : {AdamRounding{}, AdamRounding{false}, AdamRounding{true, 16, 32}}) {
            AdamModel model =
                adam_model(storage, ++seed, AdamPlacement::aligned, {1, 0, 3, 31, 33, 1023, 1024, 1030, 2100, 300001});
            AdamOptions options = telling;
            options.amsgrad = amsgrad;
            options.decoupled = seed % 2 == 0;
            options.maximize = seed % 5 == 0;
            model.set_options(options);
            if (dead >= 0) model.set_masks(dead, seed);
            compare(model, {rounding, seed % 3 == 0 ? 65536.0f : 0.0f, seed % 4 == 0}, aligned);
          }
}

TEST_F(DeviceAdamTest, ManyTensorsOfManyKinds) {
  AdamModel model;
  for (std::size_t t = 0; t < 1000; ++t) {
    model.tensors.push_back(adam_tensor(static_cast<std::int64_t>(t * 37 % 500), adam_storages[t % 4], t));
    AdamTensor& tensor = model.tensors.back();
    tensor.options = telling;
    tensor.options.lr = 0.001 * static_cast<double>(t % 9);
    tensor.options.amsgrad = t % 3 == 0;
    tensor.step = static_cast<float>(t % 50 * 10);
    if (t % 5 == 1) tensor.lr = 0.25f;
    tensor.masked = t % 3 != 1;
    tensor.mask = random_mask(tensor.numel, 0.4, t);
  }
  compare(model, {}, true);
}

TEST_F(DeviceAdamTest, DrawnTensors) {
  for (const AdamStorage& storage : {adam_storages[1], adam_storages[2]})
    for (const bool aligned : {true, false}) {
      AdamModel model = adam_model(storage, 4, AdamPlacement::aligned, {1, 0, 33, 1024, 2100, 300001});
      model.set_options(telling);
      model.set_masks(0.5, 4);
      const DeviceAdam there(model, aligned);
      for (int i = 0; i < 3; ++i) {
        std::vector<std::optional<RoundingKey>> draws(model.tensors.size());
        for (std::size_t t = 0; t < draws.size(); ++t)
          draws[t] =
              RoundingKey{~t, static_cast<std::uint32_t>(model.tensors[t].step) + 1, static_cast<std::uint32_t>(t)};
        AdamCall call;
        call.draws = draws;
        reference_step(model, call);
        there.enqueue(queue_, call);
        check(cudaStreamSynchronize(stream()));
      }
      there.expect_same(model);
    }
}

TEST_F(DeviceAdamTest, DeadPlacesWithNaNAndTrustedZeros) {
  for (const AdamStorage& storage : adam_storages) {
    AdamModel model = adam_model(storage, 8);
    model.set_masks(0.9, 8);
    for (AdamTensor& tensor : model.tensors)
      for (std::size_t i = 0; i < static_cast<std::size_t>(tensor.numel); ++i)
        if (tensor.is_dead(i))
          for (Array* array : tensor.arrays()) array->set(i, i % 2 ? not_a_number : infinity);
    compare(model, {}, true);
    reference_step(model, {});
    for (AdamTensor& tensor : model.tensors) tensor.trusted = true;
    compare(model, {}, true);
  }
}

TEST_F(DeviceAdamTest, FoundInfForbidsEverything) {
  AdamModel model = adam_model(adam_storages[1], 8);
  model.set_masks(0.5, 8);
  const DeviceAdam there(model);
  const float found = 1, scale = 8;
  const Memory founds(&found, sizeof found), scales(&scale, sizeof scale);
  there.enqueue(queue_, {}, scales.as<float>(), founds.as<float>());
  there.expect_same(model);
}

// A captured call reads counts and learning rates where they are when it is replayed.
TEST_F(DeviceAdamTest, CapturedOnceReplayedWithOtherRates) {
  AdamModel model = adam_model(adam_storages[0], 8);
  model.set_options(telling);
  model.set_masks(0.5, 8);
  for (AdamTensor& tensor : model.tensors) tensor.lr = 0.5f;
  const DeviceAdam there(model);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t captured = nullptr;
  check(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeGlobal));
  there.enqueue(queue_, {});
  check(cudaStreamEndCapture(stream(), &graph));
  check(cudaGraphInstantiate(&captured, graph, 0));
  for (int replay = 0; replay < 5; ++replay) {
    for (std::size_t t = 0; t < model.tensors.size(); ++t) {
      model.tensors[t].lr = 0.125f * static_cast<float>(replay);
      there.set_rate(t, model.tensors[t].lr);
    }
    reference_step(model, {});
    check(cudaGraphLaunch(captured, stream()));
    check(cudaStreamSynchronize(stream()));
  }
  there.expect_same(model);
  check(cudaGraphExecDestroy(captured));
  check(cudaGraphDestroy(graph));
}

}  // namespace
}  // namespace bittersweet::test
