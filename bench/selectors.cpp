// Every selector on magnitude and bitter7, by the public functions: bytes of the inputs a second, had they been read
// once, with the reads and the scratch memory that the selector took beside them.
// BITTERSWEET_BENCH_WEIGHTS sets the size of the model (default 16,777,216), BITTERSWEET_NUM_THREADS the threads.
#include <benchmark/benchmark.h>

#include <string>
#include <utility>
#include <vector>

#include "model.hpp"

namespace {

using namespace bittersweet;

const bench::Model& model() {
  static const bench::Model made(bench::weights_or(std::int64_t{1} << 24), DType::f32);
  return made;
}

std::vector<std::pair<std::string, Selector>> selectors() {
  std::vector<std::pair<std::string, Selector>> all;
  for_each_selector([&](const auto& selector) { all.emplace_back(selector.name, selector); });
  all.emplace_back("sampling_permille", Sampling{.fraction = 0.001});
  all.emplace_back("streaming_exact", Streaming{.tolerance = 0});
  return all;
}

void select(benchmark::State& state, const Scorer& scorer, const Selector& selector) {
  Workspace workspace;
  PruneReport report;
  const PruneOptions options{.selector = selector};
  for (auto _ : state) report = threshold(model().inputs(), scorer, {.sparsity = 0.5}, options, workspace);
  state.SetBytesProcessed(state.iterations() * model().bytes_read(info_of(scorer).reads));
  state.counters["passes"] = report.passes;
  state.counters["extra_bytes"] = static_cast<double>(report.extra_bytes);
}

}  // namespace

int main(int argc, char** argv) {
  for (const auto& [name, selector] : selectors())
    for (const char* const scorer : {"magnitude", "bitter7"})
      benchmark::RegisterBenchmark(
          (name + "/" + scorer).c_str(),
          [scorer, chosen = selector](benchmark::State& state) { select(state, make_scorer(scorer), chosen); })
          ->Unit(benchmark::kMillisecond)
          ->UseRealTime();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
