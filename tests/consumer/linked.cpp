// The installed library: prunes in place on the CPU engine, and throws across the boundary as the headers promise.
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

  const auto report = bs::prune(inputs, bs::Magnitude{}, {.k = 3}, {}, masks, workspace);
  const bool pruned = report.pruned == 3 && weight == std::vector<float>{3.0f, 0.0f, 0.0f, -2.0f, 4.0f, 0.0f};

  bool refused = false;
  try {
    bs::prune(inputs, bs::Bitter7{}, {.k = 3}, {}, masks, workspace);
  } catch (const bs::MissingStateError& error) {
    refused = true;
    std::printf("%s\n", error.what());
  }
  std::printf("version %s, instruction set %s: %s\n", BITTERSWEET_VERSION_STRING, bs::build_info().isa.c_str(),
              pruned && refused ? "right" : "WRONG");
  return pruned && refused ? 0 : 1;
}
