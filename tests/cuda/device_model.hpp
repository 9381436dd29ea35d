// A model of the tests in the memory of a device.
#pragma once

#include "cuda/device_support.hpp"
#include "support/compare.hpp"
#include "support/inputs.hpp"

namespace bittersweet::test {

// A copy of a model on the device, and its new masks.
class DeviceModel {
 public:
  DeviceModel(const Model& model, bool aligned) {
    for (const Tensor& tensor : model.tensors) {
      std::vector<TensorView> views;
      for (const Array* array : tensor.arrays()) {
        const std::vector<unsigned char> bytes = array->bytes();
        arrays_.emplace_back(bytes.data(), bytes.size(), aligned ? 0 : size_of(array->dtype()));
        views.push_back(array->dtype() == DType::none ? TensorView{}
                                                      : TensorView{arrays_.back().as<void>(), array->dtype()});
      }
      ScoreInputs inputs = tensor.inputs();
      inputs.weight = views[0];
      inputs.exp_avg = views[1];
      inputs.exp_avg_sq = views[2];
      inputs.grad = views[3];
      inputs.input_norm = views[4];
      inputs.scores = views[5];
      inputs.max_exp_avg_sq = views[6];
      if (tensor.masked) {
        masks_.emplace_back(tensor.mask.data(), 8 * static_cast<std::size_t>(bits::words(tensor.numel)));
        inputs.mask = masks_.back().as<std::uint64_t>();
      }
      inputs_.push_back(inputs);
      new_masks_.emplace_back(8 * static_cast<std::size_t>(bits::words(tensor.numel)));
      table_.push_back(new_masks_.back().as<std::uint64_t>());
    }
  }

  std::span<const ScoreInputs> inputs() const { return inputs_; }
  MaskTable table() const { return table_; }
  std::vector<const std::uint64_t*> bits() const { return {table_.begin(), table_.end()}; }
  Bits read_masks() const {
    Bits all;
    for (const Memory& words : new_masks_) all.push_back(words.read<std::uint64_t>());
    return all;
  }
  std::vector<std::vector<unsigned char>> bytes() const {
    std::vector<std::vector<unsigned char>> all;
    for (const Memory& array : arrays_) all.push_back(array.read<unsigned char>());
    return all;
  }

 private:
  std::vector<Memory> arrays_, masks_, new_masks_;
  std::vector<ScoreInputs> inputs_;
  std::vector<std::uint64_t*> table_;
};

}  // namespace bittersweet::test
