// Every verb of the CPU engine x scorer x element type x instruction set, on one thread: bytes of the inputs a second.
// Names are verb/scorer/type/isa; there are many, so pass --benchmark_filter='^bracket/bitter7/' or the like.
// BITTERSWEET_BENCH_WEIGHTS sets the size of the model (default 4,194,304).
#include <benchmark/benchmark.h>

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "bittersweet/engine/cpu.hpp"
#include "model.hpp"

namespace {

using namespace bittersweet;

// What apply_mask zeroes is a model of its own, so that the others keep their scores.
const bench::Model& model_of(DType dtype, bool written) {
  static std::map<std::pair<DType, bool>, bench::Model> models;
  return models.try_emplace({dtype, written}, bench::weights_or(std::int64_t{1} << 22), dtype).first->second;
}

// An engine, a view, and a bracket that holds 1 % of the scores, around the median.
struct Work {
  Work(const std::string& isa, const Scorer& scorer, DType dtype, bool written)
      : model(model_of(dtype, written)),
        engine(isa, 1),
        view(make_view(model.inputs(), scorer)),
        chunks(make_chunks(model.inputs())) {
    constexpr std::int64_t draws = 1 << 14;
    for (std::int64_t j = 0; j < draws; ++j) positions.push_back(stretch(j, view.size(), draws));
    sample.resize(draws);
    engine.gather(view, positions, sample.data());
    std::sort(sample.begin(), sample.end());
    bracket = {sample[draws / 200 * 99], sample[draws / 200 * 101]};
    for (std::uint32_t chunk = 0; chunk < chunks.size(); ++chunk) quotas.push_back({chunk, 0});
    bins.resize(1 << 16);
    counts.resize(model.inputs().size());
    run_bracket(model.masks());
    ties.resize(chunks.size());
  }

  void run_bracket(MaskTable masks) {
    result =
        engine.bracket(view, chunks, bracket, masks, std::max<std::int64_t>(Chunk::size, view.size() / 32), workspace);
  }

  const bench::Model& model;
  CpuEngine engine;
  ScoreView view;
  std::vector<Chunk> chunks;
  std::vector<std::int64_t> positions, bins, counts, ties;
  std::vector<float> sample;
  std::vector<ChunkQuota> quotas;
  Bracket bracket;
  BracketResult result;
  Workspace workspace;
};

struct Verb {
  const char* name;
  void (*run)(Work&);
  std::int64_t (*bytes)(const Work&);
  bool writes = false;  // weights or moments
};

std::int64_t one_read(const Work& work) { return work.model.bytes_read(info_of(work.view.scorer).reads); }

const Verb per_scorer[] = {
    {"write_scores", [](Work& w) { w.engine.write_scores(w.view, w.chunks, w.model.scores()); },
     [](const Work& w) { return one_read(w) + 4 * w.view.size(); }},
    {"gather", [](Work& w) { w.engine.gather(w.view, w.positions, w.sample.data()); },
     [](const Work& w) { return one_read(w) * static_cast<std::int64_t>(w.positions.size()) / w.view.size(); }},
    {"sample",
     [](Work& w) {
       const auto lines = static_cast<std::int64_t>(w.sample.size()) / LineSample::width;
       w.engine.sample(w.view, {lines, 0}, w.sample.data());
     },
     [](const Work& w) { return one_read(w) * static_cast<std::int64_t>(w.sample.size()) / w.view.size(); }},
    {"bracket", [](Work& w) { w.run_bracket({}); }, one_read},
    {"bracket_and_masks", [](Work& w) { w.run_bracket(w.model.masks()); }, one_read},
    {"histogram", [](Work& w) { w.engine.histogram(w.view, w.chunks, Digit{}, w.bins, w.workspace); }, one_read},
    {"moments", [](Work& w) { benchmark::DoNotOptimize(w.engine.moments(w.view, w.chunks)); }, one_read},
    {"count",
     [](Work& w) {
       CountsAt counts;
       w.engine.count(w.view, w.chunks, std::span<const float>(&w.bracket.low, 1), std::span(&counts, 1));
       benchmark::DoNotOptimize(counts);
     },
     one_read},
    {"write_mask", [](Work& w) { w.engine.write_mask(w.view, w.chunks, w.quotas, w.bracket.low, w.model.masks()); },
     one_read},
    {"group_mask",
     [](Work& w) {
       const std::size_t last = w.model.inputs().size() - 1;
       const GroupRule half{0, w.model.inputs()[last].geometry.row_size() / 2, 0};
       w.engine.group_mask(w.view, last, half, w.model.masks());
     },
     [](const Work& w) { return one_read(w) * w.model.inputs().back().numel / w.view.size(); }},
};

template <std::uint32_t which>
void apply(Work& w) {
  w.engine.apply_mask(w.model.inputs(), w.chunks, w.model.kept(), which);
}

template <std::uint32_t which>
std::int64_t written(const Work& w) {
  return 2 * std::popcount(which) * w.model.weights() * static_cast<std::int64_t>(size_of(w.model.dtype()));
}

// Zeroing zeros costs what zeroing numbers does, so nothing is restored.
constexpr std::uint32_t moments_too = roles::weight | roles::exp_avg | roles::exp_avg_sq;
const Verb once[] = {
    {"settle", [](Work& w) { w.engine.settle(w.chunks, w.result.candidates, w.bracket.low, w.ties, w.model.masks()); },
     [](const Work& w) { return w.result.total.inside * 6; }},
    {"verify_mask",
     [](Work& w) { w.engine.verify_mask(w.model.inputs(), w.chunks, w.model.kept(), roles::weight, w.counts); },
     [](const Work& w) { return written<roles::weight>(w) / 2; }},
    {"popcount", [](Work& w) { w.engine.popcount(w.model.inputs(), w.model.kept(), w.counts); },
     [](const Work& w) { return w.model.weights() / 8; }},
    {"apply_mask_w", apply<roles::weight>, written<roles::weight>, true},
    {"apply_mask_w_m_v", apply<moments_too>, written<moments_too>, true},
};

void add(const Verb& verb, const std::string& isa, const Scorer& scorer, DType dtype, const std::string& path) {
  const std::string name = std::string(verb.name) + "/" + path + name_of(dtype) + "/" + isa;
  benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) {
    Work work(isa, scorer, dtype, verb.writes);
    for (auto _ : state) {
      verb.run(work);
      benchmark::ClobberMemory();
    }
    state.SetBytesProcessed(state.iterations() * verb.bytes(work));
  })->Unit(benchmark::kMicrosecond);
}

}  // namespace

int main(int argc, char** argv) {
  for (const std::string& isa : build_info().isa_available)
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for_each_scorer([&](const auto& scorer) {
        for (const Verb& verb : per_scorer) add(verb, isa, scorer, dtype, std::string(scorer.info.name) + "/");
      });
      for (const Verb& verb : once) add(verb, isa, Magnitude{}, dtype, "");
    }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
