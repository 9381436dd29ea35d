// Blocks that are fed one after another give the threshold, the counts and the zeros of make_masks over whole tensors,
// whatever the cuts; and a caller that feeds something else hears of it.
#include "bittersweet/blockwise.hpp"

#include "support/compare.hpp"
#include "support/inputs.hpp"

namespace bittersweet::test {
namespace {

TensorView part(const TensorView& array, std::int64_t first) {
  if (array.data == nullptr) return array;
  return {static_cast<char*>(array.data) + static_cast<std::size_t>(first) * size_of(array.dtype), array.dtype};
}

// Elements first .. first + count of a tensor, whole rows of it where it has more than one.
ScoreInputs block_of(const ScoreInputs& tensor, std::int64_t first, std::int64_t count) {
  ScoreInputs block = tensor;
  block.weight = part(tensor.weight, first);
  block.scores = part(tensor.scores, first);
  block.numel = count;
  block.geometry =
      tensor.geometry.rows > 1 ? matrix(count / tensor.geometry.row_size(), tensor.geometry.row_size()) : flat(count);
  return block;
}

// f(block, first) for all elements in order, cut at places that differ from call to call.
template <class F>
void for_each_block(const Model& model, Generator& random, std::int64_t most, F&& f) {
  for (const ScoreInputs& tensor : model.inputs()) {
    const std::int64_t row = tensor.geometry.rows > 1 ? tensor.geometry.row_size() : 1;
    for (std::int64_t first = 0; first < tensor.numel;) {
      const std::int64_t count = std::min(tensor.numel - first, (1 + random.below(most / row + 1)) * row);
      f(block_of(tensor, first, count), first);
      first += count;
    }
  }
}

void select(BlockwisePrune& run, const Model& model, Generator& random, std::int64_t most) {
  const auto inputs = model.inputs();
  while (run.pass() != Pass::write) {
    if (run.pass() == Pass::sample) {
      for (std::int64_t position : run.sample_positions()) {
        std::size_t t = 0;
        while (position >= inputs[t].numel) position -= inputs[t++].numel;
        run.sample(block_of(inputs[t], position, std::min(inputs[t].numel - position, LineSample::width)));
      }
    } else {
      for_each_block(model, random, most,
                     [&](const ScoreInputs& block, std::int64_t first) { run.count(block, first); });
    }
    run.next();
  }
}

Bits nonzero(const Model& model) {
  Bits all;
  for (const Tensor& tensor : model.tensors) {
    all.emplace_back(static_cast<std::size_t>(bits::words(tensor.numel)), 0);
    for (std::int64_t i = 0; i < tensor.numel; ++i)
      if (load_as_float(tensor.weight.view().data, tensor.weight.view().dtype, i) != 0.0f)
        bits::set(all.back().data(), i);
  }
  return all;
}

// Runs it on a copy and compares with make_masks on the original.
void expect_equal(const Model& model, const Scorer& scorer, double sparsity, std::int64_t most, std::uint64_t seed,
                  int passes) {
  const auto inputs = model.inputs();
  FreshMasks masks(inputs);
  Workspace workspace;
  const PruneReport report =
      make_masks(inputs, scorer, {.sparsity = sparsity}, {.ties = Ties::exact}, masks.table(), workspace);
  Model expected = model, found = model;
  apply_masks(expected.inputs(), masks.read_only());

  Generator random(seed);
  BlockwisePrune run(model.numel(), {.sparsity = sparsity}, scorer);
  EXPECT_EQ(run.k(), report.k);
  select(run, found, random, most);
  EXPECT_LE(run.counting_passes(), passes);
  if (report.k > 0) {
    EXPECT_TRUE(same_bits(run.selection().value, *report.value));
    EXPECT_EQ(run.selection().below, report.count_below);
    EXPECT_EQ(run.selection().equal, report.count_equal);
  }
  for (int round = 0; round < 2; ++round) {  // a second time over the original, as a verification does
    Model again = model;
    std::int64_t pruned = 0;
    for_each_block(again, random, most, [&](const ScoreInputs& block, std::int64_t) { pruned += run.write(block); });
    run.finish();
    EXPECT_EQ(pruned, report.pruned);
    ASSERT_TRUE(again.intact());
    ASSERT_TRUE(same_masks(nonzero(expected), nonzero(again)));
    ASSERT_EQ(expected.bytes(), again.bytes());
  }
}

TEST(Blockwise, EqualsMakeMasksOnEveryKindOfValues) {
  std::uint64_t seed = 0;
  for (const NamedValues& named : named_values())
    for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
      const Model model = model_of(
          {named.make(70001, 1 + seed), named.make(0, 2), named.make(1, 3), named.make(65536, 4), named.make(129, 5)},
          dtype);
      for (const double sparsity : {0.0, 0.001, 0.3, 0.5, 0.97, 1.0}) {
        SCOPED_TRACE(std::string(named.name) + " " + name_of(dtype) + " " + std::to_string(sparsity));
        expect_equal(model, Magnitude{}, sparsity, 50000, ++seed, 2);
        expect_equal(model, Identity{}, sparsity, 50000, ++seed, 2);
      }
    }
}

TEST(Blockwise, EqualsMakeMasksOnMixedTypesAndTinyBlocks) {
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    const Model model = training_model({1, 0, 64, 300, 4097, 2}, {DType::f32, DType::bf16, DType::f16}, seed);
    for (const std::int64_t most : {1, 7, 64, 5000})
      expect_equal(model, Magnitude{}, 0.1 * static_cast<double>(seed % 11), most, seed, 2);
  }
}

TEST(Blockwise, EqualsMakeMasksWithNorms) {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    Model model = training_model({300 * 77, 5 * 64, 1}, {dtype}, 3);
    model.tensors[0].geometry = matrix(300, 77);
    model.tensors[1].geometry = matrix(5, 64);
    for (const double sparsity : {0.2, 0.5, 0.9})
      for (const std::int64_t most : {77, 1000, 100000}) expect_equal(model, Wanda{}, sparsity, most, 9, 2);
  }
}

TEST(Blockwise, ASampleSavesAPassAndDecidesNothing) {
  constexpr std::int64_t n = std::int64_t{1} << 20;
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16})
    for (const char* name : {"half_normal", "mostly_zeros", "three_values", "sorted", "student_t", "row_scale"}) {
      SCOPED_TRACE(std::string(name) + " " + name_of(dtype));
      const Model model = model_of({values_named(name, n, 1), values_named(name, 4099, 2)}, dtype);
      expect_equal(model, Magnitude{}, 0.5, 1 << 20, 3, name == std::string_view("row_scale") ? 2 : 1);
    }
  // A sample that lies: scores that were drawn are not those that are counted.
  const Model told = model_of({Values(n, 1.0f)}), counted = model_of({values_named("half_normal", n, 1)});
  for (const double sparsity : {0.1, 0.9}) {
    Generator random(1);
    BlockwisePrune run(n, {.sparsity = sparsity}, Magnitude{});
    for (const std::int64_t position : run.sample_positions())
      run.sample(block_of(told.inputs()[0], position, std::min(n - position, LineSample::width)));
    run.next();
    select(run, counted, random, 1 << 20);
    Workspace workspace;
    const PruneReport report = threshold(counted.inputs(), Magnitude{}, {.sparsity = sparsity}, {}, workspace);
    EXPECT_TRUE(same_bits(run.selection().value, *report.value));
    EXPECT_EQ(run.selection().below, report.count_below);
  }
}

TEST(Blockwise, NamesTheFirstNaNAndCountsAll) {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    Values first(3000, 1.0f), second(9000, 2.0f);
    second[4321] = second[8000] = second[8999] = not_a_number;
    const Model model = model_of({first, second}, dtype);
    Generator cuts(4);
    BlockwisePrune run(model.numel(), {.sparsity = 0.5}, Magnitude{});
    try {
      select(run, model, cuts, 1000);
      FAIL() << "the NaN were not noticed";
    } catch (const NonFiniteScoreError& error) {
      EXPECT_EQ(error.parameter(), "tensor1");
      EXPECT_EQ(error.first_index(), 4321);
      EXPECT_EQ(error.count(), 3);
    }
    NonFiniteWatch watch;
    Generator random(5);
    for_each_block(model, random, 1000,
                   [&](const ScoreInputs& block, std::int64_t at) { watch.look(block, at, Magnitude{}); });
    EXPECT_THROW(watch.raise(), NonFiniteScoreError);
  }
  NonFiniteWatch nothing;
  nothing.raise();
}

TEST(Blockwise, RefusesBlocksThatAreNotTheModel) {
  const Model model = model_of({values_named("half_normal", 1000, 1)}, DType::bf16);
  const ScoreInputs whole = model.inputs()[0];
  BlockwisePrune run(1000, {.sparsity = 0.5}, Magnitude{});
  EXPECT_THROW(run.write(whole), ArgumentError);
  EXPECT_THROW(run.sample(whole), ArgumentError);
  EXPECT_THROW(run.finish(), ArgumentError);
  EXPECT_THROW(run.next(), ShapeError);
  ScoreInputs masked = whole;
  const std::uint64_t word = 0;
  masked.mask = &word;
  EXPECT_THROW(run.count(masked, 0), ArgumentError);
  ScoreInputs huge = whole;
  huge.numel = (std::int64_t{1} << 31) + 1;
  EXPECT_THROW(run.count(huge, 0), ShapeError);
  ScoreInputs misshapen = whole;
  misshapen.geometry = matrix(3, 300);
  EXPECT_THROW(run.count(misshapen, 0), ShapeError);
  while (run.pass() == Pass::count) {
    run.count(whole, 0);
    run.next();
  }
  Model other = model_of({Values(1000, 3.0f)}, DType::bf16);
  run.write(other.inputs()[0]);
  EXPECT_THROW(run.finish(), Error);
  EXPECT_THROW(BlockwisePrune(10, {.sparsity = 1.5}, Magnitude{}), ArgumentError);
  EXPECT_THROW(BlockwisePrune(-1, {.sparsity = 0.5}, Magnitude{}), ShapeError);
  EXPECT_THROW(BlockwisePrune(10, {.sparsity = 0.5}, Random{}), ArgumentError);
}

}  // namespace
}  // namespace bittersweet::test
