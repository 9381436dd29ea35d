// The whole prune by the public functions, for every scorer: threshold, + masks, + zeros in w, + zeros in w, m, v.
// Bytes a second count one read of what the scorer reads, and one read and write of what is zeroed. What is
// zeroed is restored between prunes, untimed. Names are work/scorer/threads:N.
// BITTERSWEET_BENCH_WEIGHTS sets the size of the model (default 16,777,216).
#include <benchmark/benchmark.h>

#include <set>
#include <string>

#include "model.hpp"

namespace {

using namespace bittersweet;

bench::Model& model() {
  static bench::Model made = [] {
    bench::Model fresh(bench::weights_or(std::int64_t{1} << 24), DType::f32);
    fresh.save();
    return fresh;
  }();
  return made;
}

enum class Level { threshold, masks, weights, moments };

struct Named {
  const char* name;
  Level level;
};

constexpr Named levels[] = {{"threshold", Level::threshold},
                            {"masks", Level::masks},
                            {"prune_w", Level::weights},
                            {"prune_w_m_v", Level::moments}};

void run(benchmark::State& state, Level level, const Scorer& scorer, int threads) {
  set_num_threads(threads);
  Workspace workspace;
  const std::uint32_t which =
      level == Level::moments ? roles::weight | roles::exp_avg | roles::exp_avg_sq : roles::weight;
  const bool writes = level == Level::weights || level == Level::moments;
  PruneReport report;
  for (auto _ : state) {
    switch (level) {
      case Level::threshold: report = threshold(model().inputs(), scorer, {.sparsity = 0.5}, {}, workspace); break;
      case Level::masks:
        report = make_masks(model().inputs(), scorer, {.sparsity = 0.5}, {}, model().masks(), workspace);
        break;
      case Level::weights:
      case Level::moments:
        report = prune(model().inputs(), scorer, {.sparsity = 0.5}, {}, model().masks(), workspace, which);
        break;
    }
    if (writes) {
      state.PauseTiming();
      model().restore();
      state.ResumeTiming();
    }
  }
  const std::int64_t zeroed = writes ? 2 * 4 * std::popcount(which) * model().weights() : 0;
  state.SetBytesProcessed(state.iterations() * (model().bytes_read(info_of(scorer).reads) + zeroed));
  state.counters["passes"] = report.passes;
  set_num_threads(0);
}

}  // namespace

int main(int argc, char** argv) {
  for (const int threads : std::set<int>{1, num_threads()})
    for (const Named& named : levels)
      for_each_scorer([&](const auto& scorer) {
        const std::string name =
            std::string(named.name) + "/" + std::string(scorer.info.name) + "/threads:" + std::to_string(threads);
        benchmark::RegisterBenchmark(name.c_str(),
                                     [=](benchmark::State& state) { run(state, named.level, scorer, threads); })
            ->Unit(benchmark::kMillisecond)
            ->UseRealTime();
      });
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
