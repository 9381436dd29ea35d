// The verbs that score a few places: lines of a sample, before or after an optimizer's step, and given positions.
#include "bittersweet/engine/cpu.hpp"
#include "cpu/parallel.hpp"
#include "cpu/prefetch.hpp"
#include "cpu/step_in_pass.hpp"
#include "cpu/walk.hpp"

namespace bittersweet {

using namespace cpu;

namespace {

// Runs of `width` neighbours, in ascending order of tensor; their first index is a multiple of the width.
struct Runs {
  std::array<std::size_t, tile_size> tensor;  // as many as there are; the others cost nothing
  std::array<std::int64_t, tile_size> first;
  std::int64_t count = 0;
  const std::int64_t width;

  explicit Runs(std::int64_t neighbours) : width(neighbours) {}

  void add(std::size_t t, std::int64_t index) {
    tensor[static_cast<std::size_t>(count)] = t;
    first[static_cast<std::size_t>(count++)] = index;
  }
};

// f(tensor, first indices, how many, the first one's number) for the runs of each tensor.
template <class F>
void for_each_tensor(const Runs& runs, F&& f) {
  for (std::int64_t begin = 0, end = 0; begin < runs.count; begin = end) {
    const std::size_t t = runs.tensor[static_cast<std::size_t>(begin)];
    while (end < runs.count && runs.tensor[static_cast<std::size_t>(end)] == t) ++end;
    f(t, runs.first.data() + begin, end - begin, begin);
  }
}

void drop_dead(const ScoreInputs& tensor, const Runs& runs, const std::int64_t* firsts, std::int64_t n, float* scores) {
  for (std::int64_t r = 0; r < n; ++r) {  // a run lies in one word: its width divides that, and its first index
    if (tensor.mask == nullptr && firsts[r] + runs.width <= tensor.numel) continue;
    const std::uint64_t live = bits::live_from(tensor.mask, tensor.numel, firsts[r]);
    for (std::int64_t c = 0; c < runs.width; ++c)
      if (!bits::get(&live, c)) scores[r * runs.width + c] = std::numeric_limits<float>::quiet_NaN();
  }
}

// Asks the memory for what score_runs will read.
void ask_for_runs(const Kernels& kernels, const ScoreView& view, const Runs& runs) {
  for_each_tensor(runs, [&](std::size_t t, const std::int64_t* firsts, std::int64_t n, std::int64_t) {
    const Tiles tiles(kernels, view, t);
    const std::uint64_t* const mask = view.tensors[t].mask;
    for (std::int64_t r = 0; r < n; ++r) {
      tiles.prefetch(firsts[r], runs.width);
      if (mask) prefetch(words_at(mask, firsts[r]), sizeof *mask);
    }
  });
}

// The runs' scores; NaN for elements that are dead or beyond their tensor's end.
void score_runs(const Kernels& kernels, const ScoreView& view, const Runs& runs, float* out) {
  for_each_tensor(runs, [&](std::size_t t, const std::int64_t* firsts, std::int64_t n, std::int64_t begin) {
    Tiles tiles(kernels, view, t);
    float* const scores = out + begin * runs.width;
    tiles.score(tiles.at(firsts, n, runs.width), n * runs.width, scores);
    drop_dead(view.tensors[t], runs, firsts, n, scores);
  });
}

constexpr std::uint32_t stepped[] = {roles::weight, roles::exp_avg, roles::exp_avg_sq, roles::max_exp_avg_sq,
                                     roles::grad};

// Asks the memory for what score_stepped_runs will read.
void ask_for_stepped_runs(const ScoreView& view, const Runs& runs) {
  for_each_tensor(runs, [&](std::size_t t, const std::int64_t* firsts, std::int64_t n, std::int64_t) {
    for (std::int64_t r = 0; r < n; ++r)
      for (const std::uint32_t role : stepped)
        if (const TensorView& array = roles::of(view.tensors[t], role); array.data != nullptr)
          prefetch(static_cast<const char*>(array.data) + static_cast<std::size_t>(firsts[r]) * size_of(array.dtype),
                   static_cast<std::size_t>(runs.width) * size_of(array.dtype));
  });
}

// The scores that a step on copies of the runs leaves.
void score_stepped_runs(const Kernels& kernels, const ScoreView& view, const StepInPass& step, const Runs& runs,
                        float* out) {
  alignas(64) std::array<std::array<char, tile_size * sizeof(float)>, std::size(stepped)> copies;
  for_each_tensor(runs, [&](std::size_t t, const std::int64_t* firsts, std::int64_t n, std::int64_t begin) {
    const ScoreInputs& tensor = view.tensors[t];
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
    const ScoreView alone{view.scorer, std::span(&copy, 1), {0, copy.numel}, view.modified};
    Tiles tiles(kernels, alone, 0);
    float* const scores = out + begin * runs.width;
    tiles.score(tiles.at(std::int64_t{0}, copy.numel), copy.numel, scores);
    drop_dead(tensor, runs, firsts, n, scores);
  });
}

// The places of lines first .. last of a sample.
void draw_lines(const ScoreView& view, const LineSample& plan, std::int64_t first, std::int64_t last, Runs& runs) {
  runs.count = 0;
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
}

// ask(runs) and score(runs, out) for blocks of lines: what one reads is on its way while the one before is scored.
template <class A, class F>
void for_each_block(int threads, const ScoreView& view, const LineSample& plan, float* out, A&& ask, F&& score) {
  constexpr std::int64_t block = tile_size / LineSample::width;
  const std::int64_t piece = std::clamp<std::int64_t>(plan.lines / (4 * threads * block), 1, 8) * block;
  parallel_for(threads, (plan.lines + piece - 1) / piece, [&](int, std::int64_t p) {
    const std::int64_t last = std::min(plan.lines, (p + 1) * piece);
    Runs both[] = {Runs(LineSample::width), Runs(LineSample::width)};
    const auto fetch = [&](std::int64_t line) {
      Runs& runs = both[line / block % 2];
      draw_lines(view, plan, line, std::min(last, line + block), runs);
      ask(runs);
    };
    fetch(p * piece);
    for (std::int64_t line = p * piece; line < last; line += block) {
      if (line + block < last) fetch(line + block);
      score(both[line / block % 2], out + line * LineSample::width);
    }
  });
}

}  // namespace

void CpuEngine::sample(const ScoreView& view, const LineSample& plan, float* out) {
  for_each_block(
      threads(plan.lines * 64), view, plan, out, [&](const Runs& runs) { ask_for_runs(kernels_, view, runs); },
      [&](const Runs& runs, float* to) { score_runs(kernels_, view, runs, to); });
}

void CpuEngine::sample_before_step(const ScoreView& view, const LineSample& plan, const StepInPass& step, float* out) {
  for_each_block(
      threads(plan.lines * 64), view, plan, out, [&](const Runs& runs) { ask_for_stepped_runs(view, runs); },
      [&](const Runs& runs, float* to) { score_stepped_runs(kernels_, view, step, runs, to); });
}

void CpuEngine::gather(const ScoreView& view, std::span<const std::int64_t> positions, float* out) {
  const auto count = static_cast<std::int64_t>(positions.size());
  parallel_for(threads(count * 8), (count + tile_size - 1) / tile_size, [&](int, std::int64_t b) {
    Runs runs(1);
    const std::int64_t first = b * tile_size, last = std::min(first + tile_size, count);
    std::size_t t = tensor_at(view, positions[static_cast<std::size_t>(first)]);
    for (std::int64_t i = first; i < last; ++i) {
      const std::int64_t position = positions[static_cast<std::size_t>(i)];
      while (position >= view.offset[t + 1]) ++t;
      runs.add(t, view.tensors[t].order.memory_of(position - view.offset[t]));
    }
    ask_for_runs(kernels_, view, runs);
    score_runs(kernels_, view, runs, out + first);
  });
}

}  // namespace bittersweet
