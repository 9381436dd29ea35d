// Masks of rows and of N:M groups, row by row: rows in one piece four at a time as they are read, others in the first
// caches.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <vector>

#include "bittersweet/mask/bit_layout.hpp"
#include "cpu/groups.hpp"
#include "cpu/last_cuts.hpp"
#include "cpu/walk.hpp"

namespace bittersweet::cpu {

// One thread's rows: their scores side by side (each padded to whole mask words), live and keep bits.
class Rows {
 public:
  Rows(const Kernels& kernels, const ScoreView& view, std::size_t t, const GroupRule& rule, const Groups& groups,
       std::int64_t together)
      : kernels_(kernels),
        scorer_(view.scorer),
        tensor_(view.tensors[t]),
        g_(groups.logical),
        m_(groups.memory.geometry),
        kind_(groups.memory.kind),
        runs_(groups.runs()),
        own_words_(groups.own_words()),
        split_(groups.split),
        rule_(rule),
        size_(rule.group > 0 ? g_.inputs / rule.group * rule.group * g_.inner : g_.row_size()),
        words_(bits::words(g_.row_size())),
        groups_{rule.group > 0 ? g_.inputs / rule.group : 0, rule.group, g_.inner},
        tiles_(runs_ ? RowTile::most : 1, Tiles(kernels, view, t)),
        scores_(static_cast<std::size_t>((together * words_ + 1) * bits::per_word),
                std::numeric_limits<float>::quiet_NaN()),
        live_(static_cast<std::size_t>(together * words_)),
        keep_(live_.size()),
        kept_(keep_.data()) {
    for (std::int64_t r = 0; r < together; ++r)
      for (std::int64_t word = 0; word < words_; ++word) live(r)[word] = bits::valid(m_.row_size(), word);
    if (kind_ == RowLayout::strided && !runs_) {
      const std::int64_t width = together * m_.inner;
      block_.resize(static_cast<std::size_t>(columns_ * width));
      bytes_.resize(static_cast<std::size_t>(width));
      packed_.resize(static_cast<std::size_t>(bits::words(width)));
    }
    if (kind_ == RowLayout::permuted) packed_.resize(keep_.size());
    if (rule.group > 0) {
      ints_.resize(static_cast<std::size_t>(groups_.room()));
      equal_.resize(static_cast<std::size_t>(3 * (bits::words(groups_.room()) + 1)));
      lower_.resize(static_cast<std::size_t>(words_));
    } else {
      halves_.resize(static_cast<std::size_t>((words_ + 1) * bits::per_word));
      ints_.resize(2 * halves_.size());
      search_ = {halves_.data(), ints_.data(), ints_.data() + halves_.size()};
      near_.resize(RowTile::most * halves_.size());
      inside_.resize(RowTile::most * static_cast<std::size_t>(words_));
      lower_.resize(static_cast<std::size_t>(words_) + 1);
      equal_.resize(lower_.size());
    }
  }

  // Masks of rows first .. first + count, which are of one block. Returns the live NaN.
  std::int64_t run(std::int64_t first, std::int64_t count, std::uint64_t* mask) {
    if (kind_ == RowLayout::scattered)
      load_scattered(first, count);
    else if (!runs_)
      load_columns(first, count);
    else if (tensor_.mask)
      for (std::int64_t r = 0; r < count; ++r)
        bits::extract(tensor_.mask, m_.first_of(first + r), m_.row_size(), live(r));
    if (own_words_) kept_ = mask + m_.first_of(first) / bits::per_word;
    std::int64_t nan = 0;
    for (std::int64_t r = 0, n = 0; r < count; r += n) {
      n = std::min<std::int64_t>(RowTile::most, count - r);
      nan += rule_.group > 0 ? choose_in_groups(first, r, n) : choose_in_rows(first, r, n);
    }
    if (kind_ == RowLayout::scattered)
      store_scattered(first, count, mask);
    else if (runs_ && !own_words_)
      for (std::int64_t r = 0; r < count; ++r) bits::merge(keep(r), m_.row_size(), mask, m_.first_of(first + r));
    else if (!runs_)
      store_columns(first, count, mask);
    return nan;
  }

 private:
  float* scores(std::int64_t r) { return scores_.data() + r * words_ * bits::per_word; }
  std::uint64_t* live(std::int64_t r) { return live_.data() + r * words_; }
  std::uint64_t* keep(std::int64_t r) { return kept_ + r * words_; }

  void load_row(std::int64_t row, std::int64_t r) {
    const std::int64_t begin = m_.first_of(row);
    for (std::int64_t i = 0; i < size_; i += tile_size) {
      const std::int64_t n = std::min(tile_size, size_ - i);
      tiles_[0].score(tiles_[0].at(begin + i, n), n, scores(r) + i);
    }
  }

  // The row behind this one.
  ReadNext next_row(std::int64_t row) const {
    const std::int64_t begin = m_.first_of(row) + m_.row_size();
    return tiles_[0].next(begin, std::min(size_, tensor_.numel - begin));
  }

  // f(scorer, storage, tiles, elements of each) for the tiles of rows r .. r + count here, side by side: of the scores
  // that were loaded, or of the inputs of rows that lie in one piece.
  template <class F>
  void for_each_tile_of(std::int64_t first, std::int64_t r, std::int64_t count, F&& f) {
    std::array<RowTile, RowTile::most> rows;
    const std::int64_t size = runs_ ? tile_size : size_;
    for (std::int64_t i = 0; i < size_; i += size) {
      const std::int64_t n = std::min(size, size_ - i), word = i / bits::per_word;
      for (std::size_t j = 0; j < static_cast<std::size_t>(count); ++j) {
        const std::int64_t own = r + static_cast<std::int64_t>(j);
        rows[j] = {runs_ ? tiles_[j].at(m_.first_of(first + own) + i, n) : scored(scores(own)),
                   word,
                   live(own) + word,
                   keep(own) + word,
                   &reads_[j],
                   i + n < size_ ? 0 : (count - 1) * m_.row_size()};
      }
      f(runs_ ? scorer_ : scores_alone, runs_ ? tiles_[0].stored() : as_f32,
        std::span<const RowTile>(rows).first(static_cast<std::size_t>(count)), n);
    }
  }

  // Rows that interleave, of several places at each input. Inputs are taken a few at a time, so that each row is
  // written in runs.
  void load_columns(std::int64_t first, std::int64_t count) {
    const std::int64_t width = count * m_.inner;  // elements of these rows at one input: neighbours in memory
    const std::int64_t start = m_.first_of(first);
    for (std::int64_t begin = 0; begin < size_ / m_.inner; begin += columns_) {
      const std::int64_t end = std::min(begin + columns_, size_ / m_.inner);
      for (std::int64_t input = begin; input < end; ++input)
        for (std::int64_t i = 0; i < width; i += tile_size) {
          const std::int64_t n = std::min(tile_size, width - i);
          tiles_[0].score(tiles_[0].at(start + input * m_.input_stride + i, n), n,
                          block_.data() + (input - begin) * width + i);
        }
      for (std::int64_t r = 0; r < count; ++r)
        for (std::int64_t input = begin; input < end; ++input) {
          const float* const from = block_.data() + (input - begin) * width + r * m_.inner;
          float* const to = scores(r) + input * m_.inner;
          std::copy_n(from, m_.inner, to);
        }
    }
    for (std::int64_t r = 0; r < count; ++r) {
      for (std::int64_t word = 0; word < words_; ++word) live(r)[word] = bits::valid(m_.row_size(), word);
      if (!tensor_.mask) continue;
      const std::int64_t own = start + r * m_.inner;
      for (std::int64_t place = 0; place < m_.row_size(); ++place)
        bits::clear_if(live(r), place,
                       !bits::get(tensor_.mask, own + place / m_.inner * m_.input_stride + place % m_.inner));
    }
  }

  void store_columns(std::int64_t first, std::int64_t count, std::uint64_t* mask) {
    const std::int64_t width = count * m_.inner, start = m_.first_of(first);
    for (std::int64_t input = 0; input < m_.inputs; ++input) {
      for (std::int64_t r = 0; r < count; ++r)
        for (std::int64_t c = 0; c < m_.inner; ++c)
          bytes_[static_cast<std::size_t>(r * m_.inner + c)] = bits::get(keep(r), input * m_.inner + c);
      bits::pack(bytes_.data(), width, packed_.data());
      bits::merge(packed_.data(), width, mask, start + input * m_.input_stride);
    }
  }

  // Where the place-th element of a row lies.
  std::int64_t element(std::int64_t row, std::int64_t place) const {
    return tensor_.order.memory_of(g_.first_of(row) + place / g_.inner * g_.input_stride + place % g_.inner);
  }

  void load_scattered(std::int64_t first, std::int64_t count) {
    std::array<std::int64_t, tile_size> places;
    for (std::int64_t r = 0; r < count; ++r) {
      for (std::int64_t i = 0; i < size_; i += tile_size) {
        const std::int64_t n = std::min(tile_size, size_ - i);
        for (std::int64_t j = 0; j < n; ++j) places[static_cast<std::size_t>(j)] = element(first + r, i + j);
        tiles_[0].score(tiles_[0].at(places.data(), n, 1), n, scores(r) + i);
      }
      for (std::int64_t word = 0; word < words_; ++word) live(r)[word] = bits::valid(g_.row_size(), word);
      if (!tensor_.mask) continue;
      for (std::int64_t place = 0; place < g_.row_size(); ++place)
        bits::clear_if(live(r), place, !bits::get(tensor_.mask, element(first + r, place)));
    }
  }

  void store_scattered(std::int64_t first, std::int64_t count, std::uint64_t* mask) {
    for (std::int64_t r = 0; r < count; ++r)
      for (std::int64_t place = 0; place < g_.row_size(); ++place)
        if (bits::get(keep(r), place)) bits::set(mask, element(first + r, place));
  }

  std::int64_t share_of(std::int64_t row) const { return rule_.base + (row / split_ < rule_.extra); }

  // Keep bits of rows r .. r + count here, and their live NaN. Inputs after the last whole group are kept.
  std::int64_t choose_in_groups(std::int64_t first, std::int64_t r, std::int64_t count) {
    std::copy_n(live(r), count * words_, keep(r));
    std::int64_t nan = 0;
    if (size_ == 0) return nan;
    if (g_.inner != 1 || rule_.group != 4) {
      const GroupScratch scratch{ints_.data(), equal_.data(), lower_.data()};
      for (const std::int64_t end = r + count; r < end; ++r) {
        if (runs_) load_row(first + r, r);
        nan += kernels_.drop_lowest_of_groups(scores(r), groups_, share_of(first + r), scratch, keep(r),
                                              runs_ ? next_row(first + r) : ReadNext{});
      }
      return nan;
    }
    for (std::int64_t n = 0; n < count;) {  // those with the same share
      std::int64_t alike = 1;
      while (n + alike < count && share_of(first + r + n + alike) == share_of(first + r + n)) ++alike;
      for_each_tile_of(
          first, r + n, alike, [&](const Scorer& by, Stored as, std::span<const RowTile> rows, std::int64_t elements) {
            nan += kernels_.drop_lowest_of_four[by.index()][as](by, rows, elements, share_of(first + r + n));
          });
      n += alike;
    }
    const std::int64_t last = bits::words(size_) - 1;
    for (std::int64_t own = r; own < r + count; ++own) keep(own)[last] |= live(own)[last] & ~bits::valid(size_, last);
    return nan;
  }

  std::int64_t choose_in_rows(std::int64_t first, std::int64_t r, std::int64_t count) {
    std::array<std::int64_t, RowTile::most> alive, go;
    for (std::int64_t j = 0; j < count; ++j) {
      const auto at = static_cast<std::size_t>(j);
      alive[at] = tensor_.mask ? kernels_.popcount(live(r + j), bits::words(size_)) : size_;
      go[at] = share_of(first + r + j) - (size_ - alive[at]);
    }
    std::array<double, RowTile::most> mean{};
    bool read_first = true;
    for (std::int64_t j = 0; j < count; ++j) {
      const auto at = static_cast<std::size_t>(j);
      if (go[at] > 0 && cuts_.differ(size_)) mean[at] = mean_of_part(first + r + j, r + j);
      const std::optional<Bracket> bracket = go[at] > 0 ? cuts_.bracket(mean[at]) : below_all;
      read_first &= bracket.has_value();
      if (bracket) expect(at, *bracket);
    }
    if (read_first) read(first, r, count);
    std::int64_t nan = 0;
    for (std::int64_t j = 0; j < count; ++j) {
      const auto at = static_cast<std::size_t>(j);
      std::optional<std::int64_t> found;
      if (read_first) found = choose_by_reads(first, r + j, &reads_[at], go[at], alive[at], mean[at]);
      nan += found ? *found : choose_in_row(first + r + j, r + j, go[at], mean[at]);
    }
    return nan;
  }

  // Of the first scores of a row that live, an eighth of them at most. 0 if it is not positive.
  double mean_of_part(std::int64_t row, std::int64_t r) {
    constexpr std::int64_t most = 256;
    const std::int64_t count = std::min(most, size_ / 8 / bits::per_word * bits::per_word);
    const Scorer& by = runs_ ? scorer_ : scores_alone;
    const TileInput in = runs_ ? tiles_[0].at(m_.first_of(row), count) : scored(scores(r));
    Moments found;
    kernels_.moments[by.index()][runs_ ? tiles_[0].stored() : as_f32](by, in, live(r), count, &found);
    return found.finite > 0 && found.sum > 0 ? found.sum / static_cast<double>(found.finite) : 0;
  }

  // The `at`-th of the next rows is to be read against this.
  void expect(std::size_t at, const Bracket& bracket) {
    reads_[at] = {bracket, inside_.data() + at * static_cast<std::size_t>(words_), near_.data() + at * halves_.size(),
                  size_ / 4};
  }

  // Rows r .. r + count here.
  void read(std::int64_t first, std::int64_t r, std::int64_t count) {
    for_each_tile_of(first, r, count,
                     [&](const Scorer& by, Stored as, std::span<const RowTile> rows, std::int64_t elements) {
                       kernels_.read_rows[by.index()][as](by, rows, elements);
                     });
  }

  // Keep bits of a row that was read against a bracket, and is read again around where its own cut must be until that
  // is there; its live NaN. None if it is not found so, or if scores go and one is NaN. Rows before this one are done.
  std::optional<std::int64_t> choose_by_reads(std::int64_t first, std::int64_t r, const RowRead* row, std::int64_t k,
                                              std::int64_t alive, double mean) {
    constexpr int most = 3;
    if (k <= 0) return nan_of(*row);
    for (int again = 0;; ++again) {
      const std::int64_t below = alive - row->kept, rank = k - below;
      if (rank > 0 && rank <= row->count) return prune_inside(r, *row, rank, mean);
      const std::optional<Bracket> next = LastCuts::after(row->bracket, below, row->count, k);
      if (!next || again == most) return std::nullopt;
      expect(0, *next);
      read(first, r, 1);
      row = reads_.data();
    }
  }

  // The live NaN of a row that was read against minus infinity, which keeps all. None if there are too many to list.
  std::optional<std::int64_t> nan_of(const RowRead& read) {
    if (read.count > read.room) return std::nullopt;
    return read.count -
           kernels_.compare_listed(read.listed, read.count, below_all.low, lower_.data(), equal_.data()).equal;
  }

  // A row that is cut elsewhere.
  std::int64_t choose_in_row(std::int64_t row, std::int64_t r, std::int64_t k, double mean) {
    const std::int64_t words = bits::words(size_);
    std::copy_n(live(r), words_, keep(r));
    if (size_ == 0) return 0;
    if (runs_) load_row(row, r);
    if (tensor_.mask) kernels_.bury(scores(r), live(r), words, ~std::uint32_t{0});
    cuts_.guess(search_);
    const RowOutcome found = kernels_.drop_lowest_of_row(scores(r), words * bits::per_word, k, search_, keep(r));
    if (k > 0) cuts_.remember(found.cut.threshold, mean);
    const bool split = kind_ == RowLayout::permuted && found.cut.ties > 0 &&
                       count_at(kernels_, scores(r), live(r), size_, found.cut.threshold).equal > found.cut.ties;
    return split ? split_ties(r, words, found.cut) : found.nan;
  }

  // Clears the keep bits of the `rank` lowest inside the bracket, of equal ones the first. None if they are too many
  // to be listed, or a score is NaN.
  std::optional<std::int64_t> prune_inside(std::int64_t r, const RowRead& read, std::int64_t rank, double mean) {
    if (read.count > read.room) return std::nullopt;
    const ListedRank found =
        kernels_.rank_listed(read.listed, read.count, rank, read.bracket, ints_.data(), lower_.data(), equal_.data());
    if (std::isnan(found.threshold)) return std::nullopt;
    cuts_.remember(found.threshold, mean);
    const std::int64_t listed = bits::words(read.count), words = bits::words(size_), ties = rank - found.below;
    if (ties < found.equal) {
      if (kind_ == RowLayout::permuted) {  // the first by logical index
        std::copy_n(read.inside, words, packed_.data());
        for (std::int64_t word = 0; word < listed; ++word) equal_[static_cast<std::size_t>(word)] ^= ~std::uint64_t{0};
        kernels_.prune_listed(equal_.data(), read.inside, words, packed_.data());
        std::fill_n(equal_.data(), listed, 0);
        prune_first(r, ties);
      } else {
        bits::keep_first(equal_.data(), listed, ties);
      }
    }
    for (std::size_t word = 0; word < static_cast<std::size_t>(listed); ++word) lower_[word] |= equal_[word];
    kernels_.prune_listed(lower_.data(), read.inside, words, keep(r));
    return 0;
  }

  // The same where some of the ties go, in a row whose elements lie in another order: the first by logical index.
  std::int64_t split_ties(std::int64_t r, std::int64_t words, const Cut& cut) {
    const std::int64_t nan = keep_words(r, words, {cut.threshold, all_ties});
    std::copy_n(keep(r), words_, packed_.data());
    keep_words(r, words, {cut.threshold, 0});
    for (std::int64_t word = 0; word < words; ++word) packed_[static_cast<std::size_t>(word)] ^= keep(r)[word];
    prune_first(r, cut.ties);
    return nan;
  }

  // Of the bits that packed_ has, the first by logical index.
  void prune_first(std::int64_t r, std::int64_t count) {
    bits::keep_first(packed_.data(), size_, tensor_.order, count);
    for (std::int64_t word = 0; word < bits::words(size_); ++word)
      keep(r)[word] &= ~packed_[static_cast<std::size_t>(word)];
  }

  std::int64_t keep_words(std::int64_t r, std::int64_t words, Cut cut) {
    const std::uint64_t after = keep(r)[words - 1] & ~bits::valid(size_, words - 1);
    const std::int64_t nan = kernels_.write_mask(scores(r), live(r), size_, cut.threshold, cut.ties, keep(r));
    keep(r)[words - 1] |= after;
    return nan;
  }

  static constexpr Bracket below_all{-std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()};
  const Kernels& kernels_;
  const Scorer& scorer_;
  const ScoreInputs& tensor_;
  const Geometry g_;  // of logical indices
  const Geometry m_;  // of memory
  const RowLayout::Kind kind_;
  const bool runs_, own_words_;
  const std::int64_t split_;
  const GroupRule& rule_;
  std::int64_t size_;   // elements of a row that are in a group
  std::int64_t words_;  // mask words of a row
  const RowGroups groups_;
  std::vector<Tiles> tiles_;  // of rows side by side
  std::vector<float> scores_;
  std::vector<std::uint64_t> live_, keep_;
  std::uint64_t* kept_;  // keep bits of the rows here: keep_, or the mask's own words
  std::vector<std::int32_t> ints_;
  std::vector<std::int16_t> halves_;  // for rows
  RowSearch search_;
  LastCuts cuts_;
  std::array<RowRead, RowTile::most> reads_{};
  std::vector<float> near_;                            // scores near the last cuts
  std::vector<std::uint64_t> inside_, lower_, equal_;  // where they are; of their list, those that are so; GroupScratch
  static constexpr std::int64_t columns_ = 16;
  std::vector<float> block_;  // these are for rows that interleave in memory
  std::vector<unsigned char> bytes_;
  std::vector<std::uint64_t> packed_;  // for rows that are permuted there, too
};

}  // namespace bittersweet::cpu
