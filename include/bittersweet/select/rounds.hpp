// One exact selection that several ranks make together: what each puts into the next vector, and what follows from the
// sum. Guess, count and prove as in exact.hpp; a step is a pure function of sums, so all ranks take the same ones.
#pragma once

#include <bit>
#include <optional>
#include <span>
#include <vector>

#include "bittersweet/select/exact.hpp"
#include "bittersweet/select/histogram.hpp"
#include "bittersweet/select/narrowing.hpp"

namespace bittersweet {

// What all ranks know alike of a selection.
struct SharedPlan {
  std::int64_t elements = 0;
  std::int64_t rank = 0;  // 1-based; 0: nothing is to be pruned
  std::int64_t live = 0;
  bool non_negative = true;
  Ties ties = Ties::exact;
  NonFinite nonfinite = NonFinite::error;
  bool masks = true;  // false: which of the ties go does not matter
  std::optional<Bracket> guess{};
  std::size_t bins = std::size_t{1} << 17;  // of a vector
  std::int64_t first_unit = 0;              // units are those of shard_map.hpp
  std::int64_t units = 1;
  std::span<const std::int64_t> runs{};  // of every unit of the model; 0: a stretch

  static constexpr std::size_t least_bins = 16;
};

// Some consecutive units, in bins of `width`.
struct UnitRange {
  std::int64_t first = 0;
  std::int64_t count = 1;
  std::int64_t width = 1;

  std::size_t bins() const noexcept { return static_cast<std::size_t>((count + width - 1) / width); }
};

// Where the ties that go end: all before `unit` (and, in a boxed unit, before `run`), and the first `left` in it.
struct TieCut {
  bool split = false;  // false: all ties go, or none
  std::int64_t unit = 0;
  std::int64_t run = 0;
  std::int64_t left = 0;
};

class SharedSelection {
 public:
  // What the next vector holds: bins of a sample; counts of the bracket pass and its candidates; candidates; ties by
  // unit; ties of one boxed unit by run; one digit of the radix search.
  enum class Step { sample, bracket, candidates, units, runs, digit, nonfinite, done };

  explicit SharedSelection(const SharedPlan& plan) : plan_(plan), wide_(plan.elements >= std::int64_t{1} << 31) {
    if (plan.rank <= 0) return;
    if (!plan.guess && plan.elements > Chunk::size / 2) {
      step_ = Step::sample;
      narrowing_ = widest(plan.non_negative, plan.bins);
    } else if (plan.guess && plan.guess->low <= plan.guess->high) {
      open(key_of(plan.guess->low), key_of(plan.guess->high), plan.guess->heavy_ends);
    } else {
      open(key_of_minus_infinity, key_of_infinity, false);
    }
  }

  // The same where the first look at a sample has been summed already.
  SharedSelection(const SharedPlan& plan, const Narrowing& first, std::span<const std::int32_t> sums)
      : SharedSelection(plan) {
    if (step_ != Step::sample) return;
    narrowing_ = first;
    take(sums);
  }

  Step step() const noexcept { return step_; }
  bool done() const noexcept { return step_ == Step::done; }
  const SharedPlan& plan() const noexcept { return plan_; }
  bool wide() const noexcept { return wide_; }  // may a bin hold 2^31 or more?

  // Of this selection's part of the next vector.
  std::size_t length() const {
    switch (step_) {
      case Step::sample: return spread_ ? narrowing_.bins : SampleSpread::length + narrowing_.bins;
      case Step::bracket: return bracket_length + static_cast<std::size_t>(keys_.bins());
      case Step::candidates: return static_cast<std::size_t>(keys_.bins());
      case Step::units: return count_length(units_.bins(), wide_);
      case Step::runs: return count_length(static_cast<std::size_t>(runs_.bins()), wide_);
      case Step::digit: return count_length(std::size_t{1} << radix_.digit.digit_bits, wide_);
      default: return 0;
    }
  }
  static constexpr std::size_t bracket_length = 7 * limbs;  // six counts, and an overflow of candidates

  // What the numbers of each step are about.
  const Narrowing& narrowing() const noexcept { return narrowing_; }
  bool first_look() const noexcept { return !spread_; }
  const Bracket& bracket() const noexcept { return bracket_; }
  const KeyRange& keys() const noexcept { return keys_; }
  const UnitRange& units() const noexcept { return units_; }
  const RunRange& runs() const noexcept { return runs_; }  // without a map: that is each rank's own
  const Digit& digit() const noexcept { return radix_.digit; }

  // What came of it. The ties that go are as many as the rule and `cut` say.
  const Selection& selection() const noexcept { return selection_; }
  const BracketCounts& counts() const noexcept { return counts_; }
  const TieCut& cut() const noexcept { return cut_; }
  bool by_digits() const noexcept { return by_digits_; }   // the bracket pass decided nothing
  std::size_t chosen() const noexcept { return chosen_; }  // bin of the last sum

  void take(std::span<const std::int32_t> sums) {
    switch (step_) {
      case Step::sample: return take_sample(sums);
      case Step::bracket: return take_bracket(sums);
      case Step::candidates: return choose_key(sums);
      case Step::units: return choose_unit(sums);
      case Step::runs: return choose_run(sums);
      case Step::digit: return take_digit(sums);
      default: return;
    }
  }

 private:
  void open(std::uint32_t low, std::uint32_t high, bool heavy) {
    step_ = Step::bracket;
    bracket_ = {score_of(low), score_of(high), heavy};
    spread_keys(low + 1, high > low ? high - low - 1 : 0);
  }

  // Bins for these keys; where they are few, each has bins for units, counted from the first.
  void spread_keys(std::uint32_t first, std::uint32_t count) {
    keys_ = {.first = first, .keys = count, .width = std::max<std::int64_t>(plan_.units, 1)};
    while (static_cast<std::size_t>(keys_.groups()) > plan_.bins) ++keys_.shift;
    if (keys_.shift > 0 || count == 0) return;
    keys_.width = width_of(plan_.units, plan_.bins / count);
    keys_.parts = std::max<std::int64_t>((plan_.units + keys_.width - 1) / keys_.width, 1);
  }

  void take_sample(std::span<const std::int32_t> sums) {
    if (!spread_) {
      spread_ = SampleSpread::take(sums);
      sums = sums.subspan(SampleSpread::length);
    }
    const double share = static_cast<double>(plan_.rank) / static_cast<double>(std::max<std::int64_t>(plan_.live, 1));
    const Narrowed found = narrow(narrowing_, sums, *spread_, share, plan_.non_negative, plan_.bins);
    if (found.finer)
      narrowing_ = found.next;
    else
      open(found.low, found.high, found.heavy);
  }

  void take_bracket(std::span<const std::int32_t> sums) {
    LimbReader in(sums);
    for (std::int64_t* const count :
         {&counts_.below, &counts_.equal_low, &counts_.inside, &counts_.equal_high, &counts_.above, &counts_.nan})
      *count = in.count();
    selection_.overflow = in.count() > 0;
    selection_.nan = counts_.nan;
    if (counts_.nan > 0 && plan_.nonfinite == NonFinite::error) {
      step_ = Step::nonfinite;
      return;
    }
    selection_.rank = std::min(plan_.rank, counts_.total() - counts_.nan);
    selection_.place = locate(bracket_, counts_, selection_.rank, plan_.non_negative);
    const std::int64_t to_inside = counts_.below + counts_.equal_low;
    switch (selection_.place) {
      case Place::nothing: step_ = Step::done; return;
      case Place::zeros_below: return found(key_of_zero, 0, counts_.below);
      case Place::at_low: return found(key_of(bracket_.low), counts_.below, counts_.equal_low);
      case Place::at_high:
        if (selection_.overflow) break;
        return found(key_of(bracket_.high), to_inside + counts_.inside, counts_.equal_high);
      case Place::inside:
        if (selection_.overflow || counts_.inside >= std::int64_t{1} << 31) break;
        under_ = to_inside;
        return choose_key(sums.subspan(bracket_length));
      default: break;
    }
    by_digits_ = true;
    radix_.rank = selection_.rank;
    next_digit_bits();
  }

  void next_digit_bits() {
    step_ = Step::digit;
    const auto bins = plan_.bins / (wide_ ? 2 : 1);
    radix_.digit.digit_bits = std::min({16, static_cast<int>(std::bit_width(bins)) - 1, 32 - radix_.digit.prefix_bits});
  }

  void take_digit(std::span<const std::int32_t> sums) {
    std::vector<std::int64_t> bins(std::size_t{1} << radix_.digit.digit_bits);
    for (std::size_t b = 0; b < bins.size(); ++b) bins[b] = count_at(sums, wide_, b);
    radix_ = next_digit(radix_, find_order(bins, radix_.rank));
    if (radix_.digit.prefix_bits < 32) return next_digit_bits();
    found(radix_.digit.prefix, radix_.below, radix_.equal);
  }

  // The first bin up to which `order` are counted; order becomes the one within it.
  static std::size_t choose(std::span<const std::int32_t> sums, bool wide, std::size_t bins, std::int64_t& order) {
    std::size_t bin = 0;
    for (; bin + 1 < bins; ++bin) {
      const std::int64_t here = count_at(sums, wide, bin);
      if (order <= here) break;
      order -= here;
    }
    return bin;
  }

  void choose_key(std::span<const std::int32_t> sums) {
    step_ = Step::candidates;
    std::int64_t order = selection_.rank - under_;
    const std::size_t bin = choose(sums, false, sums.size(), order);
    const auto group = static_cast<std::uint32_t>(static_cast<std::int64_t>(bin) / keys_.parts);
    const auto parts = static_cast<std::size_t>(keys_.parts);
    const std::size_t begin = group * parts;
    const std::uint32_t first = keys_.first + (group << keys_.shift);
    if (keys_.shift > 0) {
      under_ = selection_.rank - order;
      return spread_keys(first, std::min(std::uint32_t{1} << keys_.shift, keys_.keys - (group << keys_.shift)));
    }
    std::int64_t equal = 0;
    for (std::size_t part = begin; part < begin + parts; ++part) {
      equal += sums[part];
      if (part < bin) order += sums[part];
    }
    found(first, selection_.rank - order, equal, sums.subspan(begin, parts));
  }

  // The threshold is known. `by_unit`: its ties, in the unit bins of keys_.
  void found(std::uint32_t key, std::int64_t below, std::int64_t equal, std::span<const std::int32_t> by_unit = {}) {
    selection_.value = score_of(key);
    selection_.below = below;
    selection_.equal = equal;
    step_ = Step::done;
    const std::int64_t wanted = ties_wanted(plan_.ties, selection_);
    cut_.split = plan_.masks && 0 < wanted && wanted < equal;
    if (!cut_.split) return;
    cut_.left = wanted;
    units_ = {plan_.first_unit, plan_.units, 1};
    if (by_unit.size() > 1) {
      const auto bin = static_cast<std::int64_t>(choose(by_unit, false, by_unit.size(), cut_.left));
      units_ = {plan_.first_unit + bin * keys_.width, std::min(keys_.width, plan_.units - bin * keys_.width), 1};
    }
    look_among_units();
  }

  static std::int64_t width_of(std::int64_t count, std::size_t bins) {
    const auto most = static_cast<std::int64_t>(bins);
    return std::max<std::int64_t>((count + most - 1) / most, 1);
  }

  void look_among_units() {
    if (units_.count > 1) {
      step_ = Step::units;
      units_.width = width_of(units_.count, plan_.bins / (wide_ ? 2 : 1));
      return;
    }
    step_ = Step::done;
    cut_.unit = units_.first;
    const auto unit = static_cast<std::size_t>(cut_.unit);
    runs_ = {.first = 0, .runs = unit < plan_.runs.size() ? plan_.runs[unit] : 0};
    look_among_runs();
  }

  void choose_unit(std::span<const std::int32_t> sums) {
    chosen_ = choose(sums, wide_, units_.bins(), cut_.left);
    const std::int64_t begin = static_cast<std::int64_t>(chosen_) * units_.width;
    units_ = {units_.first + begin, std::min(units_.width, units_.count - begin), 1};
    look_among_units();
  }

  void look_among_runs() {
    step_ = runs_.runs > 1 ? Step::runs : Step::done;
    cut_.run = runs_.first;
    runs_.width = width_of(runs_.runs, plan_.bins / (wide_ ? 2 : 1));
  }

  void choose_run(std::span<const std::int32_t> sums) {
    chosen_ = choose(sums, wide_, static_cast<std::size_t>(runs_.bins()), cut_.left);
    const std::int64_t begin = static_cast<std::int64_t>(chosen_) * runs_.width;
    runs_ = {.first = runs_.first + begin, .runs = std::min(runs_.width, runs_.runs - begin)};
    look_among_runs();
  }

  SharedPlan plan_;
  bool wide_;
  Step step_ = Step::done;
  Narrowing narrowing_{};
  std::optional<SampleSpread> spread_{};
  Bracket bracket_{};
  KeyRange keys_{};
  UnitRange units_{};
  RunRange runs_{};
  RadixState radix_{};
  BracketCounts counts_{};
  Selection selection_{};
  TieCut cut_{};
  std::int64_t under_ = 0;  // live scores under the keys that are looked at
  std::size_t chosen_ = 0;
  bool by_digits_ = false;
};

}  // namespace bittersweet
