// The CUDA engine against the CPU engine, bit by bit, on a device: thresholds, counts, masks, zeroed arrays.
//   scorers    every scorer, dtypes, sizes around the widths, several tensors, misaligned bases, masks with dead bits
//   bitter8    its reciprocal roots are approximate there: how far scores and masks are from the CPU's, and from
//   bitter7 values     arrays that selections find hard, by `identity` and `magnitude` gates      what makes a step
//   void: a NaN, a budget out of range; then nothing has been written graph      a captured step, replayed with other
//   budgets, against the same steps called one by one large      one tensor of more than 2^31 elements
//   adam       the optimizer's step: arrays, counts and flags after three of them
// `equal_bits --dry` runs the CPU side of every case and touches no device.
#include <cuda_runtime_api.h>

#include <cmath>
#include <cstring>
#include <map>
#include <optional>

#include "adam_bits.hpp"
#include "bittersweet/bittersweet.hpp"
#include "bittersweet/cuda.hpp"
#include "records.hpp"
#include "side_by_side.hpp"
#include "support/inputs.hpp"

namespace {

using namespace bittersweet;
using namespace bittersweet::bench;

std::string described(const Scorer& scorer) { return std::string(info_of(scorer).name); }

// Some parameters share a scorer's name; approximate on the device is bitter8 alone.
bool is_exact(const Scorer& scorer) { return !std::holds_alternative<Bitter8>(scorer); }

std::int64_t rank(double sparsity, std::int64_t n) {
  return static_cast<std::int64_t>(std::floor(sparsity * static_cast<double>(n) + 0.5));
}

// Compares one step. `model` is changed on both sides.
std::string compare(Records& records, test::Model& model, const Scorer& scorer, double sparsity, bool misaligned,
                    NonFinite nonfinite = NonFinite::error) {
  constexpr std::uint32_t zero = roles::weight | roles::exp_avg;
  const std::vector<ScoreInputs> inputs = model.inputs();
  const std::int64_t k = rank(sparsity, model.numel());
  std::optional<Copy> copy;
  if (!records.dry()) copy.emplace(inputs, misaligned);
  const OnHost expected = prune_on_host(inputs, scorer, k, {.nonfinite = nonfinite, .seed = 7}, zero);
  if (!copy) return expected.report.pruned == k ? "" : "the CPU pruned another number";
  Stepper stepper(*copy, scorer, {.nonfinite = nonfinite, .seed = 7, .zero = zero});
  stepper.budget(k);
  stepper.enqueue();
  return difference(inputs, expected, *copy, stepper.outcome());
}

using Sizes = std::vector<std::int64_t>;
struct Shape {
  const char* name;
  Sizes sizes;
};
const std::vector<Shape> shapes{{"1", {1}},
                                {"31", {31}},
                                {"33", {33}},
                                {"1023", {1023}},
                                {"1025", {1025}},
                                {"65537", {65537}},
                                {"several", {31, 0, 4096, 1, 20'003, 1025, 100'001}}};

void scorers(Records& records, const Arguments&) {
  const std::vector<std::pair<std::string, std::vector<DType>>> stored{
      {"f32", {DType::f32}},
      {"bf16", {DType::bf16}},
      {"f16", {DType::f16}},
      {"bf16 weights, f32 state", {DType::bf16, DType::f32, DType::f32, DType::f32, DType::f32, DType::f32}},
      {"mixed", {DType::f32, DType::bf16, DType::f16, DType::bf16}}};
  const std::vector<Scorer> all = test::all_scorers();
  std::vector<std::string> found(all.size());
  std::vector<std::int64_t> compared(all.size());
  std::int64_t cases = 0;
  for (const auto& [dtypes_name, dtypes] : stored)
    for (const Shape& shape : shapes) {
      test::Model model = test::training_model(shape.sizes, dtypes, 3 + static_cast<std::uint64_t>(++cases));
      if (cases % 3 == 2) model.set_masks(0.3, 5);
      for (std::size_t s = 0; s < all.size(); ++s)
        for (const bool misaligned : {false, true}) {
          if (!is_exact(all[s]) || !found[s].empty()) continue;
          std::string differs;
          try {
            test::Model copy = model;
            // Half precision overflows to NaN in some formulas; that must not end the comparison.
            differs = compare(records, copy, all[s], shape.sizes.size() > 1 ? 0.37 : 0.5, misaligned, NonFinite::keep);
          } catch (const std::exception& error) {
            differs = error.what();
          }
          if (!differs.empty())
            found[s] = dtypes_name + ", " + shape.name + (misaligned ? ", misaligned: " : ": ") + differs;
          ++compared[s];
        }
    }
  for (std::size_t s = 0; s < all.size(); ++s)
    if (is_exact(all[s]))
      records.verdict(
          Record("scorers", described(all[s]) + ", variant " + std::to_string(s)).count("compared", compared[s]),
          found[s].empty(), found[s]);
}

// A few small steps of every kind of pass, for compute-sanitizer.
void small(Records& records, const Arguments&) {
  const Sizes sizes{33, 40'961, 0, 1025};
  const std::vector<std::pair<std::string, std::vector<DType>>> stored{
      {"f32", {DType::f32}}, {"bf16", {DType::bf16}}, {"mixed", {DType::f32, DType::bf16, DType::f16, DType::bf16}}};
  for (const auto& [name, dtypes] : stored)
    for (const Scorer& scorer : {Scorer{Bitter7{}}, Scorer{Magnitude{}}, Scorer{Identity{}}})
      for (const bool misaligned : {false, true}) {
        const std::string which = described(scorer) + ", " + name + (misaligned ? ", misaligned" : "");
        attempt(records, "small", which, [&] {
          test::Model model = test::training_model(sizes, dtypes, 31);
          if (misaligned) model.set_masks(0.3, 5);
          const std::string differs = compare(records, model, scorer, 0.5, misaligned, NonFinite::keep);
          records.verdict(Record("small", which), differs.empty(), differs);
        });
      }
  adam_bits(records, "small", sizes);
}

void adam(Records& records, const Arguments&) { adam_bits(records, "adam", {1, 31, 0, 1023, 4096, 20'003, 1'000'003}); }

void values(Records& records, const Arguments&) {
  for (const test::NamedValues& named : test::named_values())
    attempt(records, "values", named.name, [&] {
      std::string found;
      std::int64_t compared = 0;
      for (const Scorer& scorer : {Scorer{Identity{}}, Scorer{Magnitude{}}})
        for (const double sparsity : {0.0, 0.25, 0.5, 0.95, 1.0})
          for (const DType dtype : {DType::f32, DType::bf16}) {
            test::Model model = test::model_of({named.make(262'147, 3), named.make(1025, 4)}, dtype);
            const std::string differs = compare(records, model, scorer, sparsity, compared % 2);
            if (!differs.empty() && found.empty())
              found = described(scorer) + " at " + std::to_string(sparsity) + ": " + differs;
            ++compared;
          }
      records.verdict(Record("values", named.name).count("compared", compared), found.empty(), found);
    });
}

// How far the device's bitter8 is from the CPU's: scores by their largest relative difference, masks by bits.
void bitter8(Records& records, const Arguments&) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    const std::string name = std::string("bitter8, ") + name_of(dtype);
    attempt(records, "bitter8", name, [&] {
      test::Model model = test::training_model({1'000'003, 31, 65'537}, {dtype}, 17);
      const std::vector<ScoreInputs> inputs = model.inputs();
      const std::int64_t k = rank(0.5, model.numel());
      std::optional<Copy> copy;
      if (!records.dry()) copy.emplace(inputs, false);
      const OnHost cpu = prune_on_host(inputs, Bitter8{}, k, {}, 0), seven = prune_on_host(inputs, Bitter7{}, k, {}, 0);
      const auto share_of_differing_bits = [&](const auto& a, const auto& b) {
        std::int64_t differing = 0;
        for (std::size_t t = 0; t < a.size(); ++t)
          for (std::size_t w = 0; w < a[t].size(); ++w) differing += bits::count(a[t][w] ^ b[t][w]);
        return static_cast<double>(differing) / static_cast<double>(model.numel());
      };
      Record record("bitter8", name);
      record.number("mask_bits_differing_cpu_from_bitter7", share_of_differing_bits(cpu.masks, seven.masks));
      if (!copy) return records.add(std::move(record));

      Stepper stepper(*copy, Bitter8{}, {});
      stepper.budget(k);
      stepper.enqueue();
      const Outcome found = stepper.outcome();
      std::vector<std::vector<std::uint64_t>> masks;
      std::vector<std::vector<float>> expected;
      std::vector<float*> expected_table, scored_table;
      std::vector<Buffer> scored;
      for (std::size_t t = 0; t < inputs.size(); ++t) {
        masks.push_back(fetched(copy->masks()[t], bits::words(inputs[t].numel)));
        expected.emplace_back(static_cast<std::size_t>(inputs[t].numel));
        scored.emplace_back(static_cast<std::size_t>(inputs[t].numel) * 4);
        expected_table.push_back(expected.back().data());
        scored_table.push_back(scored.back().as<float>());
      }
      write_scores(inputs, Bitter8{}, expected_table);
      cuda::write_scores({}, copy->inputs(), Bitter8{}, scored_table);
      synchronize("write_scores");
      double largest = 0;
      for (std::size_t t = 0; t < inputs.size(); ++t) {
        const auto device = fetched(scored_table[t], inputs[t].numel);
        for (std::size_t i = 0; i < device.size(); ++i)
          if (expected[t][i] > 1e-30f)
            largest = std::max(largest, std::fabs(static_cast<double>(device[i]) / expected[t][i] - 1.0));
      }
      record.number("largest_relative_difference_of_scores", largest);
      record.number("mask_bits_differing_from_the_cpu", share_of_differing_bits(cpu.masks, masks));
      record.number("mask_bits_differing_from_bitter7", share_of_differing_bits(seven.masks, masks));
      const bool right = found.report.pruned == k && !(found.report.status & cuda::status::failed) && largest < 1e-5;
      records.verdict(std::move(record), right,
                      "pruned " + std::to_string(found.report.pruned) + " of " + std::to_string(k) +
                          ", or scores differ by 1e-5 or more");
    });
  }
}

// A step that is void has written neither masks nor weights.
void gates(Records& records, const Arguments&) {
  const auto gate = [&](const std::string& name, std::uint32_t expected, bool poison, std::int64_t k) {
    attempt(records, "gates", name, [&] {
      test::Model model = test::training_model({70'001, 33}, {DType::f32});
      if (poison) model.tensors[0].weight.set(60'000, test::not_a_number);
      const std::vector<ScoreInputs> inputs = model.inputs();
      if (records.dry()) {
        bool refused = false;
        try {
          prune_on_host(inputs, Bitter7{}, k, {}, roles::weight);
        } catch (const std::exception&) {
          refused = true;
        }
        return records.verdict(Record("gates", name), refused, "the CPU did not refuse");
      }
      const Copy copy(inputs, false);
      Stepper stepper(copy, Bitter7{}, {.zero = roles::weight | roles::exp_avg | roles::exp_avg_sq});
      stepper.budget(k);
      stepper.enqueue();
      const Outcome outcome = stepper.outcome();
      std::string found;
      if (!(outcome.report.status & expected) || !(outcome.report.status & cuda::status::failed))
        found = "status " + std::to_string(outcome.report.status);
      if (poison && outcome.report.first_nan != 60'000)
        found = "first NaN at " + std::to_string(outcome.report.first_nan);
      for (std::size_t t = 0; t < inputs.size(); ++t)
        for (const std::uint32_t role : {roles::weight, roles::exp_avg, roles::exp_avg_sq}) {
          const auto after =
              fetched(static_cast<const std::byte*>(roles::of(copy.inputs()[t], role).data), inputs[t].numel * 4);
          if (std::memcmp(after.data(), roles::of(inputs[t], role).data, after.size()) != 0)
            found = "an array was written";
        }
      records.verdict(Record("gates", name).count("status", outcome.report.status), found.empty(), found);
    });
  };
  gate("a NaN weight", cuda::status::nan, true, 100);
  gate("k above the number of elements", cuda::status::bad_k, false, 80'000);
  gate("k below 0", cuda::status::bad_k, false, -1);
}

// Captured once in global mode, replayed with budgets that a copy node does not know.
void graph(Records& records, const Arguments&) {
  for (const Scorer& scorer : {Scorer{Bitter7{}}, Scorer{Magnitude{}}, Scorer{Identity{}}})
    attempt(records, "graph", described(scorer), [&] {
      const Sizes sizes{1'000'003, 31, 65'537};
      std::string found;
      std::int64_t compared = 0;
      test::Model model = test::training_model(sizes, {DType::f32}, 23);
      const std::vector<ScoreInputs> inputs = model.inputs();
      std::optional<Copy> copy;
      std::optional<Stepper> stepper;
      cudaGraphExec_t replayed = nullptr;
      cudaStream_t stream = nullptr;
      if (!records.dry()) {
        copy.emplace(inputs, false);
        stepper.emplace(*copy, scorer, cuda::StepOptions{});
        stepper->budget(1);
        stepper->enqueue();  // everything is loaded before the capture
        synchronize("warm-up");
        cudaGraph_t captured = nullptr;
        check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
        check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "begin of the capture");
        stepper->enqueue(stream);
        check(cudaStreamEndCapture(stream, &captured), "end of the capture");
        check(cudaGraphInstantiate(&replayed, captured, 0), "instantiating the graph");
        check(cudaGraphDestroy(captured), "destroying the graph");
      }
      for (const double sparsity : {0.1, 0.5, 0.9, 0.0, 1.0, 0.5}) {
        const std::int64_t k = rank(sparsity, model.numel());
        const OnHost expected = prune_on_host(inputs, scorer, k, {}, 0);
        ++compared;
        if (!copy) continue;
        stepper->budget(k);
        synchronize("the budget");
        check(cudaGraphLaunch(replayed, stream), "replay");
        std::string differs = difference(inputs, expected, *copy, stepper->outcome());
        if (differs.empty()) {
          stepper->enqueue();
          differs = difference(inputs, expected, *copy, stepper->outcome());
        }
        if (!differs.empty() && found.empty()) found = "at " + std::to_string(sparsity) + ": " + differs;
      }
      if (replayed) check(cudaGraphExecDestroy(replayed), "destroying the executable graph");
      if (stream) check(cudaStreamDestroy(stream), "destroying the stream");
      records.verdict(Record("graph", described(scorer)).count("compared", compared), found.empty(), found);
    });
}

// bf16 magnitudes, 2^31 + 5 of them; the ties at the threshold lie beyond 32 bits, too.
void large(Records& records, const Arguments& arguments) {
  const std::int64_t n =
      records.dry() ? 2'000'003 : static_cast<std::int64_t>(arguments.scale * static_cast<double>((1LL << 31) + 5));
  const std::string name = "one tensor of " + std::to_string(n);
  attempt(records, "large", name, [&] {
    std::vector<std::uint16_t> w(static_cast<std::size_t>(n));
    std::uint64_t state = 1;
    for (std::uint16_t& x : w) {  // positive normal numbers, about 2,000 values
      state = state * 6364136223846793005u + 1442695040888963407u;
      x = static_cast<std::uint16_t>(0x3c00u + ((state >> 40) & 0x7ffu));
    }
    ScoreInputs tensor{.weight = {w.data(), DType::bf16}, .numel = n, .geometry = flat(n)};
    const std::vector<ScoreInputs> inputs{tensor};
    const std::int64_t k = n / 2 + 1;
    std::optional<Copy> copy;
    if (!records.dry()) copy.emplace(inputs, false);
    const OnHost expected = prune_on_host(inputs, Magnitude{}, k, {}, 0);
    if (!copy)
      return records.verdict(Record("large", name), expected.report.pruned == k, "the CPU pruned another number");
    Stepper stepper(*copy, Magnitude{}, {});
    stepper.budget(k);
    stepper.enqueue();
    const std::string found = difference(inputs, expected, *copy, stepper.outcome());
    records.verdict(Record("large", name).count("weights", n), found.empty(), found);
  });
}

}  // namespace

int main(int count, char** words) {
  using Section = void (*)(Records&, const Arguments&);
  const std::vector<std::pair<std::string, Section>> all{{"scorers", scorers}, {"bitter8", bitter8}, {"small", small},
                                                         {"values", values},   {"gates", gates},     {"graph", graph},
                                                         {"large", large},     {"adam", adam}};
  std::vector<std::string> names;
  for (const auto& [name, run] : all) names.push_back(name);
  return run_program(count, words, names, [&](const Arguments& arguments, Records& records) {
    for (const auto& [name, run] : all)
      if (arguments.wants(name)) attempt(records, name, "all", [&] { run(records, arguments); });
  });
}
