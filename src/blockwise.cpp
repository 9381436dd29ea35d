// The state between blocks. Integers decide: a pass counts every score against a bracket of keys, and what lies inside
// by its key; the next bracket is the bin that holds the wanted rank. The sample only proposes the first one.
#include "bittersweet/blockwise.hpp"

#include <algorithm>

#include "bittersweet/flow.hpp"
#include "call.hpp"
#include "checks.hpp"

namespace bittersweet {
namespace {

constexpr std::size_t range_bins = std::size_t{1} << 20;      // for the keys inside a bracket
constexpr std::size_t chunks_together = 32;                   // their candidates fit the workspace
constexpr std::int64_t sampled_from = std::int64_t{1} << 20;  // fewer elements are read once more instead
constexpr std::int64_t most_lines = 2048;                     // random reads of a disk are dear
constexpr std::int64_t most_in_block = std::int64_t{1} << 31;

ScoreView view_of(const ScoreInputs& block, const Scorer& scorer) {
  if (block.numel < 0 || block.numel > most_in_block)
    throw ShapeError("block of '" + std::string(block.name) + "': " + std::to_string(block.numel) +
                     " elements; up to 2^31 are accepted");
  if (block.mask != nullptr || block.modifier != 1.0f || !block.order.row_major())
    throw ArgumentError("block of '" + std::string(block.name) +
                        "': it has a mask, a modifier or another order of memory; blocks have none");
  const std::span<const ScoreInputs> one(&block, 1);
  check_alignment(one);
  return make_view(one, scorer);
}

}  // namespace

void NonFiniteWatch::look(const ScoreInputs& block, std::int64_t first, const Scorer& scorer, const Scope& scope) {
  const Call call("bittersweet::BlockwisePrune");
  const ScoreView view = view_of(block, scorer);
  std::int64_t count = cpu_engine().moments(view, make_chunks(view.tensors)).nan;
  if (count > 0 && scope.kind == Scope::n_of_m) {  // of these some may not be ranked
    count = 0;
    for (std::int64_t at = -1; (at = flow::next_nonfinite(view, 0, scope, at + 1)) >= 0;) ++count;
  }
  found(block, first, scorer, count, scope);
}

void NonFiniteWatch::found(const ScoreInputs& block, std::int64_t first, const Scorer& scorer, std::int64_t count,
                           const Scope& scope) {
  if (count > 0 && count_ == 0) {
    name_ = block.name;
    const std::int64_t at = flow::next_nonfinite(view_of(block, scorer), 0, scope);
    if (at < 0) throw Error("scores changed while they were read: a NaN was counted and is gone");
    first_ = first + at;
  }
  count_ += count;
}

void NonFiniteWatch::raise() const {
  if (count_ > 0) throw NonFiniteScoreError(name_, count_, first_);
}

struct BlockwisePrune::State {
  Scorer scorer;
  std::int64_t total = 0, k = 0;
  std::uint64_t seed = 0;
  Pass pass = Pass::count;
  Selection selection;
  int counting_passes = 0;
  std::vector<float> scores;  // of the sample
  // Of the pass that counts: what is known of the answer, what is counted against, and what was found.
  bool non_negative = true;
  std::uint32_t least = key_of_zero, greatest = key_of_infinity;
  Bracket bracket{};
  BracketCounts counts;
  std::vector<std::int64_t> bins;
  std::int64_t seen = 0;
  NonFiniteWatch watch;
  // Of the pass that writes: ties that are still to come, and those of them to prune.
  std::int64_t ties_left = 0, ties_wanted = 0, pruned = 0;
  std::vector<std::uint64_t> words;
  Workspace workspace;

  std::uint32_t width() const {  // keys of one bin
    const std::uint32_t inside = key_of(bracket.high) - key_of(bracket.low);
    return std::max<std::uint32_t>(1, static_cast<std::uint32_t>((inside + range_bins - 1) / range_bins));
  }
  void begin_counting();
  void begin_writing();
  void count_range(const ScoreView& view, std::span<const Chunk> chunks);
  void conclude();
  void answer(float value, std::int64_t below, std::int64_t equal, Place place);
};

void BlockwisePrune::State::begin_counting() {
  pass = Pass::count;
  counts = {};
  seen = 0;
  bins.assign(range_bins, 0);
}

void BlockwisePrune::State::begin_writing() {
  pass = Pass::write;
  bins = {};
  words = {};
  workspace.release();  // many runs may wait for their turn to write
  seen = pruned = 0;
  ties_left = selection.equal;
  ties_wanted = selection.rank - selection.below;
}

void BlockwisePrune::State::answer(float value, std::int64_t below, std::int64_t equal, Place place) {
  selection = {.value = value == 0.0f ? 0.0f : value, .rank = k, .below = below, .equal = equal};
  selection.passes = counting_passes;
  selection.place = place;
  begin_writing();
}

// What lies inside the bracket, by its key. Few chunks at a time, so that whatever they hold has room.
void BlockwisePrune::State::count_range(const ScoreView& view, std::span<const Chunk> chunks) {
  const std::uint32_t first = key_of(bracket.low) + 1, step = width();
  for (std::size_t begin = 0; begin < chunks.size(); begin += chunks_together) {
    const auto some = chunks.subspan(begin, std::min(chunks_together, chunks.size() - begin));
    const auto room = static_cast<std::int64_t>(some.size()) * Chunk::size;
    const BracketResult found = cpu_engine().bracket(view, some, bracket, {}, room, workspace);
    counts += found.total;
    for (const std::span<const float> piece : found.collected)
      for (const float score : piece) ++bins[(key_of(score) - first) / step];
  }
}

void BlockwisePrune::State::conclude() {
  const std::uint32_t low = key_of(bracket.low), high = key_of(bracket.high);
  const Place place = locate(bracket, counts, k, non_negative);
  const std::int64_t under = counts.below + counts.equal_low;
  switch (place) {
    case Place::zeros_below: return answer(0.0f, 0, counts.below, place);
    case Place::at_low: return answer(bracket.low, counts.below, counts.equal_low, place);
    case Place::at_high: return answer(bracket.high, under + counts.inside, counts.equal_high, place);
    case Place::missed_low: greatest = low - 1; break;
    case Place::missed_high: least = high + 1; break;
    default: {
      const std::uint32_t step = width();
      std::int64_t below = under;
      std::size_t bin = 0;
      while (k > below + bins[bin]) below += bins[bin++];
      const std::uint32_t key = low + 1 + static_cast<std::uint32_t>(bin) * step;
      if (step == 1) return answer(score_of(key), below, bins[bin], place);
      least = key;
      greatest = std::min(key + step - 1, high - 1);
    }
  }
  bracket = {score_of(least), score_of(greatest), true};
  begin_counting();
}

BlockwisePrune::BlockwisePrune(std::int64_t total, const Budget& budget, const Scorer& scorer, std::uint64_t seed)
    : state_(std::make_unique<State>()) {
  if (total < 0) throw ShapeError("total: " + std::to_string(total) + " elements");
  const ScorerInfo info = info_of(scorer);
  if (info.reads & reads::position)
    throw ArgumentError("scorer: '" + std::string(info.name) +
                        "' reads positions in the whole model, which a block does not know; accepted are the others");
  State& state = *state_;
  state.non_negative = info.non_negative;
  if (!info.non_negative) state.least = key_of_minus_infinity;
  state.bracket = {score_of(state.least), score_of(state.greatest), true};
  state.scorer = scorer;
  state.total = total;
  state.k = resolve(budget, total);
  state.seed = seed;
  if (state.k == 0) {
    state.selection.equal = 0;
    state.begin_writing();
  } else if (total >= sampled_from) {
    state.pass = Pass::sample;
  } else {
    state.begin_counting();
  }
}

BlockwisePrune::~BlockwisePrune() = default;
BlockwisePrune::BlockwisePrune(BlockwisePrune&&) noexcept = default;
BlockwisePrune& BlockwisePrune::operator=(BlockwisePrune&&) noexcept = default;

Pass BlockwisePrune::pass() const noexcept { return state_->pass; }
std::int64_t BlockwisePrune::k() const noexcept { return state_->k; }
int BlockwisePrune::counting_passes() const noexcept { return state_->counting_passes; }
const Selection& BlockwisePrune::selection() const noexcept { return state_->selection; }

namespace {

void require(Pass now, Pass wanted, const char* name) {
  if (now != wanted) throw ArgumentError(std::string(name) + ": called in another pass; look at pass()");
}

}  // namespace

std::vector<std::int64_t> BlockwisePrune::sample_positions() const {
  require(state_->pass, Pass::sample, "sample_positions");
  const ScoreView all{state_->scorer, {}, {0, state_->total}, false};
  const LineSample plan{std::min(lines_for(state_->total), most_lines), state_->seed};
  std::vector<std::int64_t> positions;
  for (std::int64_t line = 0; line < plan.lines; ++line) {
    const auto random = philox(static_cast<std::uint64_t>(line) / 4, plan.seed, Purpose::bracket_sample);
    positions.push_back(line_position(all, plan, line, random[static_cast<std::size_t>(line % 4)]));
  }
  return positions;
}

void BlockwisePrune::sample(const ScoreInputs& block) {
  State& state = *state_;
  require(state.pass, Pass::sample, "sample");
  const Call call("bittersweet::BlockwisePrune");
  const ScoreView view = view_of(block, state.scorer);
  if (block.numel > LineSample::width)
    throw ShapeError("sample: " + std::to_string(block.numel) + " elements; up to " +
                     std::to_string(LineSample::width) + " are accepted");
  float line[LineSample::width];
  std::fill(std::begin(line), std::end(line), std::numeric_limits<float>::quiet_NaN());
  float* const out = line;
  cpu_engine().write_scores(view, make_chunks(view.tensors), std::span(&out, 1));
  state.scores.insert(state.scores.end(), std::begin(line), std::end(line));
}

void BlockwisePrune::count(const ScoreInputs& block, std::int64_t first) {
  State& state = *state_;
  require(state.pass, Pass::count, "count");
  const Call call("bittersweet::BlockwisePrune");
  const ScoreView view = view_of(block, state.scorer);
  const std::int64_t nan_before = state.counts.nan;
  state.count_range(view, make_chunks(view.tensors));
  state.watch.found(block, first, state.scorer, state.counts.nan - nan_before);
  state.seen += block.numel;
}

void BlockwisePrune::next() {
  State& state = *state_;
  if (state.pass == Pass::sample) {
    const Call call("bittersweet::BlockwisePrune");
    if (!state.scores.empty()) {
      std::vector<float> scratch(state.scores.size());
      state.bracket = guess_bracket(cpu_engine(), std::span<const float>(state.scores), state.k, state.total,
                                    state.non_negative, scratch.data(), state.workspace);
      state.scores = {};
    }
    state.begin_counting();
    return;
  }
  require(state.pass, Pass::count, "next");
  state.watch.raise();
  if (state.seen != state.total)
    throw ShapeError("blocks: " + std::to_string(state.seen) + " elements were counted in a pass over " +
                     std::to_string(state.total));
  ++state.counting_passes;
  state.conclude();
}

std::int64_t BlockwisePrune::write(const ScoreInputs& block) {
  State& state = *state_;
  require(state.pass, Pass::write, "write");
  const Call call("bittersweet::BlockwisePrune");
  const ScoreView view = view_of(block, state.scorer);
  state.seen += block.numel;
  if (state.k == 0 || block.numel == 0) return 0;
  const std::vector<Chunk> chunks = make_chunks(view.tensors);
  state.words.resize(static_cast<std::size_t>(bits::words(block.numel)));
  std::uint64_t* const words = state.words.data();
  const MaskTable masks(&words, 1);
  if (state.ties_wanted == 0 || state.ties_wanted == state.ties_left) {
    std::vector<ChunkQuota> quotas;
    for (std::size_t c = 0; c < chunks.size(); ++c)
      quotas.push_back({static_cast<std::uint32_t>(c), state.ties_wanted == 0 ? 0 : all_ties});
    cpu_engine().write_mask(view, chunks, quotas, state.selection.value, masks);
  } else {
    ExactRun run{.selection = state.selection, .bracket = {state.selection.value, state.selection.value, true}};
    run.selection.place = Place::at_low;
    run.selection.rank = run.selection.below + state.ties_wanted;
    run.counts = cpu_engine().bracket(view, chunks, run.bracket, masks, 0, state.workspace);
    complete_masks(cpu_engine(), view, chunks, run, Ties::exact, masks);
    state.ties_left -= run.counts.total.equal_low;
    state.ties_wanted -= std::min(state.ties_wanted, run.counts.total.equal_low);
  }
  const std::uint64_t* const bits = words;
  std::int64_t live = 0;
  cpu_engine().popcount(view.tensors, std::span(&bits, 1), std::span(&live, 1));
  cpu_engine().apply_mask(view.tensors, chunks, std::span(&bits, 1), roles::weight);
  state.pruned += block.numel - live;
  return block.numel - live;
}

void BlockwisePrune::finish() {
  State& state = *state_;
  require(state.pass, Pass::write, "finish");
  const std::int64_t seen = state.seen, pruned = state.pruned;
  state.begin_writing();
  if (seen != state.total || pruned != state.k)
    throw Error("blocks: " + std::to_string(pruned) + " of " + std::to_string(seen) + " elements were pruned where " +
                std::to_string(state.k) + " of " + std::to_string(state.total) +
                " had been counted; they changed between the passes");
}

}  // namespace bittersweet
