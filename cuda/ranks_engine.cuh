// The verbs of engine.hpp that a selection over ranks asks for (RankEngine), over device memory: a host that decides,
// kernels that read, and small results that are waited for. Candidates of a bracket are copied to the host, where they
// are put in order; scores are never stored. Nothing stays in the workspace from one verb to the next.
#pragma once

#include "bittersweet/engine/reference.hpp"
#include "chunks.cuh"
#include "ranks_bracket.cuh"
#include "ranks_layout.cuh"
#include "rounds.cuh"

namespace bittersweet::cuda {

// L: a launcher that also copies, to(device) and from(device), and has waited for all before when from() returns.
template <class L>
class RanksEngine {
 public:
  // `memory`: of the device, for these tensors and any parts of them.
  RanksEngine(std::span<const ScoreInputs> tensors, void* memory, std::size_t bytes)
      : layout_(ranks_layout(tensors)), base_(base_of(memory)) {
    if (memory == nullptr || bytes < layout_.bytes)
      throw ArgumentError("workspace_bytes: " + std::to_string(bytes) + "; this call needs " +
                          std::to_string(layout_.bytes) + " (sharded_workspace_bytes)");
  }

  void use(L& launcher) { launcher_ = &launcher; }  // for the verbs that follow

  void sample(const ScoreView& view, const LineSample& plan, float* out) {
    gather_runs(view, plan.lines, LineSample::width, out, [&](std::int64_t line) {
      const auto [t, index] = line_at(view, plan, line);
      return view.offset[t] + index;
    });
  }

  void gather(const ScoreView& view, std::span<const std::int64_t> positions, float* out) {
    gather_runs(view, std::ssize(positions), 1, out, [&](std::int64_t i) {
      const std::int64_t position = positions[static_cast<std::size_t>(i)];
      const std::size_t t = tensor_at(view, position);
      return view.offset[t] + view.tensors[t].order.memory_of(position - view.offset[t]);
    });
  }

  // A bracket whose keys are further apart than a candidate can say is read in two, which meet at zero.
  BracketResult bracket(const ScoreView& view, std::span<const Chunk> chunks, const Bracket& ends, MaskTable masks,
                        std::int64_t capacity, Workspace& workspace) {
    BracketResult result;
    result.candidates.resize(chunks.size());
    if (!masks.empty()) result.chunk.resize(chunks.size());
    if (view.size() == 0) return result;
    StepPlan plan = make_plan(view.tensors, view.scorer, {}, masks, base_ + layout_.step, layout_.step_bytes);
    plan.context.capacity = std::min(plan.context.capacity, static_cast<std::uint64_t>(capacity));
    BracketRead upper, lower;
    const bool two = key_of(ends.high) - key_of(ends.low) >= 0x80000000u;
    if (two) {
      upper = read(view, plan, chunks, {0.0f, ends.high});
      lower = read(view, plan, chunks, {ends.low, smallest_positive});  // the last one's bits stay
      result.passes = 2;
    } else {
      lower = read(view, plan, chunks, ends);
    }
    result.total = lower.report.counts;
    if (two) {
      result.total.inside += upper.report.counts.inside;
      result.total.equal_high = upper.report.counts.equal_high;
      result.total.above = upper.report.counts.above;
    }
    result.overflow = lower.report.overflow != 0 || upper.report.overflow != 0;
    if (!result.overflow) place_candidates(view, chunks, lower, upper, result, workspace);
    if (result.total.nan > 0 || (result.overflow && !masks.empty())) {
      result.chunk.resize(chunks.size());
      count(view, plan.context.rows, chunks, ends, result.chunk);
      result.passes += 1;
    } else {
      const BracketRead& highest = two ? upper : lower;
      for (std::size_t c = 0; c < result.chunk.size(); ++c)
        result.chunk[c] =
            counts_of(lower.tallies[c], highest.tallies[c].high, lower.zero_end, result.candidates[c].count);
    }
    return result;
  }

  void histogram(const ScoreView& view, std::span<const Chunk>, const Digit& digit, std::span<std::int64_t> bins,
                 Workspace&) {
    const std::span<std::int64_t> there = staged_bins(bins.size());
    digit_bins(*launcher_, view.scorer, place(view, {}), digit, there);
    launcher_->from(bins.data(), there.data(), bins.size_bytes());
  }

  void tally(std::span<const Chunk> chunks, std::span<const Candidates> candidates, std::span<const std::int64_t> units,
             const KeyRange& range, std::span<std::int64_t> bins) {
    ReferenceEngine().tally(chunks, candidates, units, range, bins);  // they are the host's
  }

  void count_runs(const ScoreView& view, std::size_t t, float value, const RunRange& runs,
                  std::span<std::int64_t> bins) {
    const std::span<std::int64_t> there = staged_bins(bins.size());
    cuda::count_runs(*launcher_, view.scorer, make_row(view, t, 0), value, runs, there);
    launcher_->from(bins.data(), there.data(), bins.size_bytes());
  }

  std::int64_t write_mask(const ScoreView& view, std::span<const Chunk> chunks, std::span<const ChunkQuota> quotas,
                          float threshold, MaskTable masks) {
    const Work work = place(view, masks);
    auto* const nan = staged<std::uint64_t>();
    zero(*launcher_, nan, sizeof *nan);
    for_tasks(
        work.rows, quotas.size(), alignment,
        [&](std::size_t i) {
          const Chunk& chunk = chunks[quotas[i].chunk];
          return task_of(chunk, static_cast<u32>(std::clamp<std::int64_t>(quotas[i].ties, 0, Chunk::size)));
        },
        [&](const Tasks& tasks, std::size_t) { write_chunks(*launcher_, view.scorer, tasks, threshold, nan); });
    std::uint64_t found = 0;
    launcher_->from(&found, nan, sizeof found);
    return static_cast<std::int64_t>(found);
  }

  void fill_mask(std::span<const ScoreInputs> tensors, std::span<const Chunk> chunks, std::span<const ChunkFill> fills,
                 MaskTable masks) {
    const Work work = place(make_view(tensors, nothing), masks);
    for_tasks(
        work.rows, fills.size(), 0,
        [&](std::size_t i) { return task_of(chunks[fills[i].chunk], fills[i].keep ? 1 : 0); },
        [&](const Tasks& tasks, std::size_t) {
          launcher_->template launch<FillChunks>(grid_for<FillChunks>((tasks.count + 7) / 8, launcher_->processors()),
                                                 {tasks.rows, tasks.tasks, tasks.count});
        });
  }

  void settle(std::span<const Chunk> chunks, std::span<const Candidates> candidates, float threshold,
              std::span<const std::int64_t> ties, MaskTable masks) {
    std::vector<KeptWord> words;
    for (std::size_t c = 0; c < chunks.size(); ++c) {
      std::int64_t left = ties[c];
      for (std::uint32_t i = 0; i < candidates[c].count; ++i)
        if (const float s = candidates[c].scores[i]; s < threshold || (s == threshold && left-- > 0)) {
          const std::int64_t index = chunks[c].first + candidates[c].offsets[i];
          std::uint64_t* const word = masks[chunks[c].tensor] + index / bits::per_word;
          if (words.empty() || words.back().word != word) words.push_back({word, ~std::uint64_t{0}});
          bits::clear(&words.back().keep, index % bits::per_word);
        }
    }
    keep_bits(words);
  }

  std::int64_t group_mask(const ScoreView& view, std::size_t t, const GroupRule& rule, MaskTable masks) {
    std::vector<ScoreInputs> tensor{view.tensors[t]};
    tensor[0].origin = origin_of(view, t);
    StepOptions options{.nonfinite = NonFinite::keep, .remainder = Remainder::keep};
    options.scope = rule.group > 0 ? Scope{Scope::n_of_m, rule.group - rule.base, rule.group} : Scope{Scope::row};
    const GroupPlan plan = make_group_step(tensor, view.scorer, staged<StepBudget>(), options, masks.subspan(t, 1),
                                           nullptr, base_ + layout_.step, layout_.step_bytes, staged<StepReport>());
    begin_groups(*launcher_, plan);
    upload(*launcher_, plan.context.rules, &rule, sizeof rule);
    cut_groups(*launcher_, view.scorer, plan);
    std::uint64_t nan = 0;
    launcher_->from(&nan, &plan.context.step.state->attempt[0].nan, sizeof nan);
    return static_cast<std::int64_t>(nan);
  }

  void popcount(std::span<const ScoreInputs> tensors, std::span<const std::uint64_t* const> masks,
                std::span<std::int64_t> per_tensor) {
    const std::span<std::int64_t> there = staged_bins(tensors.size());
    count_live(*launcher_, mask_rows(tensors, masks), tensors.size(), there.data());
    if (!tensors.empty()) launcher_->from(per_tensor.data(), there.data(), there.size_bytes());
  }

  std::int64_t survey(std::span<const ScoreInputs> tensors, std::span<const Chunk>,
                      std::span<const std::uint64_t* const> masks, std::span<std::int64_t> per_tensor) {
    popcount(tensors, masks, per_tensor);
    return compare(tensors, masks).empty_rows;
  }

  std::int64_t differing(std::span<const ScoreInputs> tensors, std::span<const std::uint64_t* const> masks) {
    return compare(tensors, masks).churn;
  }

  std::int64_t first_nonfinite(const ScoreView& view, std::size_t t, std::int64_t inputs) {
    std::vector<ScoreInputs> tensor{view.tensors[t]};
    tensor[0].origin = origin_of(view, t);
    const StepPlan plan = make_plan(tensor, view.scorer, {}, {}, base_ + layout_.step, layout_.step_bytes);
    const BracketReport found = report_of(view.scorer, plan, {0.0f, 0.0f});
    if (found.counts.nan == 0) return -1;
    const Geometry& g = tensor[0].geometry;
    return g.input_of(found.first_nan) < inputs ? found.first_nan
                                                : look_on(tensor[0], view.scorer, inputs, found.first_nan);
  }

  const std::uint64_t* words(const std::uint64_t* mask, std::int64_t count, std::vector<std::uint64_t>& copy) {
    copy.resize(static_cast<std::size_t>(count));
    launcher_->from(copy.data(), mask, copy.size() * sizeof(std::uint64_t));
    return copy.data();
  }

  std::uint64_t* scratch(std::vector<std::uint64_t>& words) {
    if (words.size() > layout_.scratch_words) throw Error("scratch: no room for a mask whose memory is row-major");
    return reinterpret_cast<std::uint64_t*>(base_ + layout_.scratch);
  }

  void clear_bits(std::uint64_t* mask, std::span<const std::uint64_t> words) {
    std::vector<KeptWord> kept;
    for (std::size_t word = 0; word < words.size(); ++word)
      if (words[word] != 0) kept.push_back({mask + word, ~words[word]});
    keep_bits(kept);
  }

 private:
  static constexpr Random nothing{};  // a scorer that reads no array

  // The same behind a NaN that is not ranked: scores are fetched, for the error's sake alone.
  std::int64_t look_on(const ScoreInputs& tensor, const Scorer& scorer, std::int64_t inputs, std::int64_t from) {
    constexpr std::int64_t most = 65536;
    const ScoreView view = make_view(std::span(&tensor, 1), scorer);
    std::vector<std::uint64_t> copy;
    const std::uint64_t* const mask = tensor.mask ? words(tensor.mask, bits::words(tensor.numel), copy) : nullptr;
    std::vector<std::int64_t> positions;
    std::vector<float> scores(most);
    for (std::int64_t i = from; i < tensor.numel; ++i) {
      if (tensor.geometry.input_of(i) < inputs && (!mask || bits::get(mask, tensor.order.memory_of(i))))
        positions.push_back(view.offset[0] + i);
      if (positions.empty() || (std::ssize(positions) < most && i + 1 < tensor.numel)) continue;
      gather(view, positions, scores.data());
      for (std::size_t j = 0; j < positions.size(); ++j)
        if (std::isnan(scores[j])) return positions[j] - view.offset[0];
      positions.clear();
    }
    return -1;
  }

  template <class T>
  T* staged(std::size_t at = 0) const {
    return reinterpret_cast<T*>(base_ + layout_.staging + at);
  }
  std::span<std::int64_t> staged_bins(std::size_t count) const {
    if (count * sizeof(std::int64_t) > RanksLayout::staging_bytes)
      throw ArgumentError("bins: " + std::to_string(count) + "; this engine has room for " +
                          std::to_string(RanksLayout::staging_bytes / sizeof(std::int64_t)));
    return {staged<std::int64_t>(), count};
  }

  static ChunkTask task_of(const Chunk& chunk, u32 ties) {
    return {chunk.tensor, static_cast<u32>(chunk.first / tile_size), ties};
  }

  // The rows of a view, and all their tiles, on the device.
  Work place(const ScoreView& view, std::span<std::uint64_t* const> masks) {
    std::vector<Row> rows;
    std::vector<Piece> pieces;
    u32 tiles = 0;
    std::int64_t output_rows = 0;
    for (std::size_t t = 0; t < view.tensors.size(); ++t) {
      rows.push_back(make_row(view, t, tiles));
      rows.back().next = masks.empty() ? nullptr : masks[t];
      rows.back().output_row = output_rows;
      if (rows.back().numel == 0) continue;
      output_rows += rows.back().geometry.rows;
      pieces.push_back({tiles, static_cast<u32>(t), 0});
      tiles += tiles_of(rows.back().numel);
    }
    auto* const to = reinterpret_cast<Row*>(base_ + layout_.rows);
    auto* const to_pieces = reinterpret_cast<Piece*>(base_ + layout_.pieces);
    launcher_->to(to, rows.data(), rows.size() * sizeof(Row));
    launcher_->to(to_pieces, pieces.data(), pieces.size() * sizeof(Piece));
    return {to, to_pieces, static_cast<u32>(pieces.size()), tiles};
  }

  // f(tasks, the first) for as many tasks at a time as there is room for, `behind` so many bytes and beside `result` of
  // each.
  template <class TaskOf, class F>
  void for_tasks(const Row* rows, std::size_t count, std::size_t behind, const TaskOf& task, const F& f,
                 std::size_t result = 0) {
    const std::size_t most = (RanksLayout::staging_bytes - behind - alignment) / (sizeof(ChunkTask) + result);
    std::vector<ChunkTask> tasks;
    for (std::size_t first = 0; first < count; first += most) {
      tasks.clear();
      for (std::size_t i = first; i < std::min(count, first + most); ++i) tasks.push_back(task(i));
      auto* const there = staged<ChunkTask>(behind + tasks.size() * result);
      launcher_->to(there, tasks.data(), tasks.size() * sizeof(ChunkTask));
      f(Tasks{rows, there, static_cast<u32>(tasks.size())}, first);
    }
  }

  // out[width * i + c] = score of the c-th neighbour behind place_of(i).
  template <class PlaceOf>
  void gather_runs(const ScoreView& view, std::int64_t count, std::int64_t width, float* out, const PlaceOf& place_of) {
    const Work work = place(view, {});
    const auto each = static_cast<std::size_t>(width) * sizeof(float) + sizeof(std::int64_t);
    const auto most = static_cast<std::int64_t>(RanksLayout::staging_bytes / each);
    std::vector<std::int64_t> places;
    for (std::int64_t first = 0; first < count; first += most) {
      places.clear();
      for (std::int64_t i = first; i < std::min(count, first + most); ++i) places.push_back(place_of(i));
      auto* const there = staged<std::int64_t>();
      auto* const scores = staged<float>(places.size() * sizeof(std::int64_t));
      launcher_->to(there, places.data(), places.size() * sizeof(std::int64_t));
      const u64 found = places.size() * static_cast<u64>(width);
      cuda::gather(*launcher_, view.scorer, work, static_cast<u32>(view.tensors.size()), static_cast<u32>(width), found,
                   there, scores);
      launcher_->from(out + first * width, scores, found * sizeof(float));
    }
  }

  // ---- bracket ----

  BracketReport report_of(const Scorer& scorer, const StepPlan& plan, const Bracket& ends) {
    auto* const report = staged<BracketReport>();
    enqueue_bracket(*launcher_, scorer, plan, ends, report);
    BracketReport found;
    launcher_->from(&found, report, sizeof found);
    return found;
  }

  BracketRead read(const ScoreView& view, const StepPlan& plan, std::span<const Chunk> chunks, const Bracket& ends) {
    BracketRead found;
    found.report = report_of(view.scorer, plan, ends);
    found.low_key = key_of(ends.low);
    found.zero_end = plan.context.non_negative && ends.low == smallest_positive;
    if (found.report.overflow == 0) {
      found.candidates.resize(static_cast<std::size_t>(found.report.counts.inside));
      launcher_->from(found.candidates.data(), plan.context.candidates, found.candidates.size() * sizeof(u64));
    }
    if (!plan.context.masks) return found;
    found.tallies.resize(chunks.size());
    for_tasks(
        plan.context.rows, chunks.size(), 0, [&](std::size_t c) { return task_of(chunks[c], 0); },
        [&](const Tasks& tasks, std::size_t first) {
          auto* const sums = staged<ChunkTally>();
          launcher_->template launch<ChunkBits>(grid_for<ChunkBits>((tasks.count + 7) / 8, launcher_->processors()),
                                                {tasks.rows, plan.context.tile_ties, tasks.tasks, tasks.count, sums});
          launcher_->from(found.tallies.data() + first, sums, tasks.count * sizeof(ChunkTally));
        },
        sizeof(ChunkTally));
    return found;
  }

  void count(const ScoreView& view, const Row* rows, std::span<const Chunk> chunks, const Bracket& ends,
             std::vector<BracketCounts>& counts) {
    for_tasks(
        rows, chunks.size(), 0, [&](std::size_t c) { return task_of(chunks[c], 0); },
        [&](const Tasks& tasks, std::size_t first) {
          auto* const sums = staged<BracketCounts>();
          count_chunks(*launcher_, view.scorer, tasks, ends.low, ends.high, sums);
          launcher_->from(counts.data() + first, sums, tasks.count * sizeof(BracketCounts));
        },
        sizeof(BracketCounts));
  }

  // ---- masks ----

  void keep_bits(std::span<const KeptWord> words) {
    constexpr std::size_t most = RanksLayout::staging_bytes / sizeof(KeptWord);
    for (std::size_t first = 0; first < words.size(); first += most) {
      const std::span<const KeptWord> now = words.subspan(first, std::min(most, words.size() - first));
      auto* const there = staged<KeptWord>();
      launcher_->to(there, now.data(), now.size_bytes());
      launcher_->template launch<KeepBits>(grid_for<KeepBits>((now.size() + 255) / 256, launcher_->processors()),
                                           {there, now.size()});
    }
  }

  // New masks against the tensors' own: churn and empty_rows.
  StepReport compare(std::span<const ScoreInputs> tensors, std::span<const std::uint64_t* const> masks) {
    StepReport found;
    if (elements_of(tensors) == 0) return found;
    std::vector<std::uint64_t*> next;
    for (const std::uint64_t* mask : masks) next.push_back(const_cast<std::uint64_t*>(mask));  // only read
    Context c{};
    const Work work = place(make_view(tensors, nothing), next);
    c.rows = work.rows;
    c.row_count = static_cast<u32>(tensors.size());
    for (const ScoreInputs& tensor : tensors) c.output_rows += tensor.numel > 0 ? tensor.geometry.rows : 0;
    c.report = staged<StepReport>();
    zero(*launcher_, c.report, sizeof found);
    compare_masks(*launcher_, c, work);
    launcher_->from(&found, c.report, sizeof found);
    return found;
  }

  RanksLayout layout_;
  std::byte* base_;
  L* launcher_ = nullptr;
};

}  // namespace bittersweet::cuda
