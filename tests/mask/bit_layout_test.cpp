// Mask bits: one keep bit an element, lowest bit first, each tensor padded to a word; and what is read off masks alone.
#include "bittersweet/mask/bit_layout.hpp"

#include "bittersweet/engine/reference.hpp"
#include "bittersweet/mask/commit.hpp"
#include "bittersweet/mask/mask_view.hpp"
#include "bittersweet/mask/rows.hpp"
#include "support/compare.hpp"
#include "support/inputs.hpp"
#include "support/orders.hpp"

namespace bittersweet::test {
namespace {

TEST(BitLayout, Words) {
  EXPECT_EQ(bits::words(0), 0);
  EXPECT_EQ(bits::words(1), 1);
  EXPECT_EQ(bits::words(64), 1);
  EXPECT_EQ(bits::words(65), 2);
  EXPECT_EQ(bits::words((std::int64_t{1} << 31) + 1), (std::int64_t{1} << 25) + 1);
}

TEST(BitLayout, LowestBitFirst) {
  const std::uint64_t mask[] = {0b1011, std::uint64_t{1} << 63};
  for (std::int64_t i = 0; i < 128; ++i) EXPECT_EQ(bits::get(mask, i), i == 0 || i == 1 || i == 3 || i == 127) << i;
}

TEST(BitLayout, SetAndClearTouchOneBit) {
  for (std::int64_t i = 0; i < 192; ++i) {
    std::uint64_t ones[] = {~0ull, ~0ull, ~0ull}, zeros[] = {0, 0, 0}, copy[] = {~0ull, ~0ull, ~0ull};
    bits::clear(ones, i);
    bits::set(zeros, i);
    bits::clear_if(copy, i, false);
    for (std::int64_t j = 0; j < 192; ++j) {
      EXPECT_EQ(bits::get(ones, j), j != i);
      EXPECT_EQ(bits::get(zeros, j), j == i);
      EXPECT_TRUE(bits::get(copy, j));
    }
    bits::clear_if(copy, i, true);
    EXPECT_TRUE(same_words(ones, copy));
  }
}

TEST(BitLayout, ValidAndLive) {
  for (const std::int64_t numel : {0, 1, 63, 64, 65, 127, 128, 200})
    for (std::int64_t word = 0; word < 5; ++word) {
      std::uint64_t expected = 0;
      for (std::int64_t i = 0; i < 64; ++i)
        if (word * 64 + i < numel) expected |= std::uint64_t{1} << i;
      EXPECT_EQ(bits::valid(numel, word), expected) << numel << " elements, word " << word;
      EXPECT_EQ(bits::live(nullptr, numel, word), expected);
    }
  const std::uint64_t mask[] = {5, 6};
  EXPECT_EQ(bits::live(mask, 128, 1), 6u);
}

// Bit by bit, at sizes around every width, between bits that must stay clear.
TEST(BitLayout, OrdersOfMemory) {
  const std::int64_t sizes[] = {1, 2, 3, 9, 63, 64, 65, 127, 130};
  for (const std::int64_t p : sizes)
    for (const std::int64_t q : sizes)
      for (const std::int64_t batches : {1, 3}) {
        SCOPED_TRACE(testing::Message() << batches << " of " << p << " x " << q);
        const MemoryOrder order{p, q};
        const std::int64_t numel = batches * p * q;
        const Words logical = random_mask(numel, 0.5, static_cast<std::uint64_t>(numel));
        const std::vector<std::size_t> indices = logical_indices(numel, order);
        std::vector<std::uint64_t> expected(logical.words().size()), memory(expected.size(), ~0ull), back(memory);
        for (std::size_t i = 0; i < indices.size(); ++i)
          if (bits::get(logical.data(), static_cast<std::int64_t>(indices[i])))
            bits::set(expected.data(), static_cast<std::int64_t>(i));
        bits::to_memory(logical.data(), numel, order, memory.data());
        ASSERT_TRUE(same_words(expected, memory));
        bits::to_logical(memory.data(), numel, order, back.data());
        ASSERT_TRUE(same_words(logical.words(), back));
        LogicalWalk walk(order, numel / 3);
        for (std::int64_t i = 0; i < numel; ++i) {
          ASSERT_EQ(order.logical_of(i), static_cast<std::int64_t>(indices[static_cast<std::size_t>(i)]));
          ASSERT_EQ(order.memory_of(order.logical_of(i)), i);
          if (i >= numel / 3) {
            ASSERT_EQ(walk.next(), order.logical_of(i));
          }
        }
      }
}

TEST(BitLayout, KeepFirst) {
  for (const std::int64_t numel : {1, 64, 65, 300})
    for (const double share : {0.0, 0.5, 1.0})
      for (std::int64_t count = 0; count <= numel + 1; count += 1 + count / 9) {
        const Words given = random_mask(numel, share, 3);
        std::vector<std::uint64_t> found(given.words().begin(), given.words().end());
        bits::keep_first(found.data(), std::ssize(found), count);
        std::int64_t left = count;
        for (std::int64_t i = 0; i < numel; ++i) {
          const bool kept = bits::get(given.data(), i) && left-- > 0;
          ASSERT_EQ(bits::get(found.data(), i), kept) << numel << " elements, the first " << count << ", at " << i;
        }
      }
}

TEST(BitLayout, KeepFirstByLogicalIndex) {
  for (const MemoryOrder order : {MemoryOrder{1, 7}, MemoryOrder{9, 64}, MemoryOrder{65, 3}, MemoryOrder{130, 131}})
    for (const double dead : {0.0, 0.5, 0.97, 0.995, 1.0})  // many bits, and few
      for (const std::int64_t share : {0, 1, 50, 99, 100}) {
        const std::int64_t numel = 2 * order.size();
        const Words given = random_mask(numel, dead, 5);
        std::vector<std::uint64_t> found(given.words().begin(), given.words().end());
        std::int64_t left = 0;
        for (std::int64_t i = 0; i < numel; ++i) left += bits::get(given.data(), i);
        left = (left * share + 99) / 100;
        bits::keep_first(found.data(), numel, order, left);
        for (std::int64_t i = 0; i < numel; ++i) {
          const std::int64_t at = order.memory_of(i);
          ASSERT_EQ(bits::get(found.data(), at), bits::get(given.data(), at) && left-- > 0)
              << order.p << " x " << order.q << ", dead " << dead << ", the first " << share << " %, at " << i;
        }
      }
}

TEST(BitLayout, LowestBits) {
  EXPECT_EQ(bits::lowest_or_width(0), 64);
  EXPECT_EQ(bits::lowest_or_width(0b101000), 3);
  EXPECT_EQ(bits::without_lowest(0b101000), 0b100000u);
  EXPECT_EQ(bits::without_lowest(0), 0u);
  EXPECT_EQ(bits::count(0xff00ff), 16);
}

TEST(BitLayout, PackAndUnpack) {
  for (const std::int64_t numel : {0, 1, 63, 64, 65, 1000}) {
    Generator random(static_cast<std::uint64_t>(numel));
    std::vector<unsigned char> keep(static_cast<std::size_t>(numel)), back(keep.size() + 1, 77);
    for (unsigned char& k : keep) k = static_cast<unsigned char>(random.below(3));  // any nonzero byte is true
    std::vector<std::uint64_t> mask(static_cast<std::size_t>(bits::words(numel)) + 1, ~0ull);
    bits::pack(keep.data(), numel, mask.data());
    EXPECT_EQ(mask.back(), ~0ull) << "a word behind the mask was written";
    for (std::int64_t i = 0; i < bits::words(numel) * 64; ++i)
      ASSERT_EQ(bits::get(mask.data(), i), i < numel && keep[static_cast<std::size_t>(i)] != 0) << i;
    bits::unpack(mask.data(), numel, back.data());
    for (std::size_t i = 0; i < keep.size(); ++i) ASSERT_EQ(back[i], keep[i] != 0);
    EXPECT_EQ(back.back(), 77) << "a byte behind the array was written";
  }
}

TEST(BitLayout, ExtractAndMerge) {
  Generator random(5);
  std::vector<std::uint64_t> mask(5);
  for (std::uint64_t& word : mask) word = random.bits();
  for (const std::int64_t first : {0, 1, 63, 64, 100, 191})
    for (const std::int64_t count : {0, 1, 27, 28, 29, 64, 65, 127, 128, 129}) {
      std::vector<std::uint64_t> out(static_cast<std::size_t>(bits::words(count)) + 1, ~0ull);
      const std::size_t used = static_cast<std::size_t>(bits::words(first + count));
      const std::vector<std::uint64_t> exact(mask.begin(), mask.begin() + static_cast<std::ptrdiff_t>(used));
      bits::extract(exact.data(), first, count, out.data());  // a word read behind the mask: ASan would tell
      ASSERT_EQ(out.back(), ~0ull) << "a word behind the output was written";
      for (std::int64_t i = 0; i < bits::words(count) * 64; ++i)
        ASSERT_EQ(bits::get(out.data(), i), i < count && bits::get(mask.data(), first + i)) << first << ", " << i;

      std::vector<std::uint64_t> into(used, 0);
      if (used > 0) bits::set(into.data(), 0);
      bits::merge(out.data(), count, into.data(), first);
      for (std::int64_t i = 0; i < static_cast<std::int64_t>(used) * 64; ++i) {
        const bool there = i >= first && i < first + count && bits::get(mask.data(), i);
        ASSERT_EQ(bits::get(into.data(), i), there || i == 0) << first << ", " << i;
      }
    }
}

// ---- from thresholds to bits ----

TEST(BitLayout, Appender) {
  Generator random(3);
  for (const std::int64_t first : {0, 1, 63, 64, 100}) {
    Words found = random_mask(640, 0.3, 4), expected = found;
    for (std::int64_t i = first; i < 500; ++i) bits::clear(found.data(), i), bits::clear(expected.data(), i);
    bits::Appender next(found.data(), first);
    for (std::int64_t at = first, count = 1; at + count <= 500; at += count, count = count % 64 + 9) {
      count = std::min<std::int64_t>(count, 64);
      const std::uint64_t some = random.bits() & bits::valid(count, 0);
      next.add(some, count);
      bits::add(expected.data(), at, count, some);
    }
    next.end();
    EXPECT_TRUE(std::equal(found.data(), found.data() + 10, expected.data())) << first;
  }
}

TEST(Ties, TheFirstInOrderArePruned) {
  using Counts = std::vector<std::int64_t>;
  EXPECT_EQ(share_ties({3, 0, 5, 2}, 0), (Counts{0, 0, 0, 0}));
  EXPECT_EQ(share_ties({3, 0, 5, 2}, 4), (Counts{3, 0, 1, 0}));
  EXPECT_EQ(share_ties({3, 0, 5, 2}, 8), (Counts{3, 0, 5, 0}));
  EXPECT_EQ(share_ties({3, 0, 5, 2}, 10), (Counts{3, 0, 5, 2}));
  EXPECT_EQ(share_ties({}, 0), Counts{});
}

TEST(Ties, Wanted) {
  const Selection selection{.value = 1, .rank = 7, .below = 5, .equal = 4};
  EXPECT_EQ(ties_wanted(Ties::exact, selection), 2);
  EXPECT_EQ(ties_wanted(Ties::at_or_below, selection), 4);
  EXPECT_EQ(ties_wanted(Ties::below, selection), 0);
}

TEST(Fill, WritesTheChunkAlone) {
  const Words current = random_mask(65536 + 70, 0.5, 1);
  const ScoreInputs tensor{.mask = current.data(), .numel = 65536 + 70};
  for (const bool masked : {false, true})
    for (const bool keep : {false, true}) {
      ScoreInputs t = tensor;
      if (!masked) t.mask = nullptr;
      const std::vector<ScoreInputs> tensors{t};
      const std::vector<Chunk> chunks = make_chunks(tensors);
      FreshMasks masks(tensors);
      fill_chunk(t, chunks[1], masks.table()[0], keep);
      const Bits found = masks.bits();
      EXPECT_EQ(found[0][1023], 0xdeadbeefcafef00du) << "the chunk before was written";
      for (std::int64_t w = 1024; w < 1026; ++w)
        EXPECT_EQ(found[0][static_cast<std::size_t>(w)], keep ? bits::live(t.mask, t.numel, w) : 0u);
    }
}

// ---- what is read off masks ----

struct Shape {
  const char* name;
  Geometry geometry;
  MemoryOrder order{};
};

TEST(MaskView, EmptiedRowsAgainstEveryLayout) {
  const Shape shapes[] = {{"linear", matrix(6, 10)},
                          {"conv", {6, 5, 4, 20, 4}},
                          {"transposed", {6, 10, 1, 1, 6}},
                          {"a conv whose rows interleave", {6, 5, 2, 2, 12}},
                          {"a conv in groups", {6, 5, 4, 20, 4, 3}},
                          {"blocks whose rows interleave", {6, 10, 1, 1, 3, 2}},
                          {"blocks of a conv whose rows interleave", {6, 5, 2, 2, 4, 3}},
                          {"linear, transposed in memory", matrix(6, 10), {6, 10}},
                          {"conv, channels_last", {6, 5, 4, 20, 4}, {5, 4}},
                          {"conv, kernel first in memory", {6, 5, 4, 20, 4}, {30, 4}},
                          {"transposed, transposed in memory", {6, 10, 1, 1, 6}, {10, 6}},
                          {"a transposed conv, channels_last", {6, 5, 2, 2, 12}, {6, 2}}};
  for (const Shape& shape : shapes) {
    const Geometry& g = shape.geometry;
    const MemoryOrder& order = shape.order;
    const std::int64_t numel = g.rows * g.inputs * g.inner;
    const std::int64_t rows = g.rows / g.blocks;
    const auto at = [&](std::int64_t row, std::int64_t input, std::int64_t inner) {
      return row / rows * rows * g.inputs * g.inner + row % rows * g.row_stride + input * g.input_stride + inner;
    };
    const auto row_of = [&](std::int64_t row, auto&& f) {
      for (std::int64_t input = 0; input < g.inputs; ++input)
        for (std::int64_t inner = 0; inner < g.inner; ++inner) f(order.memory_of(at(row, input, inner)));
    };
    Words before(numel), after(numel);
    before.fill(0);
    after.fill(0);
    for (std::int64_t row = 0; row < g.rows; ++row)
      row_of(row, [&](std::int64_t i) {
        if (row != 2) bits::set(before.data(), i);             // row 2 was empty already
        if (row != 2 && row != 4) bits::set(after.data(), i);  // row 4 becomes empty
      });
    row_of(5, [&](std::int64_t i) { bits::clear(after.data(), i); });
    bits::set(after.data(), order.memory_of(at(5, g.inputs - 1, g.inner - 1)));  // one is left in row 5
    const ScoreInputs masked{.mask = before.data(), .numel = numel, .geometry = g, .order = order};
    const ScoreInputs whole{.numel = numel, .geometry = g, .order = order};
    EXPECT_EQ(emptied_rows(masked, after.data()), 1) << shape.name;
    EXPECT_EQ(emptied_rows(whole, after.data()), 2) << shape.name;
    EXPECT_TRUE(row_is_empty(after.data(), rows_in_memory(g, order), order, 4)) << shape.name;
    EXPECT_FALSE(row_is_empty(after.data(), rows_in_memory(g, order), order, 5)) << shape.name;
  }
  EXPECT_EQ(emptied_rows(ScoreInputs{.geometry = {3, 0, 1, 0, 1}}, nullptr), 0);
}

// Short rows, of which many begin in one word, from any row to any.
TEST(MaskView, EmptiedShortRows) {
  for (const std::int64_t columns : {1, 2, 3, 4, 8, 9, 16, 32, 33, 63, 64, 65}) {
    const std::int64_t rows = 150, numel = rows * columns;
    const Words before = random_mask(numel, 0.5, 1), after = random_mask(numel, 1 - 1 / (1.0 + columns), 2);
    const auto empty = [&](const Words& mask, std::int64_t row) {
      bool none = true;
      for (std::int64_t c = 0; c < columns; ++c) none &= !bits::get(mask.data(), row * columns + c);
      return none;
    };
    const ScoreInputs masked{.mask = before.data(), .numel = numel, .geometry = matrix(rows, columns)};
    const ScoreInputs whole{.numel = numel, .geometry = matrix(rows, columns)};
    for (const std::int64_t first : {0, 1, 32, 64, 70})
      for (const std::int64_t last : {64, 128, 149, 150}) {
        std::int64_t of_masked = 0, of_whole = 0;
        for (std::int64_t row = first; row < last; ++row) {
          of_masked += empty(after, row) && !empty(before, row);
          of_whole += empty(after, row);
        }
        const RowLayout layout = rows_in_memory(whole.geometry, whole.order);
        EXPECT_EQ(emptied_rows(masked, layout, after.data(), first, last), of_masked) << columns << ", " << first;
        EXPECT_EQ(emptied_rows(whole, layout, after.data(), first, last), of_whole) << columns << ", " << first;
        EXPECT_TRUE(of_whole > 0 || columns > 9 || last - first < 64) << columns;
      }
  }
}

TEST(MaskView, Differing) {
  for (const std::int64_t numel : {0, 1, 64, 65, 1000}) {
    const Words a = random_mask(numel, 0.5, 1), b = random_mask(numel, 0.5, 2);
    std::int64_t from_mask = 0, from_whole = 0;
    for (std::int64_t i = 0; i < numel; ++i) {
      from_mask += bits::get(a.data(), i) != bits::get(b.data(), i);
      from_whole += !bits::get(b.data(), i);
    }
    EXPECT_EQ(differing({.mask = a.data(), .numel = numel}, b.data()), from_mask);
    EXPECT_EQ(differing({.numel = numel}, b.data()), from_whole);
  }
}

}  // namespace
}  // namespace bittersweet::test
