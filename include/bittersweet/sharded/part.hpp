// What one rank does in a selection that several make together (select/rounds.hpp): it reads its own tensors and puts
// what it finds into the vectors, then completes its masks.
#pragma once

#include <numeric>

#include "bittersweet/mask/commit.hpp"
#include "bittersweet/select/rounds.hpp"

namespace bittersweet {

// A tensor of this rank, as a part of a whole one.
struct LocalPart {
  std::int64_t unit = 0;
  bool counts = true;  // false: another rank counts for it, and this one makes the same mask
  RunMap runs{};       // where its unit is boxed
};

template <RankEngine E>
class SelectionPart {
 public:
  // Borrows nothing but what the tensors and the masks point to. `masks` may be empty: then none are written, and this
  // rank counts for every part that it is given.
  SelectionPart(std::vector<ScoreInputs> tensors, std::vector<LocalPart> parts, std::vector<std::uint64_t*> masks,
                const Scorer& scorer, const SelectContext& context, std::optional<std::int64_t> capacity)
      : tensors_(std::move(tensors)),
        parts_(std::move(parts)),
        masks_(std::move(masks)),
        view_(make_view(tensors_, scorer)),
        chunks_(make_chunks(tensors_)),
        context_(context),
        capacity_(capacity.value_or(std::max(Chunk::size, view_.size() / 32))) {}
  SelectionPart(const SelectionPart&) = delete;
  SelectionPart& operator=(const SelectionPart&) = delete;

  // Before the step of `shared` is taken: what this rank puts into the vector, which holds zeros. `keep`: candidates
  // must outlive the next use of the workspace.
  void put(E& engine, const SharedSelection& shared, std::span<std::int32_t> to, double share, bool keep,
           Workspace& workspace) {
    switch (shared.step()) {
      case SharedSelection::Step::sample: {
        if (shared.first_look()) return look(engine, shared.narrowing(), shared.plan().elements, share, to, workspace);
        for (const std::uint32_t key : sampled_) ++to[shared.narrowing().bin(key)];
        return;
      }
      case SharedSelection::Step::bracket: return put_bracket(engine, shared, to, keep, workspace);
      case SharedSelection::Step::candidates: return put_candidates(engine, shared, to, workspace);
      case SharedSelection::Step::units: return put_units(engine, shared, to, workspace);
      case SharedSelection::Step::runs: return put_runs(engine, shared, to);
      case SharedSelection::Step::digit: return put_digit(engine, shared, to, workspace);
      default: return;
    }
  }

  // After `shared` has taken a sum of the step `taken`.
  void took(SharedSelection::Step taken, const SharedSelection& shared) {
    if (taken != SharedSelection::Step::runs) return;
    for (std::size_t t = 0; t < parts_.size(); ++t) {
      if (in_bins_[t].empty()) continue;
      const auto chosen = in_bins_[t].begin() + static_cast<std::ptrdiff_t>(shared.chosen());
      before_run_[t] = std::accumulate(in_bins_[t].begin(), chosen, before_run_[t]);
      in_run_[t] = *chosen;
    }
  }

  // The first look: a sample of the tensors that this rank counts for, at the rate that all ranks have. `share`: how
  // much of it is likely below the threshold.
  void look(E& engine, const Narrowing& narrowing, std::int64_t elements, double share, std::span<std::int32_t> to,
            Workspace& workspace) {
    const std::span<std::int32_t> bins = to.subspan(SampleSpread::length);
    std::vector<ScoreInputs> counted;
    for (std::size_t t = 0; t < parts_.size(); ++t)
      if (parts_[t].counts && tensors_[t].numel > 0) {
        counted.push_back(tensors_[t]);
        counted.back().origin = origin_of(view_, t);
      }
    const ScoreView view = make_view(counted, view_.scorer);
    if (view.size() == 0) return;
    const double rate = static_cast<double>(view.size()) / static_cast<double>(elements);
    const auto lines = static_cast<std::int64_t>(static_cast<double>(lines_for(elements)) * rate + 0.5);
    const LineSample plan{std::max<std::int64_t>(lines, 1), context_.seed};
    const auto size = static_cast<std::size_t>(plan.lines * LineSample::width);
    float* const scores = workspace.get<float>(Workspace::sample, size);
    engine.sample(view, plan, scores);
    extra_bytes_ += static_cast<std::int64_t>(size * (sizeof(float) + sizeof(std::uint32_t)));
    sampled_.resize(size);
    std::size_t drawn = 0;
    SampleSpread spread{.lines = plan.lines};
    for (std::size_t i = 0; i < size; ++i) {
      const std::uint32_t key = key_of(scores[i]);
      if (key == key_of_nan) continue;
      sampled_[drawn++] = key;
      ++bins[narrowing.bin(key)];
      spread.zeros += key == key_of_zero;
      spread.between += !narrowing.on_edge(key);
    }
    sampled_.resize(drawn);
    std::size_t middle = 0;
    for (double below = bins[0]; middle + 1 < bins.size() && below < share * static_cast<double>(drawn);)
      below += bins[++middle];
    const float value = score_of(narrowing.end(middle));
    const detail::LineSpread measured = detail::line_spread({scores, size}, value, share);
    spread.squares = static_cast<std::int64_t>(measured.squares * 256);
    spread.pairs = measured.pairs;
    spread.put(to);
  }

  // NaN scores that the bracket pass met in each tensor, of those that this rank counts.
  std::int64_t nonfinite_in(std::size_t t) const {
    std::int64_t found = 0;
    if (run_.counts.total.nan == 0) return found;
    for (std::size_t c = 0; c < run_.counts.chunk.size(); ++c)
      if (chunks_[c].tensor == t && parts_[t].counts) found += run_.counts.chunk[c].nan;
    return found;
  }

  // Completes the masks; `shared` is done.
  void complete(E& engine, const SharedSelection& shared, Workspace& workspace) {
    run_.selection = local(shared);
    if (masks_.empty()) return;
    if (shared.plan().rank <= 0) return keep_all(engine, tensors_, chunks_, masks_);
    const std::int64_t wanted = ties_wanted(shared.plan().ties, shared.selection());
    if (!shared.cut().split && shared.by_digits()) {
      std::vector<ChunkQuota> quotas(chunks_.size());
      for (std::size_t c = 0; c < chunks_.size(); ++c)
        quotas[c] = {static_cast<std::uint32_t>(c), wanted == 0 ? 0 : all_ties};
      engine.write_mask(view_, chunks_, quotas, shared.selection().value, masks_);
      passes_ += 1;
      return;
    }
    count_ties(engine, shared, workspace);
    std::vector<std::int64_t> quota;
    if (shared.cut().split)
      quota = share_ties(chunks_, present_, wanted_here(shared.cut()));
    else if (run_.selection.place == Place::inside)
      quota.assign(chunks_.size(), wanted == 0 ? 0 : all_ties);
    else
      quota = wanted == 0 ? std::vector<std::int64_t>(chunks_.size()) : present_;
    passes_ += complete_masks(engine, view_, chunks_, run_, present_, std::move(quota), masks_);
  }

  const ScoreView& view() const noexcept { return view_; }
  double passes() const noexcept { return passes_; }
  std::int64_t extra_bytes() const noexcept { return extra_bytes_; }

 private:
  Selection local(const SharedSelection& shared) const {
    Selection selection = shared.selection();
    if (shared.by_digits()) selection.place = Place::at_low;  // of a bracket on the threshold itself
    return selection;
  }

  std::vector<std::int64_t> units(const SharedPlan& plan) const {
    std::vector<std::int64_t> all;
    for (const LocalPart& part : parts_) all.push_back(part.counts ? part.unit - plan.first_unit : -1);
    return all;
  }

  void put_bracket(E& engine, const SharedSelection& shared, std::span<std::int32_t> to, bool keep,
                   Workspace& workspace) {
    run_.bracket = shared.bracket();
    run_.counts = engine.bracket(view_, chunks_, run_.bracket, masks_, capacity_, workspace);
    passes_ += run_.counts.passes;
    extra_bytes_ += run_.counts.bytes;
    context_.pass_done();
    if (keep) keep_candidates();
    BracketCounts counts;
    if (std::ranges::all_of(parts_, &LocalPart::counts))
      counts = run_.counts.total;
    else
      for (std::size_t c = 0; c < chunks_.size(); ++c)
        if (parts_[chunks_[c].tensor].counts) counts += run_.counts.chunk[c];
    LimbWriter out(to);
    for (const std::int64_t count : {counts.below, counts.equal_low, counts.inside, counts.equal_high, counts.above,
                                     counts.nan, std::int64_t{run_.counts.overflow}})
      out.put(count);
    if (!run_.counts.overflow) put_candidates(engine, shared, to.subspan(SharedSelection::bracket_length), workspace);
  }

  void put_candidates(E& engine, const SharedSelection& shared, std::span<std::int32_t> to, Workspace& workspace) {
    const std::span bins(workspace.nested().get<std::int64_t>(Workspace::first_arena, to.size()), to.size());
    engine.tally(chunks_, run_.counts.candidates, units(shared.plan()), shared.keys(), bins);
    put_counts(bins, false, to);
  }

  void keep_candidates() {
    std::size_t total = 0;
    for (const Candidates& found : run_.counts.candidates) total += found.count;
    scores_.resize(total);
    offsets_.resize(total);
    std::size_t at = 0;
    for (Candidates& found : run_.counts.candidates) {
      std::copy_n(found.scores, found.count, scores_.begin() + static_cast<std::ptrdiff_t>(at));
      std::copy_n(found.offsets, found.count, offsets_.begin() + static_cast<std::ptrdiff_t>(at));
      found.scores = scores_.data() + at;
      found.offsets = offsets_.data() + at;
      at += found.count;
    }
    run_.counts.collected.clear();
  }

  // Ties by chunk and by tensor, once the threshold is known.
  void count_ties(E& engine, const SharedSelection& shared, Workspace& workspace) {
    if (counted_) return;
    run_.selection = local(shared);
    if (shared.by_digits()) {
      const float value = shared.selection().value;
      run_.bracket = {value, value, true};
      run_.counts = engine.bracket(view_, chunks_, run_.bracket, masks_, 0, workspace);
      passes_ += run_.counts.passes;
      context_.pass_done();
    }
    present_ = ties_present(run_, shared.cut().split);
    ties_.assign(parts_.size(), 0);
    for (std::size_t c = 0; c < chunks_.size(); ++c) ties_[chunks_[c].tensor] += present_[c];
    counted_ = true;
  }

  void put_units(E& engine, const SharedSelection& shared, std::span<std::int32_t> to, Workspace& workspace) {
    count_ties(engine, shared, workspace);
    const UnitRange& range = shared.units();
    std::vector<std::int64_t> bins(range.bins());
    for (std::size_t t = 0; t < parts_.size(); ++t)
      if (const std::int64_t at = parts_[t].unit - range.first; parts_[t].counts && at >= 0 && at < range.count)
        bins[static_cast<std::size_t>(at / range.width)] += ties_[t];
    put_counts(bins, shared.wide(), to);
  }

  void put_runs(E& engine, const SharedSelection& shared, std::span<std::int32_t> to) {
    before_run_.resize(parts_.size());
    in_run_.resize(parts_.size());
    in_bins_.resize(parts_.size());
    std::vector<std::int64_t> sum(static_cast<std::size_t>(shared.runs().bins()));
    for (std::size_t t = 0; t < parts_.size(); ++t) {
      if (parts_[t].unit != shared.cut().unit || tensors_[t].numel == 0) continue;
      RunRange range = shared.runs();
      range.map = parts_[t].runs;
      in_bins_[t].assign(sum.size(), 0);
      engine.count_runs(view_, t, shared.selection().value, range, in_bins_[t]);
      context_.pass_done();
      passes_ += static_cast<double>(tensors_[t].numel) / static_cast<double>(view_.size());
      for (std::size_t b = 0; parts_[t].counts && b < sum.size(); ++b) sum[b] += in_bins_[t][b];
    }
    put_counts(sum, shared.wide(), to);
  }

  void put_digit(E& engine, const SharedSelection& shared, std::span<std::int32_t> to, Workspace& workspace) {
    std::vector<ScoreInputs> counted;
    for (std::size_t t = 0; t < parts_.size(); ++t)
      if (parts_[t].counts) {
        counted.push_back(tensors_[t]);
        counted.back().origin = origin_of(view_, t);
      }
    std::vector<std::int64_t> bins(std::size_t{1} << shared.digit().digit_bits);
    const ScoreView view = make_view(counted, view_.scorer);
    engine.histogram(view, make_chunks(counted), shared.digit(), bins, workspace);
    passes_ += 1;
    context_.pass_done();
    put_counts(bins, shared.wide(), to);
  }

  // Ties that each tensor of this rank gives.
  std::vector<std::int64_t> wanted_here(const TieCut& cut) const {
    std::vector<std::int64_t> wanted(parts_.size());
    for (std::size_t t = 0; t < parts_.size(); ++t) {
      if (parts_[t].unit > cut.unit) continue;
      wanted[t] = ties_[t];
      if (parts_[t].unit < cut.unit) continue;
      const bool boxed = t < in_bins_.size() && !in_bins_[t].empty();
      wanted[t] = boxed ? before_run_[t] + std::min(cut.left, in_run_[t]) : std::min(cut.left, ties_[t]);
    }
    return wanted;
  }

  std::vector<ScoreInputs> tensors_;
  std::vector<LocalPart> parts_;
  std::vector<std::uint64_t*> masks_;
  ScoreView view_;
  std::vector<Chunk> chunks_;
  SelectContext context_;
  std::int64_t capacity_;
  ExactRun run_{};
  std::vector<float> scores_;  // candidates that were kept
  std::vector<std::uint16_t> offsets_;
  std::vector<std::uint32_t> sampled_;  // keys
  bool counted_ = false;
  std::vector<std::int64_t> present_;               // ties by chunk
  std::vector<std::int64_t> ties_;                  // and by tensor
  std::vector<std::vector<std::int64_t>> in_bins_;  // ties of the boxed tensors in the cut, by bin of runs
  std::vector<std::int64_t> before_run_, in_run_;
  double passes_ = 0;
  std::int64_t extra_bytes_ = 0;
};

}  // namespace bittersweet
