// From a threshold to the final mask bits: which of the scores equal to it are pruned, and the words that a bracket
// pass could not decide.
#pragma once

#include <algorithm>
#include <optional>
#include <vector>

#include "bittersweet/engine/engine.hpp"
#include "bittersweet/mask/bit_layout.hpp"
#include "bittersweet/select/exact.hpp"

namespace bittersweet {

// How many of the scores equal to the threshold each chunk prunes, given how many it has: the first in order of
// (tensor, index in memory) until `wanted` are found.
inline std::vector<std::int64_t> share_ties(const std::vector<std::int64_t>& present, std::int64_t wanted) {
  std::vector<std::int64_t> quota(present.size());
  for (std::size_t c = 0; c < present.size(); ++c) {
    quota[c] = std::min(present[c], wanted);
    wanted -= quota[c];
  }
  return quota;
}

// The same with a number wanted of each tensor.
inline std::vector<std::int64_t> share_ties(std::span<const Chunk> chunks, const std::vector<std::int64_t>& present,
                                            std::vector<std::int64_t> wanted) {
  std::vector<std::int64_t> quota(present.size());
  for (std::size_t c = 0; c < present.size(); ++c) {
    quota[c] = std::min(present[c], wanted[chunks[c].tensor]);
    wanted[chunks[c].tensor] -= quota[c];
  }
  return quota;
}

// A tensor that prunes some of the scores equal to the threshold and keeps others, and how many.
struct SplitTies {
  std::size_t tensor;
  std::int64_t wanted;
};

// Shares by chunk go by memory, and ties by the logical index: a tensor whose memory is in another order, and which
// prunes some of its ties only, is taken out of the shares. Several are only where a rank holds several parts of one.
inline std::vector<SplitTies> take_split(const ScoreView& view, std::span<const Chunk> chunks,
                                         const std::vector<std::int64_t>& present, std::vector<std::int64_t>& quota) {
  std::vector<SplitTies> apart;
  for (std::size_t first = 0, last = 0; first < chunks.size(); first = last) {
    std::int64_t all = 0, some = 0;
    for (; last < chunks.size() && chunks[last].tensor == chunks[first].tensor; ++last) {
      all += present[last];
      some += std::min(quota[last], present[last]);
    }
    if (view.tensors[chunks[first].tensor].order.row_major() || some == 0 || some == all) continue;
    std::fill(quota.begin() + static_cast<std::ptrdiff_t>(first), quota.begin() + static_cast<std::ptrdiff_t>(last), 0);
    apart.push_back({chunks[first].tensor, some});
  }
  return apart;
}

// Prunes the wanted ties of a tensor whose mask keeps them all: the first by logical index. Returns the extra passes.
template <RankEngine E>
double prune_split(E& engine, const ScoreView& view, std::span<const Chunk> chunks, const ExactRun& run,
                   const std::vector<std::int64_t>& present, const SplitTies& split, MaskTable masks) {
  const ScoreInputs& tensor = view.tensors[split.tensor];
  const auto words = static_cast<std::size_t>(bits::words(tensor.numel));
  std::vector<std::uint64_t> ties(words);
  std::uint64_t* const mask = masks[split.tensor];
  std::vector<ChunkQuota> again;
  std::int64_t rescored = 0;
  for (std::size_t c = 0; c < chunks.size(); ++c) {
    if (chunks[c].tensor != split.tensor || present[c] == 0) continue;
    if (run.selection.place != Place::inside) {
      again.push_back({static_cast<std::uint32_t>(c), all_ties});
      rescored += chunks[c].count;
      continue;
    }
    const Candidates& found = run.counts.candidates[c];
    for (std::uint32_t i = 0; i < found.count; ++i)
      if (found.scores[i] == run.selection.value) bits::set(ties.data(), chunks[c].first + found.offsets[i]);
  }
  if (!again.empty()) {
    std::vector<std::uint64_t*> tables(masks.begin(), masks.end());
    tables[split.tensor] = engine.scratch(ties);
    engine.write_mask(view, chunks, again, run.selection.value, tables);
    std::vector<std::uint64_t> copies[2];
    const std::uint64_t* const with = engine.words(mask, bits::words(tensor.numel), copies[0]);
    const std::uint64_t* const without = engine.words(tables[split.tensor], bits::words(tensor.numel), copies[1]);
    for (const ChunkQuota& q : again) {
      const std::int64_t first = chunks[q.chunk].first / bits::per_word;
      for (std::int64_t word = first; word < first + bits::words(chunks[q.chunk].count); ++word)
        ties[static_cast<std::size_t>(word)] = with[word] & ~without[word];
    }
  }
  bits::keep_first(ties.data(), tensor.numel, tensor.order, split.wanted);
  engine.clear_bits(mask, ties);
  return static_cast<double>(rescored) / static_cast<double>(view.size());
}

// Masks of which nothing goes.
template <RankEngine E>
void keep_all(E& engine, std::span<const ScoreInputs> tensors, std::span<const Chunk> chunks, MaskTable masks) {
  std::vector<ChunkFill> fills;
  for (std::size_t c = 0; c < chunks.size(); ++c) fills.push_back({static_cast<std::uint32_t>(c), true});
  engine.fill_mask(tensors, chunks, fills, masks);
}

// How many scores equal to the threshold each chunk has, where the place of the selection tells; `inside` too?
inline std::vector<std::int64_t> ties_present(const ExactRun& run, bool inside) {
  std::vector<std::int64_t> present(run.counts.chunk.size());
  for (std::size_t c = 0; c < present.size(); ++c) {
    const BracketCounts& counts = run.counts.chunk[c];
    const Candidates& found = run.counts.candidates[c];
    switch (run.selection.place) {
      case Place::zeros_below: present[c] = counts.below; break;
      case Place::at_low: present[c] = counts.equal_low; break;
      case Place::at_high: present[c] = counts.equal_high; break;
      case Place::inside:
        if (inside) present[c] = std::count(found.scores, found.scores + found.count, run.selection.value);
        break;
      default: break;
    }
  }
  return present;
}

// Completes masks that a bracket pass wrote (keep = live and not score <= low): of the ties present in each chunk, as
// many go as its quota says. Chunks that the provisional bits already describe are left alone; those that hold nothing
// but ties and decided scores are filled; the rest are scored once more. Where `later` is given, it is what is left to
// be settled, if anything is. Returns the extra passes over the inputs that this took.
template <RankEngine E>
double complete_masks(E& engine, const ScoreView& view, std::span<const Chunk> chunks, const ExactRun& run,
                      const std::vector<std::int64_t>& present, std::vector<std::int64_t> quota, MaskTable masks,
                      Unsettled* later = nullptr) {
  const Selection& selection = run.selection;
  const BracketResult& result = run.counts;
  const std::vector<SplitTies> apart = take_split(view, chunks, present, quota);

  std::vector<ChunkQuota> again;
  std::vector<ChunkFill> fills;
  for (std::size_t c = 0; c < chunks.size(); ++c) {
    const BracketCounts& counts = result.chunk[c];
    const auto fill = [&](bool keep) { fills.push_back({static_cast<std::uint32_t>(c), keep}); };
    const bool all = quota[c] == present[c], none = quota[c] == 0;
    bool stale = false;
    switch (selection.place) {
      case Place::nothing: fill(true); break;
      case Place::zeros_below:  // provisional: zeros and the smallest positive number are pruned
        if (none)
          fill(true);
        else
          stale = !all || counts.equal_low > 0;
        break;
      case Place::at_low:  // provisional: all ties are pruned
        if (none && counts.below == 0)
          fill(true);
        else
          stale = !all;
        break;
      case Place::at_high:  // provisional: no tie is pruned; the inside is settled below
        if (!none && all && counts.above == 0 && counts.nan == 0)
          fill(false);
        else
          stale = !none;
        break;
      default: break;
    }
    if (stale) again.push_back({static_cast<std::uint32_t>(c), quota[c]});
  }
  if (!fills.empty()) engine.fill_mask(view.tensors, chunks, fills, masks);
  const bool collected = selection.place == Place::inside || selection.place == Place::at_high;
  if (later != nullptr && apart.empty()) {
    for (const BracketCounts& counts : result.chunk)
      later->live.push_back(counts.inside + counts.equal_high + counts.above + counts.nan);
    for (const ChunkFill& f : fills) later->live[f.chunk] = -1;
    for (const ChunkQuota& q : again) later->live[q.chunk] = -1;
    if (collected) *later = {std::move(later->live), result.candidates, quota, selection.value};
  } else if (collected) {
    engine.settle(chunks, result.candidates, selection.value, quota, masks);
  }
  std::int64_t rescored = 0;
  for (const ChunkQuota& q : again) rescored += chunks[q.chunk].count;
  if (!again.empty()) engine.write_mask(view, chunks, again, selection.value, masks);
  double passes = static_cast<double>(rescored) / static_cast<double>(std::max<std::int64_t>(view.size(), 1));
  for (const SplitTies& split : apart) passes += prune_split(engine, view, chunks, run, present, split, masks);
  return passes;
}

// The same for ties that go in order of (tensor, flat index).
template <RankEngine E>
double complete_masks(E& engine, const ScoreView& view, std::span<const Chunk> chunks, const ExactRun& run, Ties ties,
                      MaskTable masks, Unsettled* later = nullptr) {
  const std::int64_t wanted = ties_wanted(ties, run.selection);
  const bool split = wanted != 0 && wanted != run.selection.equal;
  const std::vector<std::int64_t> present = ties_present(run, split);
  std::vector<std::int64_t> quota = share_ties(present, wanted);
  if (run.selection.place == Place::inside && !split) std::fill(quota.begin(), quota.end(), wanted == 0 ? 0 : all_ties);
  return complete_masks(engine, view, chunks, run, present, std::move(quota), masks, later);
}

// Masks for a threshold found without them: one read when ties go one way, else a bracket on the threshold itself,
// whose counts share the ties out. Returns the passes. Where a sample met only some of the NaN, selection.nan
// becomes all of them.
template <Engine E>
double write_masks(E& engine, const ScoreView& view, std::span<const Chunk> chunks, Selection& selection, Ties ties,
                   Workspace& workspace, MaskTable masks) {
  const std::int64_t wanted = ties_wanted(ties, selection);
  if (selection.rank <= 0 || ties != Ties::exact || wanted == selection.equal) {
    std::vector<ChunkQuota> quotas(chunks.size());
    for (std::size_t c = 0; c < chunks.size(); ++c)
      quotas[c] = {static_cast<std::uint32_t>(c), ties == Ties::below || selection.rank <= 0 ? 0 : all_ties};
    selection.nan = engine.write_mask(view, chunks, quotas, selection.value, masks);
    return 1;
  }
  ExactRun run{.selection = selection, .bracket = {selection.value, selection.value, true}};
  run.selection.place = Place::at_low;
  run.counts = engine.bracket(view, chunks, run.bracket, masks, 0, workspace);
  return 1 + complete_masks(engine, view, chunks, run, ties, masks);
}

}  // namespace bittersweet
