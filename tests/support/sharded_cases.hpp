// Seeded cases of decisions over ranks, for any engine.
#pragma once

#include "support/worlds.hpp"

namespace bittersweet::test {

inline Shape random_shape(Generator& random, std::int64_t most) {
  const auto axes = 1 + random.below(3);
  Shape shape;
  for (std::int64_t a = 0; a < axes; ++a) {
    const std::int64_t room = most / std::max<std::int64_t>(numel_of(shape), 1);
    shape.push_back(random.below(6) == 0 ? 1 : 1 + random.below(std::max<std::int64_t>(std::min(room, most / 4), 1)));
  }
  if (random.below(12) == 0) shape.back() = 0;
  return shape;
}

// Ranges that allow the budget: around the counts that chance alone would take.
inline std::vector<CountRange> random_ranges(const World& world, double sparsity, bool regrow, Generator& random) {
  ReferenceEngine reference;
  Workspace workspace;
  const std::vector<ScoreInputs> inputs = world.whole_inputs();
  const FreshMasks masks(inputs);
  const PruneReport by_chance = flow::make_masks(reference, inputs, Random{.seed = 5}, {.sparsity = sparsity},
                                                 {.regrow = regrow}, masks.table(), workspace);
  std::vector<CountRange> ranges;
  for (std::size_t t = 0; t < inputs.size(); ++t) {
    const std::int64_t count = by_chance.tensor_pruned[t], above = inputs[t].numel - count;
    ranges.push_back({count - random.below(count + 1), count + random.below(above + 1)});
    if (random.below(4) == 0) ranges.back() = {count, count};
    if (random.below(4) == 0) ranges.back().least = 0;
    if (random.below(4) == 0) ranges.back().most = inputs[t].numel;
  }
  return ranges;
}

// One seeded case: shapes, cut, values, masks, rules, budget, brackets and sizes of vectors.
template <class E>
void try_case(E& engine, std::uint64_t seed, std::int64_t most) {
  Generator random(seed);
  SCOPED_TRACE("seed " + std::to_string(seed));
  const std::int64_t ranks = 1 + random.below(8);
  std::vector<Shape> shapes;
  std::vector<Values> values;
  const char* const kind = kinds[random.below(std::size(kinds))];
  for (std::int64_t t = 0, tensors = 1 + random.below(5); t < tensors; ++t) {
    shapes.push_back(random_shape(random, most));
    values.push_back(values_of(kind, numel_of(shapes.back()), seed + static_cast<std::uint64_t>(t)));
    if (random.below(12) == 0)
      for (float& x : values.back())
        if (random.below(40) == 0) x = not_a_number;
  }
  Model model = model_of(values, random.below(4) == 0 ? DType::bf16 : DType::f32);
  const double dead = std::vector{0.0, 0.0, 0.3, 0.9}[static_cast<std::size_t>(random.below(4))];
  if (dead > 0) model.set_masks(dead, seed);
  for (Tensor& tensor : model.tensors) {
    tensor.exp_avg_sq = Array(second_moments(tensor.numel, seed + 5), DType::f32);
    if (random.below(6) == 0) tensor.modifier = static_cast<float>(random.below(4)) - 1.0f;
  }
  const Cut& cut = cuts()[static_cast<std::size_t>(random.below(static_cast<std::int64_t>(cuts().size())))];
  const World world = cut_model(std::move(model), shapes, cut, ranks, random.below(4) == 0);
  bool boxed = false;
  for (std::size_t t = 0; t < shapes.size(); ++t) boxed |= world.map->boxed(t);
  const std::vector<Scorer> scorers{Magnitude{}, Identity{}, AdamVariance{}, Random{.seed = seed}};
  const Scorer scorer = scorers[static_cast<std::size_t>(random.below(boxed ? 3 : 4))];

  PruneOptions options{.seed = seed};
  options.ties = std::vector<std::optional<Ties>>{std::nullopt, Ties::exact, Ties::at_or_below,
                                                  Ties::below}[static_cast<std::size_t>(random.below(4))];
  options.nonfinite = random.below(2) ? NonFinite::keep : NonFinite::error;
  options.regrow = random.below(4) == 0;
  Exact exact;
  if (random.below(3) > 0) {
    const auto end = [&] {
      const Values& some = values[static_cast<std::size_t>(random.below(static_cast<std::int64_t>(values.size())))];
      if (some.empty() || random.below(4) == 0)
        return Values{-infinity, 0.0f, tiniest, infinity}[static_cast<std::size_t>(random.below(4))];
      return std::fabs(some[static_cast<std::size_t>(random.below(static_cast<std::int64_t>(some.size())))]);
    };
    exact.guess = Bracket{end(), end(), random.below(2) == 0};
    if (random.below(4) > 0 && exact.guess->low > exact.guess->high) std::swap(exact.guess->low, exact.guess->high);
  }
  if (random.below(4) == 0) exact.capacity = 10;
  options.selector = exact;
  if (random.below(4) == 0) options.scope = {Scope::tensor};
  if (options.scope.kind == Scope::tensor && random.below(2))
    options.distribution = random.below(2) ? Distribution::erk : Distribution::layer_adaptive;
  if (options.scope.kind == Scope::global && random.below(4) == 0) options.max_tensor_sparsity = random.uniform();
  RunSettings settings{
      .bins = std::vector<std::size_t>{64, 257, std::size_t{1} << 17}[static_cast<std::size_t>(random.below(3))],
      .threshold_only = random.below(8) == 0};
  const double s = std::vector{0.0, 0.1, 0.5, 0.9, 1.0, random.uniform()}[static_cast<std::size_t>(random.below(6))];
  SCOPED_TRACE(std::string(kind) + " over " + std::to_string(ranks) + " ranks, " + cut.name + ", " +
               std::string(info_of(scorer).name) + ", sparsity " + std::to_string(s) + ", bins " +
               std::to_string(settings.bins) + ", scope " + std::to_string(options.scope.kind));
  if (settings.threshold_only) {
    options.scope = {};
    options.distribution.reset();
    options.max_tensor_sparsity.reset();
  }
  const bool exact_counts = options.ties.value_or(Ties::exact) == Ties::exact && !settings.threshold_only;
  if (options.scope.kind == Scope::global && exact_counts && !options.max_tensor_sparsity && random.below(2) == 0)
    options.tensor_sparsity = random_ranges(world, s, options.regrow, random);
  expect_as_whole(engine, world, scorer, {.sparsity = s}, options, settings);
}

}  // namespace bittersweet::test
