// Prunes half of a small model, a vector of tensors with Adam's second moments, and prints what happened.
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "bittersweet/bittersweet.hpp"

struct Tensor {
  std::string name;
  std::int64_t rows, columns;
  std::vector<float> weight, exp_avg_sq;
  std::vector<std::uint64_t> mask;  // one bit per weight: 1 is kept
};

int main() {
  namespace bs = bittersweet;
  std::mt19937 random(0);
  std::normal_distribution<float> normal;
  std::vector<Tensor> model{
      {"attention", 512, 128, {}, {}, {}}, {"mlp.up", 512, 128, {}, {}, {}}, {"mlp.down", 128, 512, {}, {}, {}}};
  for (Tensor& tensor : model) {
    const std::int64_t n = tensor.rows * tensor.columns;
    for (std::int64_t i = 0; i < n; ++i) {
      tensor.weight.push_back(0.02f * normal(random));
      const float gradient = 1e-3f * normal(random);
      tensor.exp_avg_sq.push_back(gradient * gradient);
    }
    tensor.mask.resize(static_cast<std::size_t>(bs::bits::words(n)));
  }

  // Borrow the tensors: nothing is copied, and `prune` works on them in place.
  std::vector<bs::ScoreInputs> inputs;
  std::vector<std::uint64_t*> masks;
  for (Tensor& tensor : model) {
    inputs.push_back({.weight = bs::view(tensor.weight.data()),
                      .exp_avg_sq = bs::view(tensor.exp_avg_sq.data()),
                      .numel = tensor.rows * tensor.columns,
                      .geometry = bs::matrix(tensor.rows, tensor.columns),
                      .name = tensor.name});
    masks.push_back(tensor.mask.data());
  }

  bs::Workspace workspace;  // keep it between events: its memory stays warm
  const bs::PruneReport event = bs::prune(inputs, bs::Bitter7{}, {.sparsity = 0.5}, {}, masks, workspace);

  std::printf("pruned %lld of %lld weights at bitter7 <= %g: %.2f reads of the inputs, %lld scratch bytes (%s)\n",
              static_cast<long long>(event.pruned), static_cast<long long>(event.total),
              static_cast<double>(event.value.value()), event.passes, static_cast<long long>(event.extra_bytes),
              event.path.c_str());
  for (std::size_t t = 0; t < model.size(); ++t)
    std::printf("  %-10s %lld of %zu\n", model[t].name.c_str(), static_cast<long long>(event.tensor_pruned[t]),
                model[t].weight.size());
}
