// One model on a device and on the host: the same step by the CUDA engine and by the CPU engine, and what differs.
#pragma once

#include <cuda_runtime_api.h>

#include <bit>
#include <cstring>
#include <string>
#include <vector>

#include "bittersweet/bittersweet.hpp"
#include "bittersweet/cuda.hpp"
#include "device.hpp"

namespace bittersweet::bench {

// A host model copied to a device: every array in an allocation of its own, at its alignment or one element off it.
class Copy {
 public:
  Copy(std::span<const ScoreInputs> host, bool misaligned) : misaligned_(misaligned) {
    for (const ScoreInputs& tensor : host) {
      ScoreInputs copy = tensor;
      for (TensorView* view :
           {&copy.weight, &copy.exp_avg, &copy.exp_avg_sq, &copy.grad, &copy.scores, &copy.max_exp_avg_sq})
        *view = array(*view, tensor.numel);
      copy.input_norm = array(copy.input_norm, copy.geometry.inputs);
      if (tensor.mask) copy.mask = words(tensor.mask, tensor.numel);
      inputs_.push_back(copy);
      masks_.push_back(words(nullptr, tensor.numel));
      kept_.push_back(masks_.back());
    }
  }
  std::span<const ScoreInputs> inputs() const { return inputs_; }
  std::span<std::uint64_t* const> masks() const { return masks_; }
  std::span<const std::uint64_t* const> kept() const { return kept_; }

 private:
  TensorView array(const TensorView& view, std::int64_t count) {
    if (view.dtype == DType::none) return {};
    const std::size_t size = size_of(view.dtype), bytes = static_cast<std::size_t>(count) * size;
    const std::size_t offset = misaligned_ ? size : 0;
    memory_.emplace_back(bytes + offset);  // no byte more: a memory checker sees what reads past the end
    if (bytes) memory_.back().from_host(view.data, bytes, offset);
    return {memory_.back().data() + offset, view.dtype};
  }
  std::uint64_t* words(const std::uint64_t* source, std::int64_t numel) {
    memory_.emplace_back(static_cast<std::size_t>(bits::words(numel)) * 8);
    memory_.back().fill(0xcd);
    if (source && numel) memory_.back().from_host(source, static_cast<std::size_t>(bits::words(numel)) * 8);
    return memory_.back().as<std::uint64_t>();
  }

  bool misaligned_;
  std::vector<Buffer> memory_;
  std::vector<ScoreInputs> inputs_;
  std::vector<std::uint64_t*> masks_;
  std::vector<const std::uint64_t*> kept_;
};

template <class T>
std::vector<T> fetched(const T* device, std::int64_t count) {
  std::vector<T> host(static_cast<std::size_t>(count));
  if (count) check(cudaMemcpy(host.data(), device, host.size() * sizeof(T), cudaMemcpyDeviceToHost), "copy");
  return host;
}

struct Outcome {
  cuda::StepReport report;
  std::vector<std::int64_t> tensor_pruned;
};

// One step on the default stream, with its budget, workspace and report.
class Stepper {
 public:
  Stepper(const Copy& copy, const Scorer& scorer, const cuda::StepOptions& options)
      : copy_(copy),
        scorer_(scorer),
        options_(options),
        workspace_(cuda::step_workspace_bytes(copy.inputs(), scorer, options, true)),
        budget_(sizeof(cuda::StepBudget)),
        report_(sizeof(cuda::StepReport)),
        pruned_(copy.inputs().size() * 8) {
    workspace_.fill(0xab);  // rubbish, as an allocator gives it
    report_.fill(0xab);
  }
  void budget(std::int64_t k) { cuda::write_budget(queue_, budget_.as<cuda::StepBudget>(), {.k = k}); }
  void enqueue(void* stream = nullptr) {
    queue_.stream = stream;
    cuda::step(queue_, copy_.inputs(), scorer_, budget_.as<cuda::StepBudget>(), options_, copy_.masks(),
               pruned_.as<std::int64_t>(), workspace_.data(), workspace_.size(), report_.as<cuda::StepReport>());
    queue_.stream = nullptr;
  }
  Outcome outcome() {
    synchronize("the step");
    return {report_.read<cuda::StepReport>(),
            fetched(pruned_.as<std::int64_t>(), static_cast<std::int64_t>(copy_.inputs().size()))};
  }
  const Buffer& budget_memory() const { return budget_; }
  std::size_t workspace_bytes() const { return workspace_.size(); }

 private:
  const Copy& copy_;
  Scorer scorer_;
  cuda::StepOptions options_;
  cuda::Queue queue_;
  Buffer workspace_, budget_, report_, pruned_;
};

struct OnHost {
  PruneReport report;
  std::vector<std::vector<std::uint64_t>> masks;
};

// The same step on the CPU engine. Zeroes the arrays of `model` that `zero` names.
inline OnHost prune_on_host(const std::vector<ScoreInputs>& inputs, const Scorer& scorer, std::int64_t k,
                            const PruneOptions& options, std::uint32_t zero) {
  OnHost host;
  std::vector<std::uint64_t*> table;
  for (const ScoreInputs& tensor : inputs) {
    host.masks.emplace_back(static_cast<std::size_t>(bits::words(tensor.numel)));
    table.push_back(host.masks.back().data());
  }
  Workspace workspace;
  host.report = prune(inputs, scorer, {.k = k}, options, table, workspace, zero);
  return host;
}

// What differs, or "".
inline std::string difference(const std::vector<ScoreInputs>& host, const OnHost& expected, const Copy& copy,
                              const Outcome& found) {
  const PruneReport& h = expected.report;
  const cuda::StepReport& d = found.report;
  const auto differ = [](const char* what, auto a, auto b) {
    return std::string(what) + ": " + std::to_string(a) + " on the CPU, " + std::to_string(b) + " on the device";
  };
  if (d.status & cuda::status::failed) return "status " + std::to_string(d.status);
  if (d.k != h.k) return differ("k", h.k, d.k);
  if (d.total != h.total) return differ("total", h.total, d.total);
  if (d.dead != h.dead) return differ("dead", h.dead, d.dead);
  const float threshold = h.value.value_or(minus_infinity);
  if (std::bit_cast<std::uint32_t>(threshold) != std::bit_cast<std::uint32_t>(d.value))
    return differ("threshold", threshold, d.value);
  if (h.count_below >= 0 && d.below != h.count_below) return differ("below", h.count_below, d.below);
  if (h.count_equal >= 0 && d.equal != h.count_equal) return differ("equal", h.count_equal, d.equal);
  if (d.pruned != h.pruned) return differ("pruned", h.pruned, d.pruned);
  if (d.nan != h.nonfinite) return differ("NaN", h.nonfinite, d.nan);
  if (d.churn != h.churn) return differ("churn", h.churn, d.churn);
  if (d.empty_rows != h.empty_rows) return differ("empty rows", h.empty_rows, d.empty_rows);
  for (std::size_t t = 0; t < host.size(); ++t) {
    const std::string tensor = "tensor " + std::to_string(t) + ", ";
    if (found.tensor_pruned[t] != h.tensor_pruned[t])
      return tensor + differ("pruned", h.tensor_pruned[t], found.tensor_pruned[t]);
    const auto words = fetched(copy.masks()[t], bits::words(host[t].numel));
    for (std::size_t w = 0; w < words.size(); ++w)
      if (words[w] != expected.masks[t][w])
        return tensor + "mask word " + std::to_string(w) + " of " + std::to_string(words.size());
    for (const std::uint32_t role : roles::all) {
      const TensorView& a = roles::of(host[t], role);
      if (a.dtype == DType::none || host[t].numel == 0) continue;
      const std::int64_t bytes = host[t].numel * static_cast<std::int64_t>(size_of(a.dtype));
      const auto b = fetched(static_cast<const std::byte*>(roles::of(copy.inputs()[t], role).data), bytes);
      if (std::memcmp(a.data, b.data(), b.size()) != 0) return tensor + "array of role " + std::to_string(role);
    }
  }
  return "";
}

}  // namespace bittersweet::bench
