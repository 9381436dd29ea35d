// The verbs that read scores: tiles of each chunk, scored in the first cache, and a thread's own summaries.
#include <mutex>

#include "bittersweet/engine/cpu.hpp"
#include "cpu/isa.hpp"
#include "cpu/parallel.hpp"
#include "cpu/plan.hpp"
#include "cpu/step_in_pass.hpp"
#include "cpu/walk.hpp"

namespace bittersweet {

using namespace cpu;

CpuEngine::CpuEngine() : kernels_(cpu::kernels()) {}
CpuEngine::CpuEngine(const std::string& isa) : kernels_(kernels_of(isa)) {}
CpuEngine::CpuEngine(const std::string& isa, int threads) : kernels_(kernels_of(isa)), forced_threads_(threads) {}

const char* CpuEngine::isa() const noexcept { return kernels_.name; }

int CpuEngine::threads(std::int64_t elements) const {
  return forced_threads_ > 0 ? forced_threads_ : threads_for(elements);
}

void CpuEngine::write_scores(const ScoreView& view, std::span<const Chunk> chunks, std::span<float* const> outputs) {
  parallel_for(threads(view.size()), static_cast<std::int64_t>(chunks.size()), [&](int, std::int64_t c) {
    const Chunk& chunk = chunks[static_cast<std::size_t>(c)];
    float* const out = outputs[chunk.tensor] + chunk.first;
    for_each_tile(kernels_, view, chunk, true,
                  [&](Tiles& tiles, const TileInput& in, std::int64_t first, std::int64_t count) {
                    tiles.score(in, count, out + first);
                  });
  });
}

template <class F>
BracketResult CpuEngine::bracket_after(const ScoreView& view, std::span<const Chunk> chunks, const Bracket& bracket,
                                       MaskTable masks, std::int64_t capacity, Workspace& workspace, bool whole_chunks,
                                       F&& before) {
  BracketResult result;
  result.chunk.resize(chunks.size());
  result.candidates.resize(chunks.size());
  const BracketPlan plan = plan_bracket(bracket, view);
  const int count = threads(whole_chunks ? view.size() : view.size() / step_share);
  std::vector<BracketState> states(static_cast<std::size_t>(count));
  for (std::size_t thread = 0; thread < states.size(); ++thread) {
    const std::size_t slot = Workspace::first_arena + 2 * thread;
    states[thread].scores = workspace.get<float>(slot, static_cast<std::size_t>(capacity));
    states[thread].offsets = workspace.get<std::uint16_t>(slot + 1, static_cast<std::size_t>(capacity));
    states[thread].capacity = capacity;
  }
  parallel_for(count, static_cast<std::int64_t>(chunks.size()), [&](int thread, std::int64_t c) {
    const auto at = static_cast<std::size_t>(c);
    const Chunk& chunk = chunks[at];
    BracketState& state = states[static_cast<std::size_t>(thread)];
    const std::int64_t stored = state.stored;
    state.counts = {};
    std::uint64_t* const mask = masks.empty() ? nullptr : masks[chunk.tensor];
    for_each_tile(
        kernels_, view, chunk, whole_chunks,
        [&](Tiles& tiles, const TileInput& in, std::int64_t first, std::int64_t n) {
          const std::int64_t word = (chunk.first + first) / bits::per_word;
          kernels_.bracket[view.scorer.index()][tiles.stored()](
              view.scorer, in, plan,
              {static_cast<std::uint32_t>(first), n, words_at(view.tensors[chunk.tensor].mask, chunk.first + first),
               mask ? mask + word : nullptr},
              state);
        },
        before);
    result.chunk[at] = state.counts;
    result.candidates[at] = {state.scores + stored, state.offsets + stored,
                             static_cast<std::uint32_t>(state.stored - stored)};
  });
  for (const BracketCounts& counts : result.chunk) result.total += counts;
  for (const BracketState& state : states) {
    result.overflow |= state.overflow;
    result.collected.emplace_back(state.scores, static_cast<std::size_t>(state.stored));
    result.bytes += state.stored * std::int64_t{sizeof(float) + sizeof(std::uint16_t)};
  }
  return result;
}

BracketResult CpuEngine::bracket(const ScoreView& view, std::span<const Chunk> chunks, const Bracket& bracket,
                                 MaskTable masks, std::int64_t capacity, Workspace& workspace) {
  return bracket_after(view, chunks, bracket, masks, capacity, workspace, true, Nothing{});
}

BracketResult CpuEngine::step_and_bracket(const ScoreView& view, std::span<const Chunk> chunks, const Bracket& bracket,
                                          MaskTable masks, std::int64_t capacity, Workspace& workspace,
                                          const StepInPass& step) {
  const auto before = [&](const Chunk& chunk, std::int64_t first, std::int64_t count) {
    const FpEnvironment of_the_step(step.mode);
    const ScoreInputs& tensor = view.tensors[chunk.tensor];
    step_chunk(kernels_, tensor, step.steps[chunk.tensor], step.call,
               adam_chunk(tensor, chunk.tensor, first, count, step.call), step.dirty[chunk.tensor]);
  };
  return bracket_after(view, chunks, bracket, masks, capacity, workspace, false, before);
}

void CpuEngine::histogram(const ScoreView& view, std::span<const Chunk> chunks, const Digit& digit,
                          std::span<std::int64_t> bins, Workspace& workspace) {
  constexpr std::int64_t flush_at = std::int64_t{1} << 31;  // before a 32-bit bin can overflow
  struct Local {
    std::uint32_t* bins;  // two tables
    std::int64_t counted = 0;
  };
  const int count = threads(view.size());
  std::vector<Local> locals(static_cast<std::size_t>(count));
  for (std::size_t thread = 0; thread < locals.size(); ++thread) {
    locals[thread].bins = workspace.get<std::uint32_t>(Workspace::first_arena + 2 * thread, 2 * bins.size());
    std::fill_n(locals[thread].bins, 2 * bins.size(), 0u);
  }
  std::fill(bins.begin(), bins.end(), 0);
  std::mutex mutex;
  const auto flush = [&](Local& local) {
    const std::scoped_lock lock(mutex);
    for (std::size_t b = 0; b < 2 * bins.size(); ++b) bins[b % bins.size()] += std::exchange(local.bins[b], 0u);
    local.counted = 0;
  };
  parallel_for(count, static_cast<std::int64_t>(chunks.size()), [&](int thread, std::int64_t c) {
    Local& local = locals[static_cast<std::size_t>(thread)];
    const Chunk& chunk = chunks[static_cast<std::size_t>(c)];
    const auto& count_digits = kernels_.histogram[view.scorer.index()];
    for_each_tile(
        kernels_, view, chunk, true, [&](Tiles& tiles, const TileInput& in, std::int64_t first, std::int64_t n) {
          count_digits[tiles.stored()](view.scorer, in, words_at(view.tensors[chunk.tensor].mask, chunk.first + first),
                                       n, digit, local.bins);
        });
    local.counted += chunk.count;
    if (local.counted >= flush_at) flush(local);
  });
  for (Local& local : locals) flush(local);
}

Moments CpuEngine::moments(const ScoreView& view, std::span<const Chunk> chunks) {
  std::vector<std::size_t> first(chunks.size() + 1);  // number of a chunk's first block
  for (std::size_t c = 0; c < chunks.size(); ++c)
    first[c + 1] = first[c] + (chunks[c].count + std::size_t{Moments::block} - 1) / std::size_t{Moments::block};
  std::vector<Moments> all(first.back());
  parallel_for(threads(view.size()), static_cast<std::int64_t>(chunks.size()), [&](int, std::int64_t c) {
    const Chunk& chunk = chunks[static_cast<std::size_t>(c)];
    Moments* block = all.data() + first[static_cast<std::size_t>(c)];
    Tiles tiles(kernels_, view, chunk.tensor);
    const std::uint64_t* const live = words_at(view.tensors[chunk.tensor].mask, chunk.first);
    if (tiles.in_place())
      return kernels_.moments[view.scorer.index()][tiles.stored()](view.scorer, tiles.at(chunk.first, chunk.count),
                                                                   live, chunk.count, block);
    alignas(64) float scores[Moments::block];
    for (std::int64_t begin = 0; begin < chunk.count; begin += Moments::block) {
      const std::int64_t n = std::min(Moments::block, chunk.count - begin);
      for (std::int64_t done = 0; done < n; done += tile_size) {
        const std::int64_t some = std::min(tile_size, n - done);
        tiles.score(tiles.at(chunk.first + begin + done, some), some, scores + done);
      }
      kernels_.moments[scores_alone.index()][as_f32](scores_alone, scored(scores), words_at(live, begin), n, block++);
    }
  });
  return fold_blocks(all);
}

void CpuEngine::count(const ScoreView& view, std::span<const Chunk> chunks, std::span<const float> thresholds,
                      std::span<CountsAt> counts) {
  std::fill(counts.begin(), counts.end(), CountsAt{});
  std::vector<float> numbers;  // nothing lies below a NaN or equals it
  std::copy_if(thresholds.begin(), thresholds.end(), std::back_inserter(numbers), [](float t) { return t == t; });
  for (std::size_t first = 0; first < numbers.size(); first += CutCounts::most) {
    const std::span now = std::span(numbers).subspan(first, std::min(CutCounts::most, numbers.size() - first));
    std::vector<CountsAt> found(now.size());
    std::mutex mutex;
    parallel_for(threads(view.size()), static_cast<std::int64_t>(chunks.size()), [&](int, std::int64_t c) {
      const Chunk& chunk = chunks[static_cast<std::size_t>(c)];
      CutCounts cuts(now);
      for_each_tile(kernels_, view, chunk, true,
                    [&](Tiles& tiles, const TileInput& in, std::int64_t begin, std::int64_t n) {
                      kernels_.count_cuts[view.scorer.index()][tiles.stored()](
                          view.scorer, in, words_at(view.tensors[chunk.tensor].mask, chunk.first + begin), n, cuts);
                    });
      kernels_.sum_lanes(cuts);
      const std::scoped_lock lock(mutex);
      for (std::size_t i = 0; i < now.size(); ++i) found[i] += cuts.at(now[i]);
    });
    for (std::size_t i = 0, j = 0; i < thresholds.size(); ++i) {
      if (thresholds[i] != thresholds[i]) continue;
      if (j >= first && j < first + now.size()) counts[i] = found[j - first];
      ++j;
    }
  }
}

std::int64_t CpuEngine::write_mask(const ScoreView& view, std::span<const Chunk> chunks,
                                   std::span<const ChunkQuota> quotas, float threshold, MaskTable masks) {
  std::atomic<std::int64_t> nan{0};
  parallel_for(threads(static_cast<std::int64_t>(quotas.size()) * Chunk::size),
               static_cast<std::int64_t>(quotas.size()), [&](int, std::int64_t q) {
                 const ChunkQuota& quota = quotas[static_cast<std::size_t>(q)];
                 const Chunk& chunk = chunks[quota.chunk];
                 std::int64_t ties = quota.ties;
                 for_each_scored(
                     kernels_, view, chunk,
                     [&](const float* scores, const std::uint64_t* live, std::int64_t first, std::int64_t n) {
                       std::uint64_t* const mask = masks[chunk.tensor] + (chunk.first + first) / bits::per_word;
                       nan += kernels_.write_mask(scores, live, n, threshold, ties, mask);
                     });
               });
  return nan;
}

}  // namespace bittersweet
