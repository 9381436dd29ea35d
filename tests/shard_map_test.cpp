// The map of who holds what: indices, runs and rows against an unravelled index, and every mistake that boxes can hold.
#include "bittersweet/shard_map.hpp"

#include "support/ranks.hpp"

namespace bittersweet::test {
namespace {

std::vector<std::int64_t> unravel(const Shape& shape, std::int64_t index) {
  std::vector<std::int64_t> at(shape.size());
  for (std::size_t a = shape.size(); a-- > 0; index /= shape[a]) at[a] = index % shape[a];
  return at;
}

// f(map, shape) for every cut of awkward shapes over several numbers of ranks.
template <class F>
void for_each_map(F&& f) {
  for (const Shape& shape : std::vector<Shape>{
           {1}, {10}, {10, 3}, {1, 9}, {3, 1}, {4, 6}, {7, 5, 3}, {2, 1, 8}, {5, 4, 3, 2}, {1, 1, 1}, {2, 3, 1, 2, 2}})
    for (const std::int64_t ranks : {1, 2, 3, 4, 7, 8})
      for (const Cut& cut : cuts()) {
        SCOPED_TRACE(cut.name + " of " + detail::shown(shape) + " over " + std::to_string(ranks));
        const ShardMap map(
            {shape, shape},
            [&] {
              std::vector<Box> boxes;
              for (std::int64_t t = 0; t < 2; ++t)
                for (const Box& box : cut.make(shape, ranks, t)) boxes.push_back(box);
              return boxes;
            }(),
            ranks);
        f(map, shape);
      }
}

TEST(ShardMap, IndicesGoToTheWholeAndBack) {
  for_each_map([](const ShardMap& map, const Shape& shape) {
    for (std::size_t t = 0; t < 2; ++t) {
      std::vector<int> seen(static_cast<std::size_t>(numel_of(shape)));
      for (const ShardMap::Part& part : map.parts(t)) {
        const Shape size(part.size.begin(), part.size.begin() + static_cast<std::ptrdiff_t>(shape.size()));
        std::int64_t before = -1;
        for (std::int64_t i = 0; i < part.numel; ++i) {
          std::vector<std::int64_t> at = unravel(size, i);
          for (std::size_t a = 0; a < at.size(); ++a) at[a] += part.offset[a];
          const std::int64_t global = map.global_index(part, i);
          ASSERT_EQ(unravel(shape, global), at);
          ASSERT_EQ(map.local_index(part, global), i);
          ASSERT_GT(global, before) << "the local order is not the global one";
          before = global;
          ++seen[static_cast<std::size_t>(global)];
        }
        if (part.stretch) {
          ASSERT_EQ(map.global_index(part, part.numel - 1), part.first + part.numel - 1);
        }
      }
      for (const int times : seen) ASSERT_EQ(times, 1);
    }
  });
}

// Units in order are stretches one behind the other; the runs of a boxed tensor cut it in the same way.
TEST(ShardMap, UnitsAndRunsAreInOrderOfTheWhole) {
  for_each_map([](const ShardMap& map, const Shape&) {
    std::vector<std::pair<std::int64_t, std::int64_t>> order;  // (unit, run) of every element of the model
    for (std::size_t t = 0; t < 2; ++t) {
      std::vector<std::pair<std::int64_t, std::int64_t>> own(static_cast<std::size_t>(map.numel(t)));
      for (const ShardMap::Part& part : map.parts(t)) {
        const RunMap runs = map.boxed(t) ? map.run_map(part) : RunMap{};
        for (std::int64_t i = 0; i < part.numel; ++i)
          own[static_cast<std::size_t>(map.global_index(part, i))] = {part.unit, map.boxed(t) ? runs.run_of(i) : 0};
      }
      order.insert(order.end(), own.begin(), own.end());
      if (!map.boxed(t)) continue;
      const std::int64_t count = map.runs()[static_cast<std::size_t>(map.first_unit(t))];
      for (const auto& [unit, run] : own) {
        ASSERT_GE(run, 0);
        ASSERT_LT(run, count);
      }
    }
    ASSERT_TRUE(std::is_sorted(order.begin(), order.end()));
    ASSERT_EQ(order.front().first, 0);
    ASSERT_EQ(order.back().first, map.units() - 1);
  });
}

TEST(ShardMap, TheLeastHolderCounts) {
  const Shape shape{6, 4};
  const ShardMap map(
      {shape},
      std::vector<Box>{part_of(whole_box(shape, 0, 3), 0, 2, 0), part_of(whole_box(shape, 0, 1), 0, 2, 0),
                       part_of(whole_box(shape, 0, 2), 0, 2, 1)},
      4);
  ASSERT_EQ(map.parts().size(), 2u);
  EXPECT_EQ(map.parts()[0].rank, 1);
  EXPECT_EQ(map.parts()[0].copies, 2);
  EXPECT_EQ(map.parts()[1].rank, 2);
  EXPECT_EQ(map.parts()[1].copies, 1);
  EXPECT_TRUE(map.held(0, 0).empty());
}

// The map's rows are those of the geometry, element by element.
TEST(ShardMap, RowsAndGroups) {
  struct Kind {
    Shape shape;
    Geometry geometry;
  };
  const std::vector<Kind> kinds{{{12, 8}, {12, 8, 1, 8, 1}},       // Linear
                                {{8, 12}, {12, 8, 1, 1, 12}},      // (in, out)
                                {{6, 4, 9}, {6, 4, 9, 36, 9}},     // a convolution
                                {{4, 6, 9}, {6, 4, 9, 9, 54}},     // a transposed one
                                {{3, 8, 5}, {15, 8, 1, 1, 5, 3}},  // experts, inputs first
                                {{3, 5, 8}, {15, 8, 1, 8, 1, 3}},  // experts, outputs first
                                {{12, 1}, {12, 1, 1, 1, 1}},      {{30}, {1, 30, 1, 30, 1}}};
  for (const Kind& kind : kinds)
    for (const std::int64_t ranks : {1, 2, 3, 4})
      for (const Cut& cut : cuts()) {
        SCOPED_TRACE(cut.name + " of " + detail::shown(kind.shape) + " over " + std::to_string(ranks));
        const ShardMap map({kind.shape}, cut.make(kind.shape, ranks, 0), ranks, {kind.geometry});
        const Geometry& g = kind.geometry;
        std::vector<std::int64_t> row_of(static_cast<std::size_t>(map.numel(0))), input_of(row_of.size());
        for (std::int64_t row = 0; row < g.rows; ++row)
          for (std::int64_t input = 0; input < g.inputs; ++input)
            for (std::int64_t inner = 0; inner < g.inner; ++inner) {
              const auto at = static_cast<std::size_t>(g.first_of(row) + input * g.input_stride + inner);
              row_of[at] = row;
              input_of[at] = input;
            }
        for (const ShardMap::Part& part : map.parts()) {
          std::map<std::int64_t, std::int64_t> held;                               // elements by row
          std::map<std::pair<std::int64_t, std::int64_t>, std::int64_t> in_group;  // by row and group of 4
          for (std::int64_t i = 0; i < part.numel; ++i) {
            const auto at = static_cast<std::size_t>(map.global_index(part, i));
            ++held[row_of[at]];
            ++in_group[{row_of[at], input_of[at] / 4}];
          }
          const bool whole = std::ranges::all_of(held, [&](const auto& row) { return row.second == g.row_size(); });
          EXPECT_EQ(map.whole_rows(part), whole);
          if (map.whole_groups(part, 4))
            for (const auto& [group, count] : in_group) {
              const std::int64_t inputs = std::min<std::int64_t>(4, g.inputs - 4 * group.second);
              EXPECT_EQ(count % inputs, 0) << "a group is split";
            }
          if (!whole) continue;
          EXPECT_TRUE(map.whole_groups(part, 4));
          // Rows of the part as its own geometry has them: here, in the order of their first elements.
          Geometry own = g;
          own.rows = static_cast<std::int64_t>(held.size());
          if (kind.shape.size() == 2 && g.row_stride == 1 && g.inputs > 1) own.input_stride = part.size[1];
          if (kind.shape.size() == 3 && g.blocks == 1 && g.input_stride == 54) own.input_stride = part.size[1] * 9;
          if (g.blocks == 3) {
            own.blocks = part.size[0];
            own.input_stride = g.row_stride == 1 ? part.size[2] : 1;
          }
          for (const std::int64_t rows : {std::int64_t{0}, std::int64_t{1}, g.rows / 2, g.rows}) {
            std::int64_t among = 0;
            for (const auto& [row, count] : held) among += row < rows;
            EXPECT_EQ(map.rows_among_first(part, own, rows), among) << rows << " rows";
          }
        }
      }
}

void expect_refused(const std::vector<Box>& boxes, const std::string& words, std::int64_t ranks = 3,
                    const Shape& shape = {6, 4}) {
  try {
    const ShardMap map({{2}, shape}, boxes, ranks);
    ADD_FAILURE() << "accepted, instead of an error about " << words;
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
  }
}

TEST(ShardMap, MistakesAreNamed) {
  const Shape shape{6, 4};
  const Box first = whole_box({2}, 0, 0), whole = whole_box(shape, 1, 1);
  const Box top = part_of(whole, 0, 2, 0), bottom = part_of(whole, 0, 2, 1), left = part_of(whole, 1, 2, 0);
  EXPECT_NO_THROW(ShardMap({{2}, shape}, std::vector<Box>{first, top, bottom}, 3));
  expect_refused({first, top}, "no rank holds its elements from flat index 12 on, of tensor 1 of shape (6, 4)");
  expect_refused({first, bottom}, "from flat index 0 on, of tensor 1");
  expect_refused({first, left}, "no rank holds 12 of its elements, of tensor 1");
  expect_refused({first}, "of tensor 1");
  expect_refused({top, bottom}, "of tensor 0 of shape (2,)");
  Box other = whole;
  other.rank = 2;
  expect_refused({first, top, bottom, other}, "ranks 1 and 2 hold overlapping parts of tensor 1");
  expect_refused({first, left, top, bottom}, "overlapping parts of tensor 1");
  expect_refused({first, top, bottom, top}, "rank 1 names the same box of tensor 1 of shape (6, 4) twice");
  Box outside = bottom;
  outside.offset[0] = 4;
  expect_refused({first, top, outside}, "which leaves tensor 1");
  outside = bottom;
  outside.offset[1] = -1;
  expect_refused({first, top, outside}, "which leaves tensor 1");
  outside = bottom;
  outside.size[1] = INT64_MAX;
  expect_refused({first, top, outside}, "which leaves tensor 1");
  outside = bottom;
  outside.rank = 3;
  expect_refused({first, top, outside}, "boxes: one of rank 3, where there are 3 ranks");
  outside.rank = 1;
  outside.tensor = 2;
  expect_refused({first, top, outside}, "boxes: one of tensor 2");
  expect_refused({first, top, bottom}, "ranks: 0;", 0);
  expect_refused({first, top, bottom}, "ranks: 32768;", 32768);
  expect_refused({first}, "9 axes", 3, {1, 1, 1, 1, 1, 1, 1, 1, 1});
  EXPECT_THROW(ShardMap({{2}, shape}, std::vector<Box>{first, top, bottom}, 3, {flat(2)}), ShapeError);
  EXPECT_THROW(ShardMap({{2}, shape}, std::vector<Box>{first, top, bottom}, 3, {flat(2), flat(23)}), ShapeError);
}

TEST(ShardMap, PartsWithoutElementsAreNobodys) {
  const ShardMap map({{0, 3}, {2, 3}, {}},
                     std::vector<Box>{whole_box({0, 3}, 0, 0), whole_box({2, 3}, 1, 1), whole_box({}, 2, 0),
                                      part_of(whole_box({2, 3}, 1, 0), 0, 4, 3)},
                     2);
  EXPECT_EQ(map.total(), 7);
  EXPECT_EQ(map.units(), 2);
  EXPECT_TRUE(map.held(0, 0).empty());
  EXPECT_TRUE(map.held(0, 1).empty());
  EXPECT_EQ(map.held(0, 2).size(), 1u);
}

TEST(ShardMap, DigestsDifferWithEveryPart) {
  const Shape shape{6, 4};
  const auto digest_of = [&](const Shape& s, const std::vector<Box>& boxes, std::int64_t ranks,
                             std::vector<Geometry> rows = {}) {
    return ShardMap({s}, boxes, ranks, std::move(rows)).digest();
  };
  const Box whole = whole_box(shape, 0, 0);
  Box elsewhere = whole;
  elsewhere.rank = 1;
  const auto one = digest_of(shape, {whole}, 2);
  EXPECT_EQ(one, digest_of(shape, {whole}, 2));
  EXPECT_NE(one, digest_of(shape, {whole}, 3));
  EXPECT_NE(one, digest_of(shape, {elsewhere}, 2));
  EXPECT_NE(one, digest_of(shape, {whole, elsewhere}, 2));
  EXPECT_NE(one, digest_of(shape, {whole}, 2, {{4, 6, 1, 1, 4}}));
  EXPECT_NE(one, digest_of({4, 6}, {whole_box({4, 6}, 0, 0)}, 2));
}

}  // namespace
}  // namespace bittersweet::test
