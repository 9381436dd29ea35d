// Rows by the dozen that are much alike, so that engines find each near the place where those before it were cut; and
// rows among them that are not. Every engine gives the bits of the reference engine.
#include "support/compare.hpp"
#include "support/engines.hpp"
#include "support/inputs.hpp"
#include "support/orders.hpp"

namespace bittersweet::test {
namespace {

class EngineRows : public EngineTest {};
BITTERSWEET_FOR_EVERY(fast_engines, EngineRows);

constexpr float infinity = std::numeric_limits<float>::infinity();

void expect_like_reference(auto& engine, const Model& model, const Scorer& scorer, const std::string& what) {
  ReferenceEngine reference;
  const std::vector<ScoreInputs> inputs = model.inputs();
  const ScoreView view = make_view(inputs, scorer);
  const std::int64_t columns = inputs[0].geometry.row_size(), rows = inputs[0].geometry.rows;
  for (const GroupRule& rule :
       {GroupRule{0, columns / 2, rows / 3}, GroupRule{0, columns / 10, 0}, GroupRule{0, columns - columns / 20, 0},
        GroupRule{4, 2, 0}, GroupRule{4, 1, rows / 2}, GroupRule{4, 3, 0}}) {
    if (rule.group > 0 && inputs[0].geometry.inputs < rule.group) continue;
    const FreshMasks expected(inputs), found(inputs);
    const std::int64_t nan = reference.group_mask(view, 0, rule, expected.table());
    ASSERT_EQ(engine.group_mask(view, 0, rule, found.table()), nan) << what;
    ASSERT_TRUE(same_masks(expected.bits(), found.bits())) << what << ", " << rule.base << " of " << columns;
  }
  ASSERT_TRUE(model.intact()) << what;
}

TEST_P(EngineRows, Alike) {
  run([](auto& engine) {
    std::uint64_t seed = 0;
    for (const std::int64_t columns : {1, 3, 5, 63, 64, 65, 130, 512, 2047, 2052, 4100})
      for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
        for (const double dead : {0.0, 0.3, 0.97}) {
          const Scorer scorers[] = {Magnitude{}, Wanda{}, Bitter7{}, Random{}};
          const Scorer& scorer = scorers[seed % 4];
          const std::int64_t rows = columns > 1000 ? 35 : 90;
          Model model = training_model({rows * columns}, {dtype}, ++seed);
          model.tensors[0].geometry = matrix(rows, columns);
          model.tensors[0].input_norm = Array(half_normal(columns, seed), DType::f32);
          if (seed % 2 == 0) model.tensors[0].modifier = 0.5f;
          if (dead > 0) model.set_masks(dead, seed);
          expect_like_reference(engine, model, scorer,
                                std::string(info_of(scorer).name) + ", " + std::to_string(columns) + " columns, " +
                                    std::to_string(dead) + " dead, seed " + std::to_string(seed));
        }
  });
}

// Rows that interleave, in one block and in three, beside whole words of lanes and a part of one; and short rows.
// Groups of every way to be ranked, and inputs behind the last whole one.
TEST_P(EngineRows, SideBySide) {
  run([](auto& engine) {
    ReferenceEngine reference;
    std::uint64_t seed = 0;
    for (const Geometry& geometry :
         {Geometry{200, 77, 1, 1, 200}, Geometry{64, 40, 1, 1, 64}, Geometry{3 * 130, 24, 1, 1, 130, 3},
          Geometry{70, 12, 3, 3, 210}, Geometry{9, 24, 9, 24 * 9, 9}, Geometry{5, 33, 70, 33 * 70, 70}, matrix(333, 9),
          matrix(130, 77), matrix(700, 16), matrix(9, 2112)})
      for (const DType dtype : {DType::f32, DType::f16})
        for (const double dead : {0.0, 0.5}) {
          Model model = training_model({geometry.rows * geometry.row_size()}, {dtype}, ++seed);
          model.tensors[0].geometry = geometry;
          model.tensors[0].input_norm = Array(half_normal(geometry.features(), seed), DType::f32);
          if (dead > 0) model.set_masks(dead, seed);
          if (seed % 3 == 0)
            for (std::size_t i = 0; i < model.tensors[0].weight.size(); i += 5) model.tensors[0].weight.set(i, 0.01f);
          if (seed % 4 == 0) model.tensors[0].weight.set(11, std::nanf(""));
          const std::vector<ScoreInputs> inputs = model.inputs();
          const Scorer scorer = seed % 2 == 0 ? Scorer{Magnitude{}} : Scorer{Wanda{}};
          const ScoreView view = make_view(inputs, scorer);
          for (const std::int64_t group : {0, 2, 3, 4, 5, 7, 8, 9, 11, 16, 32})
            for (const std::int64_t extra : {std::int64_t{0}, geometry.rows / 3}) {
              const std::int64_t size = group > 0 ? group : geometry.row_size();
              if (group > geometry.inputs) continue;
              const FreshMasks expected(inputs), found(inputs);
              const GroupRule rule{group, size / 2, extra};
              const std::int64_t nan = reference.group_mask(view, 0, rule, expected.table());
              ASSERT_EQ(engine.group_mask(view, 0, rule, found.table()), nan);
              ASSERT_TRUE(same_masks(expected.bits(), found.bits()))
                  << "groups of " << group << ", " << geometry.rows << " rows of " << geometry.row_size() << ", "
                  << dead << " dead, " << extra << " extra";
            }
          ASSERT_TRUE(model.intact());
        }
  });
}

// Long rows that interleave, in strips of several words and a part of one, some of them in blocks; alike, of their own
// scales, and of few values, so that the lower halves of keys decide.
TEST_P(EngineRows, LongSideBySide) {
  run([](auto& engine) {
    ReferenceEngine reference;
    std::uint64_t seed = 0;
    for (const Geometry& geometry : {Geometry{330, 400, 1, 1, 330}, Geometry{130, 1030, 1, 1, 130},
                                     Geometry{2 * 70, 391, 1, 1, 70, 2}, Geometry{600, 129, 1, 1, 600}})
      for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
        for (const int distinct : {0, 1, 3, 40})  // values but for their signs; 0: as many as there are weights
          for (const double dead : {0.0, 0.4}) {
            const std::int64_t numel = geometry.rows * geometry.row_size(), width = geometry.rows_per_block();
            Model model = training_model({numel}, {dtype}, ++seed);
            Array& weight = model.tensors[0].weight;
            for (std::size_t i = 0; i < weight.size(); ++i) {
              const auto lane = static_cast<std::int64_t>(i) % width;
              if (distinct > 0) weight.set(i, static_cast<float>(i * 7 % static_cast<std::size_t>(distinct)) - 1.0f);
              if (seed % 3 == 0) weight.set(i, weight[i] * static_cast<float>(1 + lane % 5));
              if (seed % 5 == 0 && i % 23 == 0) weight.set(i, i % 2 == 0 ? infinity : -infinity);
            }
            if (seed % 4 == 0) weight.set(seed * 97 % weight.size(), std::nanf(""));
            model.tensors[0].geometry = geometry;
            model.tensors[0].input_norm = Array(half_normal(geometry.features(), seed), DType::f32);
            if (dead > 0) model.set_masks(dead, seed);
            const std::vector<ScoreInputs> inputs = model.inputs();
            const Scorer scorer = seed % 7 == 0 ? Scorer{Wanda{}} : Scorer{Magnitude{}};
            const ScoreView view = make_view(inputs, scorer);
            const std::int64_t size = geometry.row_size();
            for (const GroupRule& rule :
                 {GroupRule{0, size / 2, geometry.rows / 3}, GroupRule{0, 1, 0}, GroupRule{0, size - 2, 67}}) {
              const FreshMasks expected(inputs), found(inputs);
              const std::int64_t nan = reference.group_mask(view, 0, rule, expected.table());
              ASSERT_EQ(engine.group_mask(view, 0, rule, found.table()), nan);
              ASSERT_TRUE(same_masks(expected.bits(), found.bits()))
                  << rule.base << " of " << size << ", " << distinct << " values, " << dead << " dead, seed " << seed;
            }
            ASSERT_TRUE(model.intact());
          }
  });
}

// Blocks of 64 rows of which all but the last one or two are there: nothing of those is read.
TEST_P(EngineRows, PartOfABlock) {
  run([](auto& engine) {
    std::uint64_t seed = 0;
    for (const std::int64_t rows : {1, 62, 63, 127})
      for (const std::int64_t columns : {13, 80, 100, 127, 200, 383})
        for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
          for (const double dead : {0.0, 0.4}) {
            Model model = training_model({rows * columns}, {dtype}, ++seed);
            model.tensors[0].geometry = matrix(rows, columns);
            if (dead > 0) model.set_masks(dead, seed);
            expect_like_reference(
                engine, model, Magnitude{},
                std::to_string(rows) + " rows of " + std::to_string(columns) + ", seed " + std::to_string(seed));
          }
  });
}

// Rows that are taken 64 at a time by sorting, and some that are too short or too long: beside each other, and one
// after another; some shares are more than a row has.
TEST_P(EngineRows, EveryShortLength) {
  run([](auto& engine) {
    ReferenceEngine reference;
    const std::int64_t rows = 70;
    std::uint64_t seed = 0;
    const auto check = [&](std::int64_t columns, bool interleaved, int distinct, double dead) {
      Values values = half_normal(rows * columns, ++seed);
      const bool small = seed % 13 == 0, with_nan = seed % 11 == 0, with_infinities = seed % 7 == 0;
      for (std::size_t i = 0; i < values.size(); ++i) {
        if (distinct > 0) values[i] = static_cast<float>(i * 7 % static_cast<std::size_t>(distinct)) - 1.0f;
        if (small) values[i] *= 0x1p-140f;
        if (i % 5 == 0 && columns % 2 == 0) values[i] = -values[i];  // -0 as well
        if (with_infinities && i % 19 == 0) values[i] = i % 2 == 0 ? infinity : -infinity;
      }
      if (with_nan) values[seed % values.size()] = std::nanf("");
      Model model = model_of({values});
      model.tensors[0].geometry = interleaved ? Geometry{rows, columns, 1, 1, rows} : matrix(rows, columns);
      if (dead > 0) model.set_masks(dead, seed);
      const std::vector<ScoreInputs> inputs = model.inputs();
      const ScoreView view = make_view(inputs, Identity{});
      for (const std::int64_t share : {std::int64_t{0}, std::int64_t{1}, columns / 2, columns - 1, columns})
        for (const std::int64_t extra : {0, 21, 45, 66}) {
          if (extra > 0 && share != columns / 2 && share != columns) continue;
          const FreshMasks expected(inputs), found(inputs);
          const GroupRule rule{0, share, extra};
          const std::int64_t nan = reference.group_mask(view, 0, rule, expected.table());
          ASSERT_EQ(engine.group_mask(view, 0, rule, found.table()), nan);
          ASSERT_TRUE(same_masks(expected.bits(), found.bits()))
              << share << " of " << columns << " columns, " << extra << " extra, " << dead << " dead, seed " << seed;
        }
      ASSERT_TRUE(model.intact());
    };
    std::vector<std::int64_t> lengths = {80, 96, 97, 104, 113, 127, 128, 129, 136};
    for (std::int64_t columns = 2; columns <= 72; ++columns) lengths.push_back(columns);
    for (const std::int64_t columns : lengths)
      for (const bool interleaved : {false, true}) {
        for (const int distinct : {0, 1, 3})  // values but for their signs; 0: as many as there are weights
          for (const double dead : {0.0, 0.4}) check(columns, interleaved, distinct, dead);
        check(columns, interleaved, 0, 1.0);
      }
  });
}

// Of the scorer identity, one kind of value in the rows that `odd` names.
TEST_P(EngineRows, OddOnes) {
  run([](auto& engine) {
    const std::int64_t rows = 70;
    for (const std::int64_t columns : {40, 64, 321, 400})
      for (const float value : {0.0f, -0.0f, 1e-40f, infinity, -infinity, std::nanf(""), 7.0f, 1e30f})
        for (const std::int64_t every : {1, 9, 40})
          for (const double share : {0.02, 1.0}) {
            Values values = half_normal(rows * columns, static_cast<std::uint64_t>(every));
            for (std::size_t i = 0; i < values.size(); i += 3) values[i] = -values[i];
            for (std::int64_t row = every - 1; row < rows; row += every)
              for (std::int64_t i = 0; i < columns; ++i)
                if (static_cast<double>(i) < share * static_cast<double>(columns))
                  values[static_cast<std::size_t>(row * columns + (i * 7) % columns)] = i % 2 == 0 ? value : -value;
            Model model = model_of({values});
            model.tensors[0].geometry = matrix(rows, columns);
            expect_like_reference(engine, model, Identity{},
                                  show(value) + " in every row of " + std::to_string(every) + ", share " +
                                      std::to_string(share) + ", " + std::to_string(columns) + " columns");
          }
  });
}

// Sixty-four short rows after sixty-four of another scale, so that what was remembered of those misleads; and some of
// nothing but zeros, NaN or infinities among them.
TEST_P(EngineRows, ScalesThatJump) {
  run([](auto& engine) {
    for (const std::int64_t columns : {13, 40, 130, 449}) {
      const std::vector<float> scales{1.0f,  1e30f,    1e-30f, 0.0f, 1.0f, std::nanf(""),
                                      -1.0f, infinity, 1e-42f, 1.0f, 1.0f};
      const auto rows = static_cast<std::int64_t>(64 * scales.size());
      Values values = half_normal(rows * columns, 3);
      for (std::size_t i = 0; i < values.size(); ++i) values[i] *= scales[i / static_cast<std::size_t>(64 * columns)];
      for (const double dead : {0.0, 0.3}) {
        Model model = model_of({values});
        model.tensors[0].geometry = matrix(rows, columns);
        if (dead > 0) model.set_masks(dead, 5);
        expect_like_reference(engine, model, Identity{}, std::to_string(columns) + " columns");
      }
    }
  });
}

// Rows each of a scale of its own, so that where the rows before were cut says little of the next; of numbers that are
// all different, and of few values.
TEST_P(EngineRows, EachOfItsOwnScale) {
  run([](auto& engine) {
    std::uint64_t seed = 0;
    for (const std::int64_t columns : {200, 384, 500, 1024, 2100})
      for (const double spread : {0.05, 0.3, 1.5})
        for (const float grid : {0.0f, 0.01f})
          for (const double dead : {0.0, 0.5}) {
            const std::int64_t rows = 30;
            Values values = half_normal(rows * columns, ++seed);
            const Values sizes = half_normal(rows, seed + 1000);
            for (std::size_t i = 0; i < values.size(); ++i) {
              if (grid > 0) values[i] = std::round(values[i] / grid) * grid;
              values[i] *= std::exp(static_cast<float>(50 * spread) * sizes[i / static_cast<std::size_t>(columns)]);
            }
            if (seed % 3 == 0)
              for (const float odd : {std::nanf(""), infinity, -infinity})
                for (std::size_t i = seed; i < values.size(); i += 8999) values[i * 7 % values.size()] = odd;
            Model model = model_of({values});
            model.tensors[0].geometry = matrix(rows, columns);
            if (dead > 0) model.set_masks(dead, seed);
            expect_like_reference(engine, model, Identity{},
                                  std::to_string(columns) + " columns, spread " + std::to_string(spread) + ", grid " +
                                      std::to_string(grid) + ", dead " + std::to_string(dead));
          }
  });
}

// Kernels of many places: the elements of a group lie apart in their row, with inputs behind the last whole group.
TEST_P(EngineRows, KernelsOfManyPlaces) {
  run([](auto& engine) {
    ReferenceEngine reference;
    std::uint64_t seed = 0;
    for (const std::int64_t inner : {2, 3, 9, 25, 63, 64, 65, 100})
      for (const std::int64_t inputs : {4, 8, 13, 31})
        for (const double dead : {0.0, 0.4}) {
          const std::int64_t rows = 7;
          Values values = half_normal(rows * inputs * inner, ++seed);
          for (std::size_t i = 0; i < values.size(); i += 3) values[i] = -values[i];
          if (seed % 2 == 0)
            for (std::size_t i = 0; i < values.size(); i += 2) values[i] = std::round(values[i] * 50);
          if (seed % 3 == 0)
            for (const float odd : {std::nanf(""), infinity, -infinity, -0.0f})
              for (std::size_t i = seed % 7; i < values.size(); i += 11) values[(i * 13) % values.size()] = odd;
          Model model = model_of({values});
          model.tensors[0].geometry = {rows, inputs, inner, inputs * inner, inner};
          if (dead > 0) model.set_masks(dead, seed);
          const std::vector<ScoreInputs> tensors = model.inputs();
          const ScoreView view = make_view(tensors, Identity{});
          for (const std::int64_t group : {2, 3, 4, 8})
            for (std::int64_t share = 0; share <= group && group <= inputs; ++share) {
              const FreshMasks expected(tensors), found(tensors);
              const GroupRule rule{group, share, share == 1 ? rows / 2 : 0};
              const std::int64_t nan = reference.group_mask(view, 0, rule, expected.table());
              ASSERT_EQ(engine.group_mask(view, 0, rule, found.table()), nan);
              ASSERT_TRUE(same_masks(expected.bits(), found.bits()))
                  << share << " of " << group << ", " << inputs << " inputs at " << inner << " places, seed " << seed;
            }
          ASSERT_TRUE(model.intact());
        }
  });
}

// The same in other orders of memory: channels_last, whose ties go by the logical index; rows that interleave, of
// several places at each input; and element by element.
TEST_P(EngineRows, OfTheirOwnScaleInOtherOrders) {
  run([](auto& engine) {
    const std::int64_t rows = 40, inputs = 90, inner = 9;
    for (const float grid : {0.0f, 0.004f})
      for (const double dead : {0.0, 0.4}) {
        Values values = half_normal(rows * inputs * inner, 11);
        for (std::size_t i = 0; i < values.size(); ++i) {
          if (grid > 0) values[i] = std::round(values[i] / grid) * grid;
          values[i] *= std::exp(0.4f * static_cast<float>(i / static_cast<std::size_t>(inputs * inner) % 7));
        }
        Model model = model_of({values});
        model.tensors[0].geometry = {rows, inputs, inner, inputs * inner, inner};
        if (dead > 0) model.set_masks(dead, 3);
        Model interleaved = model_of({values});
        interleaved.tensors[0].geometry = {rows, inputs, inner, inner, rows * inner};
        if (dead > 0) interleaved.set_masks(dead, 3);
        expect_like_reference(engine, interleaved, Identity{}, "rows that interleave");
        Model scattered = model;
        model.tensors[0] = ordered(model.tensors[0], {inputs, inner});
        expect_like_reference(engine, model, Identity{}, "channels_last");
        scattered.tensors[0] = ordered(scattered.tensors[0], {rows * inputs, inner});
        expect_like_reference(engine, scattered, Identity{}, "kernel places first");
      }
  });
}

// Lanes of more elements than a 16-bit count can hold.
TEST_P(EngineRows, LongLanes) {
  run([](auto& engine) {
    Model model = training_model({5 * 66000}, {DType::f32}, 1);
    model.tensors[0].geometry = {5, 66000, 1, 1, 5};
    for (std::size_t i = 0; i < model.tensors[0].weight.size(); i += 7) model.tensors[0].weight.set(i, 0.0f);
    expect_like_reference(engine, model, Magnitude{}, "66,000 inputs of rows that interleave");
    model.set_masks(0.6, 1);
    expect_like_reference(engine, model, Magnitude{}, "the same, 60 % dead");
  });
}

// Every four of zeros of both signs, equal numbers, infinities and NaN, with every choice of them dead.
TEST_P(EngineRows, EveryGroupOfFour) {
  run([](auto& engine) {
    const float values[] = {0.0f, -0.0f, 1.0f, -1.0f, infinity, -infinity, std::nanf("")};
    constexpr std::size_t kinds = std::size(values), groups = kinds * kinds * kinds * kinds;
    Values all(4 * groups);
    for (std::size_t i = 0; i < groups; ++i)
      for (std::size_t j = 0, rest = i; j < 4; ++j, rest /= kinds) all[4 * i + j] = values[rest % kinds];
    for (std::size_t live = 0; live < 16; ++live) {
      Model model = model_of({all});
      model.tensors[0].geometry = matrix(49, 196);  // 49 groups a row: a word of the mask begins in any of the rows
      model.set_masks(0.0, 1);
      for (std::int64_t i = 0; i < model.tensors[0].numel; ++i)
        bits::clear_if(model.tensors[0].mask.data(), i, (live >> (i % 4) & 1) == 0);
      expect_like_reference(engine, model, Identity{}, std::to_string(live) + " as live bits of every four");
    }
  });
}

// Convolutions in channels_last and transposed matrices: ties go by the logical index, not by memory.
TEST_P(EngineRows, OtherOrdersOfMemory) {
  run([](auto& engine) {
    for (const DType dtype : {DType::f32, DType::bf16})
      for (const double dead : {0.0, 0.4}) {
        Model conv = training_model({80 * 12 * 9}, {dtype}, 3), transposed = training_model({80 * 60}, {dtype}, 4);
        conv.tensors[0].geometry = {80, 12, 9, 108, 9};
        Model rest = training_model({80 * 10 * 9}, {dtype}, 5);  // with inputs behind the last whole group of four
        rest.tensors[0].geometry = {80, 10, 9, 90, 9};
        transposed.tensors[0].geometry = matrix(80, 60);
        for (Model* model : {&conv, &rest, &transposed})
          if (dead > 0) model->set_masks(dead, 9);
        conv.tensors[0] = ordered(conv.tensors[0], {12, 9});
        rest.tensors[0] = ordered(rest.tensors[0], {10, 9});
        transposed.tensors[0] = ordered(transposed.tensors[0], {80, 60});
        expect_like_reference(engine, conv, Magnitude{}, "channels_last");
        expect_like_reference(engine, rest, Magnitude{}, "channels_last, inputs left over");
        expect_like_reference(engine, transposed, Magnitude{}, "transposed");
      }
  });
}

}  // namespace
}  // namespace bittersweet::test
