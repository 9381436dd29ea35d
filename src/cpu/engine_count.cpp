// The verbs that count scores where several ranks hold the model: collected candidates by key and unit, ties by run.
#include <mutex>
#include <numeric>

#include "bittersweet/engine/cpu.hpp"
#include "bittersweet/radix_key.hpp"
#include "cpu/isa.hpp"
#include "cpu/parallel.hpp"
#include "cpu/walk.hpp"

namespace bittersweet {

using namespace cpu;

void CpuEngine::tally(std::span<const Chunk> chunks, std::span<const Candidates> candidates,
                      std::span<const std::int64_t> units, const KeyRange& range, std::span<std::int64_t> bins) {
  std::fill(bins.begin(), bins.end(), 0);
  const auto add = [&](std::size_t c, std::int64_t* to) {
    const std::int64_t unit = units[chunks[c].tensor];
    const Candidates& found = candidates[c];
    for (std::uint32_t i = 0; unit >= 0 && i < found.count; ++i)
      if (const std::uint32_t key = key_of(found.scores[i]); range.holds(key)) ++to[range.bin(key, unit)];
  };
  std::int64_t total = 0;
  for (const Candidates& c : candidates) total += c.count;
  // A thread's own bins must be worth their zeros and their sum.
  const int count = total < 4 * static_cast<std::int64_t>(bins.size()) ? 1 : threads(total * 8);
  std::vector<std::vector<std::int64_t>> locals(static_cast<std::size_t>(count - 1));
  for (auto& local : locals) local.resize(bins.size());
  parallel_for(count, static_cast<std::int64_t>(chunks.size()), [&](int thread, std::int64_t c) {
    add(static_cast<std::size_t>(c), thread == 0 ? bins.data() : locals[static_cast<std::size_t>(thread - 1)].data());
  });
  for (const auto& local : locals)
    for (std::size_t b = 0; b < bins.size(); ++b) bins[b] += local[b];
}

void CpuEngine::count_runs(const ScoreView& view, std::size_t t, float value, const RunRange& range,
                           std::span<std::int64_t> bins) {
  std::fill(bins.begin(), bins.end(), 0);
  const ScoreInputs& tensor = view.tensors[t];
  const std::vector<Chunk> chunks = make_chunks(view.tensors.subspan(t, 1));
  const ScoreView one = only(view, t);
  std::mutex mutex;
  parallel_for(threads(tensor.numel), static_cast<std::int64_t>(chunks.size()), [&](int, std::int64_t c) {
    const Chunk& chunk = chunks[static_cast<std::size_t>(c)];
    std::vector<std::int64_t> found;  // bins, one for each tie
    for_each_scored(
        kernels_, one, chunk, [&](const float* scores, const std::uint64_t* live, std::int64_t first, std::int64_t n) {
          if (count_at(kernels_, scores, live, n, value).equal == 0) return;
          for (std::int64_t i = 0; i < n; ++i) {
            if (scores[i] != value || (live && !bits::get(live, i))) continue;
            const std::int64_t run = range.map.run_of(tensor.order.logical_of(chunk.first + first + i)) - range.first;
            if (run >= 0 && run < range.runs) found.push_back(run / range.width);
          }
        });
    const std::scoped_lock lock(mutex);
    for (const std::int64_t bin : found) ++bins[static_cast<std::size_t>(bin)];
  });
}

}  // namespace bittersweet
