// Several ranks in one process: a model is cut into boxes, every rank prunes its own, and the test adds the vectors.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>

#include "bittersweet/sharded/flow.hpp"
#include "support/compare.hpp"
#include "support/inputs.hpp"
#include "support/orders.hpp"

namespace bittersweet::test {

using Shape = std::vector<std::int64_t>;

inline std::int64_t numel_of(const Shape& shape) {
  std::int64_t n = 1;
  for (const std::int64_t size : shape) n *= size;
  return n;
}

// ---- how a tensor is cut ----

struct Cut {
  std::string name;
  // f(shape, ranks, which tensor): boxes of all ranks.
  std::function<std::vector<Box>(const Shape&, std::int64_t, std::int64_t)> make;
};

// The part-th of `parts` pieces of n as torch.chunk cuts them: (begin, size), perhaps without elements.
inline std::pair<std::int64_t, std::int64_t> chunk_of(std::int64_t n, std::int64_t parts, std::int64_t part) {
  const std::int64_t size = (n + parts - 1) / parts, begin = std::min(n, size * part);
  return {begin, std::min(size, n - begin)};
}

inline Box whole_box(const Shape& shape, std::int64_t tensor, std::int64_t rank) {
  Box box{.tensor = tensor, .rank = rank};
  std::copy(shape.begin(), shape.end(), box.size.begin());
  return box;
}

inline Box part_of(Box box, std::size_t axis, std::int64_t parts, std::int64_t part) {
  const auto [begin, size] = chunk_of(box.size[axis], parts, part);
  box.offset[axis] += begin;
  box.size[axis] = size;
  return box;
}

// Random boxes that cover the tensor, split again and again; ranks hold any number of them, some twice.
inline std::vector<Box> scattered(const Shape& shape, std::int64_t ranks, std::int64_t tensor) {
  Generator random(static_cast<std::uint64_t>(tensor * 97 + ranks * 1009 + numel_of(shape)));
  std::vector<Box> pieces{whole_box(shape, tensor, 0)};
  for (int split = 0; split < 6; ++split) {
    const auto at = static_cast<std::size_t>(random.below(static_cast<std::int64_t>(pieces.size())));
    const auto axis = static_cast<std::size_t>(random.below(static_cast<std::int64_t>(shape.size())));
    Box& box = pieces[at];
    if (box.size[axis] < 2) continue;
    Box rest = box;
    box.size[axis] = 1 + random.below(box.size[axis] - 1);
    rest.offset[axis] += box.size[axis];
    rest.size[axis] -= box.size[axis];
    pieces.push_back(rest);
  }
  std::vector<Box> boxes;
  for (Box& box : pieces) {
    box.rank = random.below(ranks);
    boxes.push_back(box);
    if (ranks > 1 && random.below(3) == 0) {
      box.rank = (box.rank + 1) % ranks;
      boxes.push_back(box);
    }
  }
  return boxes;
}

inline const std::vector<Cut>& cuts() {
  static const auto each = [](auto f) {
    return [f](const Shape& shape, std::int64_t ranks, std::int64_t tensor) {
      std::vector<Box> boxes;
      for (std::int64_t rank = 0; rank < ranks; ++rank)
        boxes.push_back(f(whole_box(shape, tensor, rank), shape, ranks));
      return boxes;
    };
  };
  static const std::vector<Cut> all{
      {"shard0", each([](Box box, const Shape&, std::int64_t ranks) { return part_of(box, 0, ranks, box.rank); })},
      {"tp_and_fsdp",  // tensor parallel first, then each part again: intervals in an order that is not the ranks'
       each([](Box box, const Shape&, std::int64_t ranks) {
         const std::int64_t tp = ranks % 2 == 0 ? 2 : 1;
         return part_of(part_of(box, 0, tp, box.rank % tp), 0, ranks / tp, box.rank / tp);
       })},
      {"grid", each([](Box box, const Shape& shape, std::int64_t ranks) {
         const std::int64_t tp = ranks % 2 == 0 ? 2 : 1;
         box = part_of(box, 0, ranks / tp, box.rank / tp);
         return shape.size() < 2 ? part_of(box, 0, tp, box.rank % tp) : part_of(box, 1, tp, box.rank % tp);
       })},
      {"last_axis", each([](Box box, const Shape& shape, std::int64_t ranks) {
         return part_of(box, shape.size() - 1, ranks, box.rank);
       })},
      {"hsdp", each([](Box box, const Shape&, std::int64_t ranks) {
         const std::int64_t copies = ranks % 2 == 0 ? 2 : 1;
         return part_of(box, 0, ranks / copies, box.rank % (ranks / copies));
       })},
      {"replicas", each([](Box box, const Shape&, std::int64_t) { return box; })},
      {"one_holder", [](const Shape& shape, std::int64_t ranks,
                        std::int64_t tensor) { return std::vector<Box>{whole_box(shape, tensor, tensor % ranks)}; }},
      {"scattered", scattered},
  };
  return all;
}

// ---- a model over ranks ----

// Rows as of a Linear or a convolution.
inline Geometry rows_of(const Shape& shape) { return detail::rows_of_shape(shape, numel_of(shape)); }

inline Tensor cut_out(const Tensor& tensor, const ShardMap& map, const ShardMap::Part& part, const Geometry& geometry) {
  Tensor local = tensor;
  local.numel = part.numel;
  local.geometry = geometry;
  std::vector<std::size_t> index;
  for (std::int64_t i = 0; i < part.numel; ++i) index.push_back(static_cast<std::size_t>(map.global_index(part, i)));
  for (Array* array : {&local.weight, &local.exp_avg, &local.exp_avg_sq, &local.grad, &local.scores}) {
    if (array->dtype() == DType::none) continue;
    Values values;
    for (const std::size_t i : index) values.push_back((*array)[i]);
    *array = Array(values, array->dtype());
  }
  if (tensor.input_norm.dtype() != DType::none && map.shape(static_cast<std::size_t>(part.tensor)).size() > 1) {
    Values norms;
    for (std::int64_t c = 0; c < part.size[1]; ++c)
      norms.push_back(tensor.input_norm[static_cast<std::size_t>(part.offset[1] + c)]);
    local.input_norm = Array(norms, DType::f32);
  }
  if (!tensor.masked) return local;
  local.mask = Words(part.numel);
  local.mask.fill(0);
  for (std::size_t i = 0; i < index.size(); ++i)
    if (bits::get(tensor.mask.data(), static_cast<std::int64_t>(index[i])))
      bits::set(local.mask.data(), static_cast<std::int64_t>(i));
  return local;
}

struct World {
  Model whole;
  std::vector<Shape> shapes;
  std::vector<std::string> names;
  std::unique_ptr<ShardMap> map;
  std::vector<Model> local;                              // of every rank
  std::vector<std::vector<std::int64_t>> of;             // which tensor each is a part of
  std::vector<std::vector<const ShardMap::Part*>> part;  // and which part

  // `ordered`: local tensors lie in other orders of memory.
  World(Model model, std::vector<Shape> sizes, const std::vector<Box>& boxes, std::int64_t ranks,
        bool in_orders = false)
      : whole(std::move(model)), shapes(std::move(sizes)) {
    for (std::size_t t = 0; t < shapes.size(); ++t) {
      whole.tensors[t].geometry = rows_of(shapes[t]);
      names.push_back(whole.tensors[t].name);
    }
    map = std::make_unique<ShardMap>(shapes, boxes, ranks);
    local.resize(static_cast<std::size_t>(ranks));
    of.resize(local.size());
    part.resize(local.size());
    for (std::size_t r = 0; r < local.size(); ++r)
      for (std::size_t t = 0; t < shapes.size(); ++t)
        for (const std::size_t p : map->held(static_cast<std::int64_t>(r), t)) {
          const ShardMap::Part& piece = map->parts()[p];
          const Shape size(piece.size.begin(), piece.size.begin() + static_cast<std::ptrdiff_t>(shapes[t].size()));
          Tensor tensor = cut_out(whole.tensors[t], *map, piece, rows_of(size));
          if (in_orders) tensor = ordered(tensor, some_order(tensor.numel, 1 + static_cast<std::int64_t>(r % 2)));
          local[r].tensors.push_back(std::move(tensor));
          of[r].push_back(static_cast<std::int64_t>(t));
          part[r].push_back(&piece);
        }
  }

  std::vector<ScoreInputs> whole_inputs() const {
    std::vector<ScoreInputs> all = whole.inputs();
    for (std::size_t t = 0; t < all.size(); ++t)
      for (const std::int64_t size : shapes[t]) all[t].dimension_sum += size;
    return all;
  }
};

inline World cut_model(Model model, std::vector<Shape> shapes, const Cut& cut, std::int64_t ranks,
                       bool in_orders = false) {
  std::vector<Box> boxes;
  for (std::size_t t = 0; t < shapes.size(); ++t)
    if (numel_of(shapes[t]) > 0)
      for (const Box& box : cut.make(shapes[t], ranks, static_cast<std::int64_t>(t))) boxes.push_back(box);
  return World(std::move(model), std::move(shapes), boxes, ranks, in_orders);
}

// ---- a run ----

struct Outcome {  // of one rank
  PruneReport report{};
  std::int64_t rounds = 0, bytes = 0;
  std::exception_ptr error{};
  std::int64_t error_round = 0;
};

struct RunSettings {
  std::size_t bins = std::size_t{1} << 17;
  bool threshold_only = false;
  std::function<bool(std::int64_t rank, std::int64_t round)> fault{};
  std::function<PruneOptions(std::int64_t rank, PruneOptions)> options_of{};
  std::function<std::string(std::int64_t rank)> agreement{};
  std::vector<std::vector<std::int32_t>>* sums = nullptr;  // of every round, if asked for
};

struct Result {
  std::vector<Outcome> ranks;
  std::vector<std::unique_ptr<FreshMasks>> masks;
  std::vector<std::vector<ScoreInputs>> inputs;
};

// All ranks until all have ended: in one call, with vectors of one length.
template <class E>
Result run_ranks(E& engine, const World& world, const Scorer& scorer, const Budget& budget, const PruneOptions& options,
                 const RunSettings& settings = {}) {
  const std::size_t ranks = world.local.size();
  Result result;
  result.ranks.resize(ranks);
  std::vector<Workspace> workspaces(ranks);
  std::vector<std::unique_ptr<flow::Sharded<E>>> runs;
  for (std::size_t r = 0; r < ranks; ++r) result.inputs.push_back(world.local[r].inputs());
  for (std::size_t r = 0; r < ranks; ++r) {
    const auto rank = static_cast<std::int64_t>(r);
    result.masks.push_back(std::make_unique<FreshMasks>(result.inputs[r]));
    runs.push_back(std::make_unique<flow::Sharded<E>>(
        engine,
        flow::ShardedInputs{.map = world.map.get(),
                            .rank = rank,
                            .tensors = result.inputs[r],
                            .whole = world.of[r],
                            .names = world.names,
                            .agreement = settings.agreement ? settings.agreement(rank) : "",
                            .masks = result.masks[r]->table(),
                            .threshold_only = settings.threshold_only,
                            .bins = settings.bins},
        scorer, budget, settings.options_of ? settings.options_of(rank, options) : options, workspaces[r]));
  }
  for (std::int64_t round = 1;; ++round) {
    std::vector<std::span<std::int32_t>> vectors(ranks);
    std::size_t ended = 0;
    for (std::size_t r = 0; r < ranks; ++r) {
      Outcome& outcome = result.ranks[r];
      try {
        vectors[r] = runs[r]->next(settings.fault && settings.fault(static_cast<std::int64_t>(r), round));
      } catch (...) {
        outcome.error = std::current_exception();
        outcome.error_round = round;
      }
      ended += vectors[r].empty();
      EXPECT_EQ(vectors[r].size(), vectors[0].size()) << "rank " << r << " sent a vector of another length";
    }
    EXPECT_TRUE(ended == 0 || ended == ranks) << ended << " of " << ranks << " ranks ended in round " << round;
    if (ended > 0) break;
    if (round > 60) {
      ADD_FAILURE() << "no end after " << round << " rounds";
      break;
    }
    std::vector<std::int32_t> sum(vectors[0].size());
    for (const auto& vector : vectors)
      for (std::size_t i = 0; i < sum.size(); ++i)
        sum[i] = static_cast<std::int32_t>(static_cast<std::uint32_t>(sum[i]) + static_cast<std::uint32_t>(vector[i]));
    for (const auto& vector : vectors) std::copy(sum.begin(), sum.end(), vector.begin());
    if (settings.sums) settings.sums->push_back(std::move(sum));
  }
  for (std::size_t r = 0; r < ranks; ++r) {
    result.ranks[r].report = runs[r]->report();
    result.ranks[r].rounds = runs[r]->rounds();
    result.ranks[r].bytes = runs[r]->bytes();
  }
  return result;
}

// What the ranks wrote, put together; copies must be the same.
inline Bits gather_masks(const World& world, const Result& result) {
  Bits all, known;
  for (const Tensor& tensor : world.whole.tensors) {
    all.emplace_back(static_cast<std::size_t>(bits::words(tensor.numel)), 0);
    known.push_back(all.back());
  }
  for (std::size_t r = 0; r < world.local.size(); ++r) {
    const Bits own = logical_bits(result.masks[r]->bits(), result.inputs[r]);
    for (std::size_t j = 0; j < own.size(); ++j) {
      const auto t = static_cast<std::size_t>(world.of[r][j]);
      for (std::int64_t i = 0; i < world.part[r][j]->numel; ++i) {
        const std::int64_t at = world.map->global_index(*world.part[r][j], i);
        const bool keep = bits::get(own[j].data(), i);
        if (bits::get(known[t].data(), at) && bits::get(all[t].data(), at) != keep)
          ADD_FAILURE() << "copies of tensor " << t << " differ at " << at;
        bits::set(known[t].data(), at);
        if (keep) bits::set(all[t].data(), at);
      }
    }
  }
  return all;
}

inline void expect_same_report(const PruneReport& expected, const PruneReport& actual) {
  EXPECT_EQ(actual.value.has_value(), expected.value.has_value());
  if (expected.value && actual.value) {
    EXPECT_TRUE(same_bits(*expected.value, *actual.value)) << show(*actual.value) << ", not " << show(*expected.value);
  }
  EXPECT_EQ(actual.k, expected.k);
  EXPECT_EQ(actual.total, expected.total);
  EXPECT_EQ(actual.pruned, expected.pruned);
  EXPECT_EQ(actual.dead, expected.dead);
  EXPECT_EQ(actual.count_below, expected.count_below);
  EXPECT_EQ(actual.count_equal, expected.count_equal);
  EXPECT_EQ(actual.nonfinite, expected.nonfinite);
  EXPECT_EQ(actual.tensor_pruned, expected.tensor_pruned);
  EXPECT_EQ(actual.tensor_threshold, expected.tensor_threshold);
  EXPECT_EQ(actual.churn, expected.churn);
  if (actual.empty_rows >= 0) {
    EXPECT_EQ(actual.empty_rows, expected.empty_rows);
  }
  EXPECT_EQ(actual.v_below_eps, expected.v_below_eps);
  EXPECT_EQ(actual.v_zero, expected.v_zero);
}

// The ranks' outcome against flow::make_masks, or flow::threshold, on the whole model: the same error, or the same
// report and bits on all of them. Returns the result, for more questions.
template <class E>
Result expect_as_whole(E& engine, const World& world, const Scorer& scorer, const Budget& budget,
                       const PruneOptions& options, const RunSettings& settings = {}) {
  ReferenceEngine reference;
  Workspace workspace;
  const std::vector<ScoreInputs> inputs = world.whole_inputs();
  const FreshMasks masks(inputs);
  PruneReport expected;
  std::optional<NonFiniteScoreError> error;
  try {
    expected = settings.threshold_only
                   ? flow::threshold(reference, inputs, scorer, budget, options, workspace)
                   : flow::make_masks(reference, inputs, scorer, budget, options, masks.table(), workspace);
  } catch (const NonFiniteScoreError& e) {
    error = e;
  }
  Result result = run_ranks(engine, world, scorer, budget, options, settings);
  for (const Outcome& outcome : result.ranks) {
    EXPECT_EQ(outcome.error != nullptr, error.has_value());
    if (!outcome.error) continue;
    try {
      std::rethrow_exception(outcome.error);
    } catch (const NonFiniteScoreError& e) {
      EXPECT_EQ(std::string(e.what()), error ? error->what() : "nothing");
    } catch (const std::exception& e) {
      ADD_FAILURE() << "raised: " << e.what();
    }
  }
  if (error || result.ranks[0].error) return result;
  for (const Outcome& outcome : result.ranks) expect_same_report(expected, outcome.report);
  if (!settings.threshold_only) {
    EXPECT_TRUE(same_masks(masks.bits(), gather_masks(world, result)));
  }
  return result;
}

}  // namespace bittersweet::test
