// The optimizer's masked pass: every engine gives the bits of the reference engine, which is plain Adam in double up to
// f32 rounding; dead elements end as +0; the public function keeps its promises.
#include "bittersweet/optim.hpp"

#include "bittersweet/engine/reference_optim.hpp"
#include "bittersweet/error.hpp"
#include "bittersweet/prune.hpp"
#include "support/engines.hpp"
#include "support/optim.hpp"

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace bittersweet::test {
namespace {

constexpr DType f32 = DType::f32;

class OptimContract : public testing::TestWithParam<EngineCase> {
 protected:
  void SetUp() override {
    if (!GetParam().runs_here()) GTEST_SKIP() << "instruction set '" << GetParam().isa << "' does not run here";
  }
};
BITTERSWEET_FOR_EVERY(fast_engines, OptimContract);

struct Variant {
  std::string name;
  Model model;
};

std::vector<Variant> variants() {
  const std::vector<std::int64_t> sizes{1, 2, 0, 7, 8, 9, 15, 16, 17, 31, 63, 64, 65, 127, 200, 2049};
  std::vector<Variant> all;
  for (const auto& [weight, state] : storages) {
    const std::string stored = std::string(name_of(weight)) + " with " + name_of(state);
    all.push_back({stored, optim_model(sizes, weight, state, 1)});
    all.push_back({stored + ", masked, flush", optim_model(sizes, weight, state, 2, Placement::flush)});
    all.back().model.set_masks(0.4, 1);
    all.push_back({stored + ", chunks, mostly dead", optim_model({65537, 5, 70001}, weight, state, 3)});
    all.back().model.set_masks(0.97, 2);
    all.back().model.tensors[1].masked = false;
  }
  return all;
}

template <class E>
std::vector<std::uint8_t> run(E&& engine, const Model& model, const Case& c, bool trusted = false) {
  std::vector<ScoreInputs> inputs = model.inputs();
  if (!c.options.amsgrad)
    for (ScoreInputs& tensor : inputs) tensor.max_exp_avg_sq = {};
  const std::vector<AdamStep> steps(inputs.size(), make_adam_step(c.options, c.step, c.call.scale));
  const std::vector<std::uint8_t> trust(inputs.size(), trusted);
  std::vector<std::uint8_t> dirty(inputs.size(), 9);
  const auto draws = draws_of(c, inputs.size());
  AdamCall call = c.call;
  call.draws = draws;
  engine.step_adam(inputs, make_chunks(inputs), steps, call, trust, dirty);
  return dirty;
}

TEST_P(OptimContract, IsTheReferences) {
  for (const Variant& variant : variants())
    for (const Case& c : cases()) {
      Model expected = variant.model, found = variant.model;
      const auto wanted = run(ReferenceStepper{}, expected, c);
      EXPECT_EQ(wanted, run(CpuEngine(GetParam().isa, GetParam().threads), found, c)) << variant.name << ", " << c.name;
      expect_same(expected, found, variant.name + ", " + c.name);
    }
}

// What is dead may be anything before, and the gradient too.
TEST_P(OptimContract, DeadElementsEndAsZero) {
  for (const auto& [weight, state] : storages) {
    Model model = optim_model({3, 64, 200, 4099}, weight, state, 5, Placement::flush);
    model.set_masks(0.5, 9);
    Generator random(11);
    for (Tensor& tensor : model.tensors)
      for (std::int64_t i = 0; i < tensor.numel; ++i)
        if (!bits::get(tensor.mask.data(), i))
          for (Array* array :
               {&tensor.weight, &tensor.grad, &tensor.exp_avg, &tensor.exp_avg_sq, &tensor.max_exp_avg_sq})
            array->set(static_cast<std::size_t>(i),
                       std::vector<float>{not_a_number, infinity, -infinity, -0.0f, tiniest,
                                          random.any_float()}[static_cast<std::size_t>(random.below(6))]);
    Model live = model;
    for (Tensor& tensor : live.tensors) tensor.masked = false;
    for (const Case& c : cases()) {
      Model held = model, unmasked = live;
      run(CpuEngine(GetParam().isa, GetParam().threads), held, c);
      run(CpuEngine(GetParam().isa, GetParam().threads), unmasked, c);
      for (std::size_t t = 0; t < held.tensors.size(); ++t) {
        const Tensor &tensor = held.tensors[t], &other = unmasked.tensors[t];
        for (std::size_t i = 0; i < static_cast<std::size_t>(tensor.numel); ++i) {
          const bool alive = bits::get(tensor.mask.data(), static_cast<std::int64_t>(i));
          const auto expect = [&](const Array& array, const Array& free, bool lives) {
            EXPECT_TRUE(same_bits(array[i], lives ? free[i] : 0.0f)) << c.name << " at " << i << ": " << array[i];
          };
          expect(tensor.weight, other.weight, alive);
          expect(tensor.exp_avg, other.exp_avg, alive || c.call.weights_only);
          expect(tensor.exp_avg_sq, other.exp_avg_sq, alive || c.call.weights_only);
          if (c.options.amsgrad) expect(tensor.max_exp_avg_sq, other.max_exp_avg_sq, alive || c.call.weights_only);
          expect(tensor.grad, other.grad, true);
        }
      }
    }
  }
}

// Whole words, lines and rows that are dead and zero: unread, they change nothing, and are not told.
TEST_P(OptimContract, TrustedZerosMayBeLeftAlone) {
  for (const auto& [weight, state] : storages)
    for (const double dead : {0.0, 0.5, 0.99, 1.0}) {
      Model model = optim_model({64 * 40, 65536 + 64 * 9 + 5, 70}, weight, state, 6);
      model.set_masks(0.02, 3);
      Generator random(4);
      for (Tensor& tensor : model.tensors) {
        for (std::int64_t row = 0; row < tensor.numel; row += 192)
          if (random.uniform() < dead)
            for (std::int64_t i = row; i < std::min(row + 192, tensor.numel); ++i) bits::clear(tensor.mask.data(), i);
        for (std::int64_t i = 0; i < tensor.numel; ++i)
          if (!bits::get(tensor.mask.data(), i))
            for (Array* array : {&tensor.weight, &tensor.exp_avg, &tensor.exp_avg_sq, &tensor.max_exp_avg_sq})
              array->set(static_cast<std::size_t>(i), 0.0f);
      }
      for (const Case& c : cases()) {
        Model expected = model, found = model;
        run(ReferenceStepper{}, expected, c);
        const auto dirty = run(CpuEngine(GetParam().isa, GetParam().threads), found, c, true);
        expect_same(expected, found, std::string(c.name) + ", dead " + std::to_string(dead));
        EXPECT_EQ(dirty, std::vector<std::uint8_t>(model.tensors.size(), 0));
      }
    }
}

TEST_P(OptimContract, TellsWhichDeadWeightsWereNotZero) {
  for (const std::int64_t place : {0, 63, 64, 130, 199}) {
    Model model = optim_model({200, 200}, f32, f32, 7);
    model.set_masks(0.0, 1);
    for (Tensor& tensor : model.tensors) {
      bits::clear(tensor.mask.data(), place);
      tensor.weight.set(static_cast<std::size_t>(place), -0.0f);
    }
    model.tensors[1].weight.set(static_cast<std::size_t>(place), tiniest);
    const std::vector<std::uint8_t> wanted{0, 1};
    EXPECT_EQ(run(CpuEngine(GetParam().isa, GetParam().threads), model, cases()[0]), wanted) << place;
    EXPECT_EQ(run(CpuEngine(GetParam().isa, GetParam().threads), model, cases()[0]), std::vector<std::uint8_t>(2, 0));
  }
}

// The equations in double: an oracle of its own, that knows nothing of rounding.
TEST(Optim, IsAdam) {
  for (const bool decoupled : {true, false})
    for (const bool amsgrad : {true, false}) {
      const AdamOptions o{.lr = 1e-2,
                          .beta1 = 0.8,
                          .beta2 = 0.95,
                          .eps = 1e-6,
                          .weight_decay = 0.1,
                          .decoupled = decoupled,
                          .amsgrad = amsgrad};
      Model model = optim_model({301}, f32, f32, 8);
      const Model before = model;
      const std::vector<double> step{5};
      step_adam(model.inputs(), std::vector<AdamOptions>{o}, step);
      const Tensor &was = before.tensors[0], &is = model.tensors[0];
      for (std::size_t i = 0; i < 301; ++i) {
        double w = was.weight[i], g = was.grad[i];
        if (decoupled) w -= o.lr * o.weight_decay * w;
        if (!decoupled) g += o.weight_decay * w;
        const double m = o.beta1 * was.exp_avg[i] + (1 - o.beta1) * g;
        const double v = o.beta2 * was.exp_avg_sq[i] + (1 - o.beta2) * g * g;
        const double x = amsgrad ? std::max<double>(v, was.max_exp_avg_sq[i]) : v;
        const double change =
            o.lr * (m / (1 - std::pow(o.beta1, 5))) / (std::sqrt(x / (1 - std::pow(o.beta2, 5))) + o.eps);
        EXPECT_NEAR(is.exp_avg[i], m, 1e-6 * std::fabs(m) + 1e-9);
        EXPECT_NEAR(is.exp_avg_sq[i], v, 1e-5 * v + 1e-20);
        EXPECT_NEAR(is.weight[i], w - change, 1e-5 * std::fabs(change) + 1e-7);
        EXPECT_TRUE(amsgrad || same_bits(is.max_exp_avg_sq[i], was.max_exp_avg_sq[i]));
      }
    }
}

#if defined(__SSE__)
// The mode of the caller is the mode of the pass, on every thread.
TEST(Optim, FlushesDenormalsWhereTheCallerDoes) {
  const auto step = [](unsigned mode) {
    Model model = model_of({Values(300001, 0.5f)});
    Tensor& tensor = model.tensors[0];
    for (Array* array : {&tensor.exp_avg, &tensor.exp_avg_sq}) *array = Array(Values(300001, 0.0f), f32);
    tensor.grad = Array(Values(300001, 3e-20f), f32);
    const std::vector<double> first{1};
    const unsigned saved = _mm_getcsr();
    _mm_setcsr(mode);
    step_adam(model.inputs(), std::vector<AdamOptions>(1), first);
    _mm_setcsr(saved);
    return values_of(model.tensors[0].exp_avg_sq);
  };
  set_num_threads(3);
  const Values kept = step(0x1f80), flushed = step(0x1f80 | 0x8040);
  set_num_threads(0);
  EXPECT_TRUE(std::ranges::all_of(kept, [](float v) { return v > 0.0f && v < 1e-38f; }));
  EXPECT_TRUE(std::ranges::all_of(flushed, [](float v) { return v == 0.0f; }));
}
#endif

TEST(Optim, RefusesBeforeAnythingIsWritten) {
  const Model model = optim_model({5, 9}, f32, f32, 12);
  const auto before = model.bytes();
  const std::vector<AdamOptions> options(2);
  const std::vector<double> steps(2, 1.0);
  const auto with = [&](auto change) {
    std::vector<ScoreInputs> inputs = model.inputs();
    change(inputs[1]);
    return inputs;
  };
  EXPECT_THROW(step_adam(with([](ScoreInputs& t) { t.grad = {}; }), options, steps), MissingStateError);
  EXPECT_THROW(step_adam(with([](ScoreInputs& t) { t.exp_avg.data = nullptr; }), options, steps), MissingStateError);
  EXPECT_THROW(step_adam(with([](ScoreInputs& t) { t.numel = -1; }), options, steps), ShapeError);
  EXPECT_THROW(step_adam(with([](ScoreInputs& t) { t.exp_avg_sq.dtype = DType::bf16; }), options, steps), DTypeError);
  EXPECT_THROW(step_adam(with([](ScoreInputs& t) { t.weight.dtype = DType::f16; }), options, steps), DTypeError);
  EXPECT_THROW(
      step_adam(with([](ScoreInputs& t) { t.weight.data = static_cast<char*>(t.weight.data) + 1; }), options, steps),
      LayoutError);
  std::vector<AdamOptions> amsgrad(2, {.amsgrad = true});
  EXPECT_THROW(step_adam(with([](ScoreInputs& t) { t.max_exp_avg_sq = {}; }), amsgrad, steps), MissingStateError);
  EXPECT_THROW(step_adam(model.inputs(), std::vector<AdamOptions>(1), steps), ShapeError);
  EXPECT_THROW(step_adam(model.inputs(), options, std::vector<double>{1.0, 0.0}), ArgumentError);
  const std::vector<std::uint8_t> few(1);
  EXPECT_THROW(step_adam(model.inputs(), options, steps, {}, few), ShapeError);
  for (const AdamOptions& bad :
       {AdamOptions{.lr = -1}, AdamOptions{.beta1 = 1}, AdamOptions{.beta2 = -0.1}, AdamOptions{.eps = -1e-8},
        AdamOptions{.weight_decay = -1}, AdamOptions{.lr = std::nan("")}})
    EXPECT_THROW(step_adam(model.inputs(), std::vector<AdamOptions>{{}, bad}, steps), ArgumentError);
  EXPECT_THROW(step_adam(model.inputs(), options, steps, {.rounding = {.lanes_f32 = 0}}), ArgumentError);
  std::vector<std::optional<RoundingKey>> draws(1);
  EXPECT_THROW(step_adam(model.inputs(), options, steps, {.draws = draws}), ShapeError);
  draws = {RoundingKey{}, RoundingKey{.stream = 1u << 22}};
  EXPECT_THROW(step_adam(model.inputs(), options, steps, {.draws = draws}), ArgumentError);
  EXPECT_EQ(model.bytes(), before);
  const Model halves = optim_model({5, 9}, DType::f16, f32, 12);
  const auto untouched = halves.bytes();
  draws = {std::nullopt, RoundingKey{}};
  EXPECT_THROW(step_adam(halves.inputs(), options, steps, {.draws = draws}), DTypeError);
  EXPECT_EQ(halves.bytes(), untouched);
}

// What is drawn is one of the neighbours of what f32 arrays would hold, and over many steps their mean.
TEST(Optim, DrawsWithoutBias) {
  constexpr std::int64_t numel = 1003;
  const Model start = optim_model({numel}, DType::bf16, DType::bf16, 21);
  Model exact = start;
  for (Array* array : {&exact.tensors[0].weight, &exact.tensors[0].grad, &exact.tensors[0].exp_avg,
                       &exact.tensors[0].exp_avg_sq, &exact.tensors[0].max_exp_avg_sq})
    *array = Array(values_of(*array), f32);
  const std::vector<AdamOptions> options{{.lr = 1e-3, .weight_decay = 0.1}};
  const std::vector<double> step{3};
  step_adam(exact.inputs(), options, step, {.rounding = {.lanes_f32 = 1, .lanes_16bit = 1}});
  std::vector<double> sums(3, 0.0);
  double weighed = 0;
  constexpr int rounds = 400;
  for (std::uint32_t round = 0; round < rounds; ++round) {
    Model drawn = start;
    const std::vector<std::optional<RoundingKey>> draws{RoundingKey{5, round, 0}};
    step_adam(drawn.inputs(), options, step, {.rounding = {.lanes_f32 = 1, .lanes_16bit = 1}, .draws = draws});
    const Tensor &found = drawn.tensors[0], &wanted = exact.tensors[0];
    for (std::size_t i = 0; i < numel; ++i)
      for (const auto& [a, b, sum] :
           {std::tuple{&found.weight, &wanted.weight, &sums[0]}, std::tuple{&found.exp_avg, &wanted.exp_avg, &sums[1]},
            std::tuple{&found.exp_avg_sq, &wanted.exp_avg_sq, &sums[2]}}) {
        const float x = (*b)[i];
        const float low = std::bit_cast<float>(std::bit_cast<std::uint32_t>(x) & 0xffff0000u);
        const float high = std::bit_cast<float>((std::bit_cast<std::uint32_t>(x) & 0xffff0000u) + 0x10000u);
        const float y = (*a)[i];
        ASSERT_TRUE(y == low || (y == high && x != low)) << x << " became " << y;
        *sum += (static_cast<double>(y) - x) / (static_cast<double>(high) - low);
      }
    weighed += numel;
  }
  for (const double sum : sums) EXPECT_LT(std::fabs(sum / weighed), 5 * 0.5 / std::sqrt(weighed));
}

}  // namespace
}  // namespace bittersweet::test
