// The four measurements that decide how the engine's passes are written, from which every goal follows:
//   read       the read floor: {4, 8, 16} loads of 16 bytes a lane x {16, 24, 32} warps a multiprocessor, and rings of
//              bulk copies into shared memory
//   write      zeroing half of w in place: load, select, store; predicated stores of zeros; a pure rewrite
//   decide     bitter7 against a bracket by three roots and for the stored types, with nothing else in the loop
//   roots      the fast roots against sqrt.rn over every non-negative float, which proves the bracket's margin
// `measure_first --dry` runs the oracles of all four on the host and touches no device.
#include <cuda_runtime.h>

#include <climits>
#include <utility>

#include "forms.cuh"
#include "model.cuh"
#include "records.hpp"
#include "spans.cuh"
#include "timer.cuh"

namespace {

using namespace bittersweet;
using namespace bittersweet::bench;

constexpr std::int64_t weights = 402'653'184;
constexpr int repeats = 15;

Record timed(std::string_view section, const std::string& name, const Times& times, std::int64_t bytes) {
  Record record(section, name);
  record.number("ms", times.median_ms).number("least_ms", times.least_ms).number("most_ms", times.most_ms);
  record.count("repeats", times.repeats).count("bytes", bytes);
  record.number("gbs", static_cast<double>(bytes) / times.median_ms * 1e-6);
  return record;
}

// ---- read ----

using Reader = void (*)(const Span*, int, long long, unsigned*);
struct ReadCase {
  std::string name;
  Reader kernel;
  int unit, blocks, shared;  // bytes of a unit, blocks a multiprocessor, bytes of dynamic shared memory
};

template <int in_flight>
void add_loads(std::vector<ReadCase>& cases) {
  const auto add = [&](Reader kernel, int blocks) {
    cases.push_back(
        {std::to_string(in_flight) + " loads, " + std::to_string(blocks * 8) + " warps", kernel, ldg_unit, blocks, 0});
  };
  add(read_ldg<in_flight, 2>, 2);
  add(read_ldg<in_flight, 3>, 3);
  add(read_ldg<in_flight, 4>, 4);
}

template <int unit, int stages>
void add_ring(std::vector<ReadCase>& cases, int blocks) {
  cases.push_back({"bulk copies, " + std::to_string(blocks) + " rings of " + std::to_string(stages) + " x " +
                       std::to_string(unit / 1024) + " KiB",
                   read_bulk<unit, stages>, unit, blocks, unit * stages});
}

std::vector<ReadCase> read_cases() {
  std::vector<ReadCase> cases;
  add_loads<4>(cases);
  add_loads<8>(cases);
  add_loads<16>(cases);
  add_ring<8192, 8>(cases, 1);
  add_ring<8192, 12>(cases, 2);
  add_ring<16384, 12>(cases, 1);
  add_ring<16384, 6>(cases, 2);
  add_ring<32768, 6>(cases, 1);
  return cases;
}

void launch(const ReadCase& which, const Device& device, const Spans& spans, const Buffer& seen) {
  check(cudaFuncSetAttribute(which.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, which.shared), "shared");
  which.kernel<<<device.multiprocessors * which.blocks, 256, which.shared>>>(spans.table(), spans.count(),
                                                                             spans.units(), seen.as<unsigned>());
}

// The checksum of arrays of awkward lengths, against the host: every variant reads every byte exactly once.
void check_reads(Records& records, const std::vector<ReadCase>& cases) {
  std::vector<std::byte> host;
  std::vector<std::int64_t> lengths{4, 16, 18, 8190, 8192, 8194, 32768 * 5 + 6, 1'000'002, 3'000'000};
  std::vector<std::size_t> offsets;
  for (const std::int64_t length : lengths) {
    offsets.push_back(host.size());
    for (std::int64_t i = 0; i < (length + 15) / 16 * 16; ++i)
      host.push_back(static_cast<std::byte>(hash(9, host.size()) & 0xff));
  }
  unsigned expected = 0;
  for (std::size_t a = 0; a < lengths.size(); ++a) expected ^= exclusive_or(host.data() + offsets[a], lengths[a]);
  if (records.dry()) {
    unsigned bytewise = 0;  // the oracle has one, too
    for (std::size_t a = 0; a < lengths.size(); ++a)
      for (std::int64_t i = 0; i < lengths[a]; ++i)
        bytewise ^= static_cast<unsigned>(host[offsets[a] + static_cast<std::size_t>(i)]) << (8 * (i % 4));
    return records.verdict(Record("read", "checksum"), bytewise == expected, "the two host checksums differ");
  }
  const Device device;
  const Buffer memory = on_device(host), seen(4);
  std::vector<Array> arrays;
  for (std::size_t a = 0; a < lengths.size(); ++a) arrays.push_back({memory.data() + offsets[a], lengths[a]});
  for (const ReadCase& which : cases) {
    attempt(records, "read", which.name, [&] {
      const Spans spans(arrays, which.unit);
      seen.fill(0);
      launch(which, device, spans, seen);
      check_launch(which.name.c_str());
      synchronize(which.name.c_str());
      if (seen.read<unsigned>() != expected)
        records.verdict(Record("read", which.name), false, "its checksum is not the host's");
    });
  }
}

void measure_reads(Records& records) {
  const std::vector<ReadCase> cases = read_cases();
  check_reads(records, cases);
  if (records.dry()) {
    for (const ReadCase& which : cases) records.add(Record("read", which.name).count("bytes", weights * 8));
    return;
  }
  const Device device;
  Timer timer(device);
  Model model(gpt_shapes(weights), DType::f32, DType::none, DType::f32);
  model.fill();
  const std::vector<Array> arrays = model.arrays(true, false, true);
  const Buffer seen(4);
  double best = 0;
  std::string fastest;
  for (const ReadCase& which : cases) {
    attempt(records, "read", which.name, [&] {
      const Spans spans(arrays, which.unit);
      int resident = 0;
      check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, which.kernel, 256,
                                                          static_cast<std::size_t>(which.shared)),
            "occupancy");
      seen.fill(0);
      launch(which, device, spans, seen);
      synchronize(which.name.c_str());
      const Times times = timer.measure(repeats, [&] { launch(which, device, spans, seen); });
      records.add(timed("read", which.name, times, spans.bytes()).count("blocks_that_fit", resident));
      if (fastest.empty() || times.median_ms < best) best = times.median_ms, fastest = which.name;
    });
  }
  if (!fastest.empty())
    records.add(Record("read", "floor")
                    .text("fastest", fastest)
                    .number("ms", best)
                    .number("gbs", static_cast<double>(weights) * 8 / best * 1e-6));
}

// ---- write ----

template <Write way, int in_flight, int blocks>
void measure_write(Records& records, const std::string& name, const Device& device, Timer& timer, Model& model) {
  attempt(records, "write", name, [&] {
    const Spans spans(model.arrays(true, false, false), ldg_unit);
    const auto run = [&] {
      write_ldg<way, in_flight, blocks>
          <<<device.multiprocessors * blocks, 256>>>(spans.table(), spans.count(), spans.units());
    };
    model.restore();
    bool right = true;
    const std::vector<const std::uint64_t*> kept = model.kept();
    const auto weights_of = [&](std::size_t t) {
      std::vector<float> host(static_cast<std::size_t>(std::min<std::int64_t>(model.inputs()[t].numel, 100'003)));
      check(cudaMemcpy(host.data(), model.inputs()[t].weight.data, host.size() * 4, cudaMemcpyDeviceToHost), "copy");
      return host;
    };
    std::vector<std::vector<float>> before;
    for (std::size_t t = 0; t < kept.size(); t += 7) before.push_back(weights_of(t));  // some tensors, on the host
    run();
    synchronize(name.c_str());
    for (std::size_t t = 0; t < kept.size(); t += 7) {
      const std::vector<float> after = weights_of(t);
      std::vector<std::uint64_t> words(static_cast<std::size_t>(bits::words(std::ssize(after))));
      check(cudaMemcpy(words.data(), kept[t], words.size() * 8, cudaMemcpyDeviceToHost), "copy");
      for (std::size_t i = 0; i < after.size(); ++i) {
        const bool keep = way == Write::rewrite || bits::get(words.data(), static_cast<std::int64_t>(i));
        right &= after[i] == (keep ? before[t / 7][i] : 0.0f);
      }
    }
    if (!right) return records.verdict(Record("write", name), false, "zeros are not where the mask says");
    const Times times = timer.measure(repeats, [&] { model.restore(); }, run);
    // Bytes as the plain way moves them: w read and written; zeros alone count the same, to compare times.
    records.add(timed("write", name, times, 2 * spans.bytes()).flag("right", true));
  });
}

void measure_writes(Records& records) {
  if (records.dry()) {
    for (const char* name :
         {"rewrite, 8 loads", "rewrite, 4 loads", "select, 8 loads", "select, 4 loads", "zeros alone"})
      records.add(Record("write", name).count("bytes", 2 * weights * 4));
    return;
  }
  const Device device;
  Timer timer(device);
  Model model(gpt_shapes(weights), DType::f32, DType::none, DType::none);
  model.fill();
  model.draw_new_masks(0.5f);
  model.save();
  measure_write<Write::rewrite, 8, 3>(records, "rewrite, 8 loads", device, timer, model);
  measure_write<Write::rewrite, 4, 4>(records, "rewrite, 4 loads", device, timer, model);
  measure_write<Write::select, 8, 3>(records, "select, 8 loads", device, timer, model);
  measure_write<Write::select, 4, 4>(records, "select, 4 loads", device, timer, model);
  measure_write<Write::zeros, 1, 4>(records, "zeros alone", device, timer, model);
}

// ---- decide ----

using Decider = void (*)(const std::byte*, const std::byte*, std::int64_t, float, float, unsigned long long*);
struct DecideCase {
  std::string name;
  Decider kernel;
  Form form;
  Compare compare;
  DType w, v;
};

std::vector<DecideCase> decide_cases() {
  std::vector<DecideCase> cases;
  const auto add = [&]<Form form>(const std::string& name) {
    constexpr auto score = Compare::score;
    cases.push_back(
        {name + ", f32 f32", decide<form, score, Stored::f32, Stored::f32>, form, score, DType::f32, DType::f32});
    cases.push_back(
        {name + ", bf16 f32", decide<form, score, Stored::bf16, Stored::f32>, form, score, DType::bf16, DType::f32});
    cases.push_back(
        {name + ", bf16 bf16", decide<form, score, Stored::bf16, Stored::bf16>, form, score, DType::bf16, DType::bf16});
  };
  add.operator()<Form::sqrt_rn>("sqrt.rn");
  add.operator()<Form::branch_free>("branch-free");
  add.operator()<Form::rsqrt>("rsqrt");
  cases.push_back({"weight alone, bf16", decide<Form::sqrt_rn, Compare::weight_alone, Stored::bf16, Stored::bf16>,
                   Form::sqrt_rn, Compare::weight_alone, DType::bf16, DType::none});
  cases.push_back({"weight alone, bf16, packed",
                   decide<Form::sqrt_rn, Compare::weight_alone_packed, Stored::bf16, Stored::bf16>, Form::sqrt_rn,
                   Compare::weight_alone_packed, DType::bf16, DType::none});
  return cases;
}

struct Sides {
  std::int64_t below = 0, above = 0;
  bool operator==(const Sides&) const = default;
};

// The exact counts, element by element on the host. `low` and `high` are bf16 numbers, for the packed comparison.
constexpr float low = 1.5e-4f, high = 1.75e-4f, low_weight = 0x1.8p-7f, high_weight = 0x1.cp-7f;
template <Form form>
Sides decide_on_host(const DecideCase& which, const std::vector<std::byte>& w, const std::vector<std::byte>& v,
                     std::int64_t n) {
  Sides sides;
  for (std::int64_t i = 0; i < n; ++i) {
    const float weight = load_as_float(w.data(), which.w, i);
    const bool scored = which.compare == Compare::score;
    const float score = scored ? decided_score<form>(weight, load_as_float(v.data(), which.v, i)) : std::fabs(weight);
    sides.below += score < (scored ? low : low_weight);
    sides.above += score > (scored ? high : high_weight);
  }
  return sides;
}

// Exact for the exact forms; a form with a margin leaves a few open and decides none wrongly.
bool agrees(const DecideCase& which, const Sides& exact, const Sides& found, std::int64_t n) {
  if (which.form != Form::rsqrt) return found == exact;
  const std::int64_t open = n / 1000 + 8;
  return found.below <= exact.below && found.above <= exact.above && exact.below - found.below <= open &&
         exact.above - found.above <= open;
}

void measure_decisions(Records& records) {
  constexpr std::int64_t checked = 1 << 20;
  for (const DecideCase& which : decide_cases()) {
    attempt(records, "decide", which.name, [&] {
      const auto size = [](DType dtype, std::int64_t n) { return static_cast<std::size_t>(n) * size_of(dtype); };
      const std::int64_t n = weights / 1024 * 1024;
      const std::int64_t bytes = n * static_cast<std::int64_t>(size_of(which.w) + size_of(which.v));
      std::vector<std::byte> host_w(size(which.w, checked)), host_v(size(which.v, checked));
      if (records.dry()) {
        for (std::int64_t i = 0; i < checked; ++i) {
          store(host_w.data(), which.w, i, drawn(draw_weights, 1, static_cast<std::uint64_t>(i)));
          if (which.v != DType::none)
            store(host_v.data(), which.v, i, drawn(draw_squares, 3, static_cast<std::uint64_t>(i)));
        }
        const Sides exact = decide_on_host<Form::sqrt_rn>(which, host_w, host_v, checked);
        const Sides fast =
            which.form == Form::branch_free ? decide_on_host<Form::branch_free>(which, host_w, host_v, checked) : exact;
        const bool spread = exact.below > checked / 10 && exact.above > checked / 10;
        return records.verdict(Record("decide", which.name).count("bytes", bytes), spread && fast == exact,
                               "the host's forms differ, or everything lies on one side");
      }
      const Device device;
      Timer timer(device);
      const Buffer w(size(which.w, n)), v(size(which.v, n)), counts(16);
      fill_kernel<<<4096, 256>>>(w.data(), which.w, n, draw_weights, 1, 0);
      if (which.v != DType::none) fill_kernel<<<4096, 256>>>(v.data(), which.v, n, draw_squares, 3, 0);
      const bool scored = which.compare == Compare::score;
      const float at_low = scored ? low : low_weight, at_high = scored ? high : high_weight;
      const auto run = [&](std::int64_t count) {
        which.kernel<<<device.multiprocessors * 3, 256>>>(w.data(), v.data(), count, at_low, at_high,
                                                          counts.as<unsigned long long>());
      };
      counts.fill(0);
      run(checked);
      synchronize(which.name.c_str());
      const Sides found{counts.read<std::int64_t>(0), counts.read<std::int64_t>(1)};
      w.to_host(host_w.data(), host_w.size());
      if (which.v != DType::none) v.to_host(host_v.data(), host_v.size());
      const bool right = agrees(which, decide_on_host<Form::sqrt_rn>(which, host_w, host_v, checked), found, checked);
      const Times times = timer.measure(repeats, [&] { run(n); });
      records.verdict(timed("decide", which.name, times, bytes), right, "its counts are not the host's");
    });
  }
}

// ---- roots ----

template <class Root>
void compare_roots(Records& records) {
  const std::string name = Root::name;
  attempt(records, "roots", name, [&] {
    if (records.dry()) {  // some of every exponent; the host's reciprocal root is the nearest float
      double largest = 0;
      for (std::uint64_t i = 0x10000000u; i < 0x7f800000u; i += 99'991) {
        const float u = std::bit_cast<float>(static_cast<std::uint32_t>(i));
        const double root = std::sqrt(static_cast<double>(u));
        const double exact = std::is_same_v<Root, OneBranchFreeRoot> ? root : std::sqrt(root);
        largest = std::max({largest, std::fabs(Root::fast(u) / exact - 1.0), std::fabs(Root::exact(u) / exact - 1.0)});
      }
      return records.verdict(Record("roots", name), largest < 0x1p-22, "the formula is not the root");
    }
    const Device device;
    const Buffer memory(sizeof(Agreement));
    const Agreement none;
    memory.from_host(&none, sizeof none);
    compare_all<Root><<<device.multiprocessors * 16, 256>>>(memory.as<Agreement>());
    check_launch(name.c_str());
    synchronize(name.c_str());
    const auto found = memory.read<Agreement>();
    const float normal = std::bit_cast<float>(found.largest_error[0]);
    const float same_from = std::bit_cast<float>(found.differing ? found.highest + 1 : 0u);
    Record record("roots", name);
    record.count("differing", static_cast<std::int64_t>(found.differing)).number("same_bits_from", same_from);
    record.number("largest_relative_error", normal);
    record.number("largest_relative_error_of_denormals", std::bit_cast<float>(found.largest_error[1]));
    record.count("unusable", found.unusable[0]).count("unusable_of_denormals", found.unusable[1]);
    record.text("at_zero", std::to_string(std::bit_cast<float>(found.at_zero)));
    record.text("at_infinity", std::to_string(std::bit_cast<float>(found.at_infinity)));
    switch (Root::proof) {
      case Proof::same_bits:
        return records.verdict(std::move(record),
                               found.differing == 0 && found.at_zero == 0u && found.at_infinity == 0x7f800000u,
                               "bits differ");
      case Proof::same_bits_from_eps:
        return records.verdict(std::move(record), same_from <= 1e-8f, "bits differ above eps = 1e-8");
      case Proof::margin:  // the products with |w| round once more, by up to 2^-24 each
        record.number("margin", bracket_margin);
        return records.verdict(std::move(record), found.unusable[0] == 0 && normal + 0x1p-23f <= bracket_margin,
                               "the margin of the bracket does not cover the form");
    }
  });
}

// The engine's rough form, where this version has one.
template <class S>
void compare_rough(Records& records) {
  if constexpr (HasRoughForm<S>) compare_roots<RoughScore<S>>(records);
}

void measure_roots(Records& records) {
  compare_roots<OneBranchFreeRoot>(records);
  compare_roots<FourthRoot<Form::branch_free>>(records);
  compare_roots<FourthRoot<Form::rsqrt>>(records);
  compare_roots<FourthRoot<Form::rsqrt_first_without_ftz>>(records);
  compare_roots<Bitter7Score>(records);
  compare_roots<Bitter8Score>(records);
  compare_rough<Bitter7>(records);
}

}  // namespace

int main(int count, char** words) {
  const std::vector<std::string> sections{"read", "write", "decide", "roots"};
  return run_program(count, words, sections, [&](const Arguments& arguments, Records& records) {
    const auto section = [&](const char* name, void (*run)(Records&)) {
      if (arguments.wants(name)) attempt(records, name, "all", [&] { run(records); });
    };
    section("read", measure_reads);
    section("write", measure_writes);
    section("decide", measure_decisions);
    section("roots", measure_roots);
  });
}
