// The umbrella header alone: a global threshold and masks from the reference engine, nothing linked.
#include <cstdio>
#include <vector>

#include "bittersweet/bittersweet.hpp"

int main() {
  namespace bs = bittersweet;
  std::vector<float> weight{3.0f, -1.0f, 0.5f, -2.0f, 4.0f, 0.25f};
  const std::vector<bs::ScoreInputs> inputs{
      {.weight = bs::view(weight.data()), .numel = 6, .geometry = bs::matrix(2, 3), .name = "weight"}};
  std::uint64_t word = 0;
  const std::vector<std::uint64_t*> masks{&word};
  bs::Workspace workspace;
  bs::ReferenceEngine engine;

  // Every selector of the list must keep 3, -2 and 4.
  int failures = 0;
  bs::for_each_selector([&](const auto& selector) {
    const auto report = bs::flow::make_masks(engine, inputs, bs::make_scorer("magnitude"), {.k = 3},
                                             {.selector = selector}, masks, workspace);
    const bool right = word == 0b011001 && report.pruned == 3;
    failures += !right;
    std::printf("%s: %lld pruned, %s\n", std::string(bs::name_of(bs::Selector{selector})).c_str(),
                static_cast<long long>(report.pruned), right ? "right" : "WRONG");
  });
  return failures;
}
