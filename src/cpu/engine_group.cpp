// The verb group_mask: masks of rows and of N:M groups, row by row in the first caches.
#include <algorithm>
#include <array>
#include <atomic>
#include <optional>

#include "bittersweet/engine/cpu.hpp"
#include "cpu/parallel.hpp"
#include "cpu/tiles.hpp"
#include "cpu/verbs/ahead.hpp"

namespace bittersweet {

using namespace cpu;

namespace {

// How a tensor's groups are taken: rows and inputs by logical index, and where they lie in memory.
struct Groups {
  Geometry logical;
  RowLayout memory;

  bool runs() const noexcept { return memory.kind != RowLayout::scattered && memory.geometry.rows_are_contiguous(); }
};

Groups groups_of(const ScoreInputs& tensor, const GroupRule& rule) {
  const Geometry& g = tensor.geometry;
  const RowLayout rows = rows_in_memory(g, tensor.order);
  if (rows.kind != RowLayout::permuted || rule.group == 0) return {g, rows};
  if (tensor.order.p != g.inputs || tensor.order.q != g.inner) return {g, {RowLayout::scattered, g, 0}};
  // channels_last: the inputs at one kernel position are neighbours, and so are those of a group.
  const bool whole = g.inputs % rule.group == 0;
  const Geometry runs = whole ? matrix(g.rows, g.row_size()) : matrix(g.rows * g.inner, g.inputs);
  return {runs, {RowLayout::strided, runs, 0}};
}

// One thread's rows: their scores side by side (each padded to whole mask words), live and keep bits.
class Rows {
 public:
  Rows(const Kernels& kernels, const ScoreView& view, std::size_t t, const GroupRule& rule, const Groups& groups,
       std::int64_t together)
      : kernels_(kernels),
        tensor_(view.tensors[t]),
        g_(groups.logical),
        m_(groups.memory.geometry),
        kind_(groups.memory.kind),
        runs_(groups.runs()),
        rule_(rule),
        size_(rule.group > 0 ? g_.inputs / rule.group * rule.group * g_.inner : g_.row_size()),
        words_(bits::words(g_.row_size())),
        tiles_(kernels, view, t),
        scores_(static_cast<std::size_t>(together * words_ * bits::per_word), std::numeric_limits<float>::quiet_NaN()),
        live_(static_cast<std::size_t>(together * words_)),
        keep_(live_.size()) {
    for (std::int64_t word = 0; word < words_; ++word) live(0)[word] = bits::valid(m_.row_size(), word);
    if (kind_ == RowLayout::strided && !runs_) {
      const std::int64_t width = together * m_.inner;
      block_.resize(static_cast<std::size_t>(columns_ * width));
      bytes_.resize(static_cast<std::size_t>(width));
      packed_.resize(static_cast<std::size_t>(bits::words(width)));
    }
    if (kind_ == RowLayout::permuted) packed_.resize(keep_.size());
    if (rule.group > 0) {
      ints_.resize(2 * static_cast<std::size_t>(size_ + rule.group * bits::per_word));
    } else {
      halves_.resize(static_cast<std::size_t>((words_ + 1) * bits::per_word));
      ints_.resize(2 * halves_.size());
      search_ = {halves_.data(), ints_.data(), ints_.data() + halves_.size()};
    }
  }

  // Masks of rows first .. first + count, which are of one block. Returns the live NaN.
  std::int64_t run(std::int64_t first, std::int64_t count, std::uint64_t* mask) {
    if (kind_ == RowLayout::scattered)
      load_scattered(first, count);
    else if (runs_) {
      search_.ahead = tiles_.ahead(m_.first_of(first) + m_.row_size(), m_.row_size());
      load_row(first);
    } else
      load_columns(first, count);
    std::int64_t nan = 0;
    for (std::int64_t r = 0; r < count; ++r) nan += choose(first + r, r);
    if (kind_ == RowLayout::scattered)
      store_scattered(first, count, mask);
    else if (runs_)
      bits::merge(keep(0), m_.row_size(), mask, m_.first_of(first));
    else
      store_columns(first, count, mask);
    return nan;
  }

 private:
  float* scores(std::int64_t r) { return scores_.data() + r * words_ * bits::per_word; }
  std::uint64_t* live(std::int64_t r) { return live_.data() + r * words_; }
  std::uint64_t* keep(std::int64_t r) { return keep_.data() + r * words_; }

  void load_row(std::int64_t row) {
    const bool cut = rule_.group == 0;  // groups are read once, and ask there
    const std::int64_t block = cut ? 512 : tile_size;
    const std::int64_t begin = m_.first_of(row);
    for (std::int64_t i = 0; i < size_; i += block) {  // a quarter of the next row is asked for here
      const std::int64_t n = std::min(block, size_ - i);
      tiles_.score(tiles_.at(begin + i, n), n, scores(0) + i);
      if (cut) ask(search_.ahead, static_cast<int>(block) / lanes_of_a_line / 4);
    }
    if (tensor_.mask) bits::extract(tensor_.mask, begin, m_.row_size(), live(0));
  }

  // Inputs are taken a few at a time, so that each row is written in runs.
  void load_columns(std::int64_t first, std::int64_t count) {
    const std::int64_t width = count * m_.inner;  // elements of these rows at one input: neighbours in memory
    const std::int64_t start = m_.first_of(first);
    for (std::int64_t begin = 0; begin < size_ / m_.inner; begin += columns_) {
      const std::int64_t end = std::min(begin + columns_, size_ / m_.inner);
      for (std::int64_t input = begin; input < end; ++input)
        for (std::int64_t i = 0; i < width; i += tile_size) {
          const std::int64_t n = std::min(tile_size, width - i);
          tiles_.score(tiles_.at(start + input * m_.input_stride + i, n), n,
                       block_.data() + (input - begin) * width + i);
        }
      for (std::int64_t r = 0; r < count; ++r)
        for (std::int64_t input = begin; input < end; ++input) {
          const float* const from = block_.data() + (input - begin) * width + r * m_.inner;
          float* const to = scores(r) + input * m_.inner;
          for (std::int64_t c = 0; c < m_.inner; ++c) to[c] = from[c];  // mostly one: no call for it
        }
    }
    if (m_.inner == 1 && tensor_.mask) {
      for (std::int64_t word = 0; word < words_; ++word) {
        std::array<std::uint64_t, bits::per_word> square{};
        const std::int64_t begin = word * bits::per_word, end = std::min(begin + bits::per_word, m_.inputs);
        for (std::int64_t input = begin; input < end; ++input)
          square[static_cast<std::size_t>(input - begin)] =
              bits::read(tensor_.mask, start + input * m_.input_stride, count);
        bits::transpose(square.data(), bits::per_word);
        for (std::int64_t r = 0; r < count; ++r) live(r)[word] = square[static_cast<std::size_t>(r)];
      }
      return;
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
    for (std::int64_t word = 0; word < words_ && m_.inner == 1; ++word) {
      std::array<std::uint64_t, bits::per_word> square{};
      const std::int64_t begin = word * bits::per_word, end = std::min(begin + bits::per_word, m_.inputs);
      for (std::int64_t r = 0; r < count; ++r) square[static_cast<std::size_t>(r)] = keep(r)[word];
      bits::transpose(square.data(), bits::per_word);
      for (std::int64_t input = begin; input < end; ++input)
        bits::add(mask, start + input * m_.input_stride, count, square[static_cast<std::size_t>(input - begin)]);
    }
    for (std::int64_t input = 0; m_.inner > 1 && input < m_.inputs; ++input) {
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
        tiles_.score(tiles_.at(places.data(), n, 1), n, scores(r) + i);
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

  // Keep bits of the r-th row here. Inputs after the last whole group are kept.
  std::int64_t choose(std::int64_t row, std::int64_t r) {
    const std::int64_t share = rule_.base + (row < rule_.extra), words = bits::words(size_);
    std::copy_n(live(r), words_, keep(r));
    if (size_ == 0) return 0;
    if (rule_.group > 0)
      return kernels_.drop_lowest_of_groups(scores(r), size_ / (rule_.group * g_.inner), rule_.group, g_.inner, share,
                                            ints_.data(), keep(r), search_.ahead);
    const std::int64_t alive = tensor_.mask ? kernels_.popcount(live(r), words) : size_;
    if (tensor_.mask) kernels_.bury(scores(r), live(r), words, ~std::uint32_t{0});
    const RowOutcome found =
        kernels_.drop_lowest_of_row(scores(r), words * bits::per_word, share - (size_ - alive), search_, keep(r));
    Ahead nothing;
    const bool split =
        kind_ == RowLayout::permuted && found.cut.ties > 0 &&
        kernels_.count_one(scores(r), live(r), size_, found.cut.threshold, nothing).equal > found.cut.ties;
    return split ? split_ties(r, words, found.cut) : found.nan;
  }

  // The same where some of the ties go, in a row whose elements lie in another order: the first by logical index.
  std::int64_t split_ties(std::int64_t r, std::int64_t words, const Cut& cut) {
    const std::int64_t nan = keep_words(r, words, {cut.threshold, all_ties});
    std::copy_n(keep(r), words_, packed_.data());
    keep_words(r, words, {cut.threshold, 0});
    for (std::int64_t word = 0; word < words; ++word) packed_[static_cast<std::size_t>(word)] ^= keep(r)[word];
    bits::keep_first(packed_.data(), size_, tensor_.order, cut.ties);
    for (std::int64_t word = 0; word < words; ++word) keep(r)[word] &= ~packed_[static_cast<std::size_t>(word)];
    return nan;
  }

  std::int64_t keep_words(std::int64_t r, std::int64_t words, Cut cut) {
    const std::uint64_t after = keep(r)[words - 1] & ~bits::valid(size_, words - 1);
    const std::int64_t nan = kernels_.write_mask(scores(r), live(r), size_, cut.threshold, cut.ties, keep(r));
    keep(r)[words - 1] |= after;
    return nan;
  }

  const Kernels& kernels_;
  const ScoreInputs& tensor_;
  const Geometry g_;  // of logical indices
  const Geometry m_;  // of memory
  const RowLayout::Kind kind_;
  const bool runs_;
  const GroupRule& rule_;
  std::int64_t size_;   // elements of a row that are in a group
  std::int64_t words_;  // mask words of a row
  Tiles tiles_;
  std::vector<float> scores_;
  std::vector<std::uint64_t> live_, keep_;
  std::vector<std::int32_t> ints_;
  std::vector<std::int16_t> halves_;  // for rows
  RowSearch search_;
  static constexpr std::int64_t columns_ = 16;
  std::vector<float> block_;  // these are for rows that interleave in memory
  std::vector<unsigned char> bytes_;
  std::vector<std::uint64_t> packed_;  // for rows that are permuted there, too
};

}  // namespace

std::int64_t CpuEngine::group_mask(const ScoreView& view, std::size_t t, const GroupRule& rule, MaskTable masks) {
  const ScoreInputs& tensor = view.tensors[t];
  std::fill_n(masks[t], bits::words(tensor.numel), 0);
  if (tensor.numel == 0) return 0;
  // 64 rows share no mask word with others, unless rows interleave at a stride that 64 does not divide. Rows that
  // interleave are taken block by block.
  const Groups groups = groups_of(tensor, rule);
  const Geometry& g = groups.memory.geometry;
  constexpr std::int64_t piece = bits::per_word;
  const bool runs = groups.runs();
  const bool alone = runs || (groups.memory.kind == RowLayout::strided && g.input_stride % bits::per_word == 0);
  const std::int64_t together = runs ? 1 : piece;
  const std::int64_t run = runs ? g.rows : g.rows_per_block(), pieces = (run + piece - 1) / piece;
  const int most = alone ? threads(tensor.numel) : 1;
  std::vector<std::optional<Rows>> rows(static_cast<std::size_t>(most));
  std::atomic<std::int64_t> nan{0};
  parallel_for(most, g.rows / run * pieces, [&](int thread, std::int64_t at) {
    std::optional<Rows>& own = rows[static_cast<std::size_t>(thread)];
    if (!own) own.emplace(kernels_, view, t, rule, groups, together);
    const std::int64_t begin = at / pieces * run;
    const std::int64_t end = begin + std::min(run, (at % pieces + 1) * piece);
    std::int64_t found = 0;
    for (std::int64_t row = begin + at % pieces * piece; row < end; row += together)
      found += own->run(row, std::min(together, end - row), masks[t]);
    nan += found;
  });
  return nan;
}

}  // namespace bittersweet
