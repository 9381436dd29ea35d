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

namespace {

// Runs of `width` neighbours, in ascending order of tensor; their first index is a multiple of the width.
struct Runs {
  std::array<std::size_t, tile_size> tensor{};
  std::array<std::int64_t, tile_size> first{};
  std::int64_t count = 0;
  std::int64_t width = 1;

  void add(std::size_t t, std::int64_t index) {
    tensor[static_cast<std::size_t>(count)] = t;
    first[static_cast<std::size_t>(count++)] = index;
  }
};

void drop_dead(const ScoreInputs& tensor, const Runs& runs, const std::int64_t* firsts, std::int64_t n, float* scores) {
  for (std::int64_t r = 0; r < n; ++r) {  // a run lies in one word: its width divides that, and its first index
    if (tensor.mask == nullptr && firsts[r] + runs.width <= tensor.numel) continue;
    const std::uint64_t live = bits::live_from(tensor.mask, tensor.numel, firsts[r]);
    for (std::int64_t c = 0; c < runs.width; ++c)
      if (!bits::get(&live, c)) scores[r * runs.width + c] = std::numeric_limits<float>::quiet_NaN();
  }
}

// The runs' scores; NaN for elements that are dead or beyond their tensor's end.
void score_runs(const Kernels& kernels, const ScoreView& view, const Runs& runs, float* out) {
  for (std::int64_t begin = 0, n = 0; begin < runs.count; begin += n) {
    const std::size_t t = runs.tensor[static_cast<std::size_t>(begin)];
    const std::int64_t* const firsts = runs.first.data() + begin;
    Tiles tiles(kernels, view, t);
    const ScoreInputs& tensor = view.tensors[t];
    for (n = 0; begin + n < runs.count && runs.tensor[static_cast<std::size_t>(begin + n)] == t; ++n) {
      tiles.prefetch(firsts[n], runs.width);
      if (tensor.mask) __builtin_prefetch(words_at(tensor.mask, firsts[n]));
    }
    float* const scores = out + begin * runs.width;
    tiles.score(tiles.at(firsts, n, runs.width), n * runs.width, scores);
    drop_dead(tensor, runs, firsts, n, scores);
  }
}

// The same, of what a step on copies of the runs leaves.
void score_stepped_runs(const Kernels& kernels, const ScoreView& view, const StepInPass& step, const Runs& runs,
                        float* out) {
  constexpr std::uint32_t copied[] = {roles::weight, roles::exp_avg, roles::exp_avg_sq, roles::max_exp_avg_sq,
                                      roles::grad};
  alignas(64) std::array<std::array<char, tile_size * sizeof(float)>, std::size(copied)> copies;
  for (std::int64_t begin = 0, n = 0; begin < runs.count; begin += n) {
    const std::size_t t = runs.tensor[static_cast<std::size_t>(begin)];
    const std::int64_t* const firsts = runs.first.data() + begin;
    const ScoreInputs& tensor = view.tensors[t];
    for (n = 0; begin + n < runs.count && runs.tensor[static_cast<std::size_t>(begin + n)] == t; ++n)
      for (const std::uint32_t role : copied)
        if (const TensorView& array = roles::of(tensor, role); array.data != nullptr)
          for (std::size_t byte = 0; byte < static_cast<std::size_t>(runs.width) * size_of(array.dtype); byte += 64)
            __builtin_prefetch(static_cast<const char*>(array.data) +
                               static_cast<std::size_t>(firsts[n]) * size_of(array.dtype) + byte);
    ScoreInputs copy = tensor;
    copy.mask = nullptr;
    copy.numel = n * runs.width;
    copy.geometry = flat(copy.numel);
    std::size_t slot = 0;
    for (TensorView* array : {&copy.weight, &copy.exp_avg, &copy.exp_avg_sq, &copy.max_exp_avg_sq, &copy.grad}) {
      char* const to = copies[slot++].data();
      if (array->data == nullptr) continue;
      const std::size_t size = size_of(array->dtype), run = static_cast<std::size_t>(runs.width) * size;
      for (std::int64_t r = 0; r < n; ++r) {
        const std::int64_t count = std::min(runs.width, tensor.numel - firsts[r]);
        char* const at = to + static_cast<std::size_t>(r) * run;
        if (count < runs.width) std::memset(at, 0, run);
        std::memcpy(at, static_cast<const char*>(array->data) + static_cast<std::size_t>(firsts[r]) * size,
                    static_cast<std::size_t>(count) * size);
      }
      array->data = to;
    }
    std::uint8_t ignored = 0;
    AdamChunk chunk = adam_chunk(copy, t, 0, copy.numel, step.call);
    chunk.rest = 0;
    {
      const FpEnvironment of_the_step(step.mode);
      step_chunk(kernels, copy, step.steps[t], step.call, chunk, ignored);
    }
    const ScoreView stepped{view.scorer, std::span(&copy, 1), {0, copy.numel}, view.modified};
    Tiles tiles(kernels, stepped, 0);
    float* const scores = out + begin * runs.width;
    tiles.score(tiles.at(std::int64_t{0}, copy.numel), copy.numel, scores);
    drop_dead(tensor, runs, firsts, n, scores);
  }
}

}  // namespace

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
void CpuEngine::sample_lines(const ScoreView& view, const LineSample& plan, float* out, F&& score) {
  constexpr std::int64_t block = tile_size / LineSample::width;
  parallel_for(threads(plan.lines * 64), (plan.lines + block - 1) / block, [&](int, std::int64_t b) {
    Runs runs{.width = LineSample::width};
    const std::int64_t first = b * block, last = std::min(plan.lines, first + block);
    std::size_t t = 0;
    std::array<std::uint32_t, 4> random{};
    for (std::int64_t line = first; line < last; ++line) {
      if (line == first || line % 4 == 0)
        random = philox(static_cast<std::uint64_t>(line) / 4, plan.seed, Purpose::bracket_sample);
      const std::int64_t position = line_position(view, plan, line, random[static_cast<std::size_t>(line % 4)]);
      if (line == first) t = tensor_at(view, position);
      while (position >= view.offset[t + 1]) ++t;
      const std::int64_t index = position - view.offset[t];
      runs.add(t, index - index % LineSample::width);
    }
    score(runs, out + first * LineSample::width);
  });
}

void CpuEngine::sample(const ScoreView& view, const LineSample& plan, float* out) {
  sample_lines(view, plan, out, [&](const Runs& runs, float* to) { score_runs(kernels_, view, runs, to); });
}

void CpuEngine::sample_before_step(const ScoreView& view, const LineSample& plan, const StepInPass& step, float* out) {
  sample_lines(view, plan, out,
               [&](const Runs& runs, float* to) { score_stepped_runs(kernels_, view, step, runs, to); });
}

void CpuEngine::gather(const ScoreView& view, std::span<const std::int64_t> positions, float* out) {
  const auto count = static_cast<std::int64_t>(positions.size());
  parallel_for(threads(count * 8), (count + tile_size - 1) / tile_size, [&](int, std::int64_t b) {
    Runs runs;
    const std::int64_t first = b * tile_size, last = std::min(first + tile_size, count);
    std::size_t t = tensor_at(view, positions[static_cast<std::size_t>(first)]);
    for (std::int64_t i = first; i < last; ++i) {
      const std::int64_t position = positions[static_cast<std::size_t>(i)];
      while (position >= view.offset[t + 1]) ++t;
      runs.add(t, view.tensors[t].order.memory_of(position - view.offset[t]));
    }
    score_runs(kernels_, view, runs, out + first);
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
