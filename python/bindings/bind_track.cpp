// Scorers with a memory: one update over the whole model, and the modifiers of its scalars.
#include "bittersweet/track.hpp"

#include "table.hpp"

namespace py = pybind11;

namespace bittersweet::python {
namespace {

// Python holds the scalars of a tensor as this many doubles.
constexpr std::size_t coherence_width = 7;
static_assert(sizeof(Coherence) == coherence_width * sizeof(double));

Coherence* scalars_at(std::uint64_t word) { return address<Coherence>(word, 1, "scalars"); }

// What is kept of a tensor: an address of `numel` elements and, in the word after it, their dtype code as in the table.
TensorView kept(const std::uint64_t* word, std::int64_t numel, const char* what) {
  const std::uint64_t code = word[1];
  if (code == static_cast<std::uint64_t>(DType::f32)) return {address<float>(*word, numel, what), DType::f32};
  if (code == static_cast<std::uint64_t>(DType::bf16)) return {address<std::uint16_t>(*word, numel, what), DType::bf16};
  throw DTypeError(std::string(what) + ": dtype code " + std::to_string(code) + "; float32 and bfloat16 are accepted");
}

TrackDraws draws_of(std::uint64_t seed, std::uint64_t stream) {
  return {seed, static_cast<std::uint32_t>(std::min<std::uint64_t>(stream, RoundingKey::streams))};
}

// `width` words for each tensor of the table.
std::span<const std::uint64_t> rows_of(const py::buffer& memory, std::size_t tensors, std::size_t width) {
  const std::span<const std::uint64_t> words = words_of(memory, "memory");
  if (words.size() != tensors * width)
    throw ArgumentError("memory: " + std::to_string(words.size()) + " words; " + std::to_string(width) +
                        " a tensor are needed");
  return words;
}

// f(scalars of one tensor) for every address, as a list.
template <class F>
std::vector<double> modifiers(const py::buffer& scalars, F&& f) {
  std::vector<double> found;
  for (const std::uint64_t word : words_of(scalars, "scalars")) found.push_back(f(*scalars_at(word), found.size()));
  return found;
}

}  // namespace

void bind_track(py::module_& module) {
  module.attr("COHERENCE_WIDTH") = coherence_width;
  module.attr("SKETCH_PLACES") = SketchMemory::most;
  module.def(
      "track_coherence",
      [](const py::buffer& table, std::vector<std::string> names, const py::buffer& memory, double decay,
         std::uint64_t seed) {
        const Table rows(table, std::move(names));
        const auto words = rows_of(memory, rows.tensors.size(), 6);
        std::vector<CoherenceMemory> states;
        for (const ScoreInputs& row : rows.tensors) {
          const std::uint64_t* const word = words.data() + 6 * states.size();
          states.push_back({kept(word, row.numel, "previous"), kept(word + 2, row.numel, "average"),
                            scalars_at(word[4]), draws_of(seed, word[5])});
        }
        const py::gil_scoped_release release;
        track_coherence(rows.tensors, states, decay);
      },
      py::arg("table"), py::arg("names"), py::arg("memory"), py::arg("decay"), py::arg("seed"));
  module.def(
      "measure_retention",
      [](const py::buffer& table, std::vector<std::string> names, const py::buffer& memory) {
        const Table rows(table, std::move(names));
        const auto words = rows_of(memory, rows.tensors.size(), 2);
        std::vector<CoherenceMemory> states;
        for (const ScoreInputs& row : rows.tensors)
          states.push_back({.previous = kept(words.data() + 2 * states.size(), row.numel, "previous")});
        const py::gil_scoped_release release;
        return measure_retention(rows.tensors, states);
      },
      py::arg("table"), py::arg("names"), py::arg("memory"));
  module.def(
      "track_sketch",
      [](const py::buffer& table, std::vector<std::string> names, const py::buffer& memory, double decay) {
        const Table rows(table, std::move(names));
        const auto words = rows_of(memory, rows.tensors.size(), 4);
        std::vector<SketchMemory> states;
        for (const ScoreInputs& row : rows.tensors) {
          const std::uint64_t* const word = words.data() + 4 * states.size();
          const auto count = static_cast<std::int64_t>(word[1]);
          if (count > row.numel) throw ShapeError("positions: more than there are elements");
          const auto* const positions = address<const std::int64_t>(word[0], count, "positions");
          for (std::int64_t i = 0; i < count; ++i)
            if (positions[i] < 0 || positions[i] >= row.numel) throw ShapeError("positions: beyond the tensor");
          states.push_back({positions, count, address<float>(word[2], count, "previous"), scalars_at(word[3])});
        }
        const py::gil_scoped_release release;
        track_sketch(rows.tensors, states, decay);
      },
      py::arg("table"), py::arg("names"), py::arg("memory"), py::arg("decay"));
  module.def(
      "compare_snapshot",
      [](const py::buffer& table, std::vector<std::string> names, const py::buffer& memory) {
        const Table rows(table, std::move(names));
        const auto words = rows_of(memory, rows.tensors.size(), 3);
        std::vector<SnapshotMemory> states;
        for (const ScoreInputs& row : rows.tensors) {
          const std::uint64_t* const word = words.data() + 3 * states.size();
          states.push_back({kept(word, row.numel, "snapshot"), scalars_at(word[2])});
        }
        const py::gil_scoped_release release;
        compare_snapshot(rows.tensors, states);
      },
      py::arg("table"), py::arg("names"), py::arg("memory"));
  module.def(
      "accumulate_movement",
      [](const py::buffer& table, std::vector<std::string> names, const py::buffer& memory,
         const std::vector<float>& rates, std::uint64_t seed) {
        const Table rows(table, std::move(names));
        const auto words = rows_of(memory, rows.tensors.size(), 4);
        if (rates.size() != rows.tensors.size()) throw ShapeError("rates: one is needed for each tensor");
        std::vector<MovementMemory> states;
        for (const ScoreInputs& row : rows.tensors) {
          const std::uint64_t* const word = words.data() + 4 * states.size();
          states.push_back({kept(word, row.numel, "sums"), address<std::int64_t>(word[2], 1, "updates"),
                            rates[states.size()], draws_of(seed, word[3])});
        }
        const py::gil_scoped_release release;
        accumulate_movement(rows.tensors, states);
      },
      py::arg("table"), py::arg("names"), py::arg("memory"), py::arg("rates"), py::arg("seed"));
  module.def("sketch_positions", &sketch_positions, py::arg("name"), py::arg("numel"), py::arg("seed"));
  module.def(
      "coherence_modifiers",
      [](const py::buffer& scalars, const std::vector<double>& retention, double alpha, int a, int b, int c, double d,
         double floor) {
        const CoherenceParameters parameters{alpha, d, floor, a, b, c};
        return modifiers(scalars, [&](const Coherence& s, std::size_t i) {
          return coherence_modifier(s, retention.at(i), parameters);
        });
      },
      py::arg("scalars"), py::arg("retention"), py::arg("alpha"), py::arg("a"), py::arg("b"), py::arg("c"),
      py::arg("d"), py::arg("floor"));
  module.def(
      "snapshot_modifiers",
      [](const py::buffer& scalars, double floor) {
        return modifiers(scalars, [&](const Coherence& s, std::size_t) { return snapshot_modifier(s, floor); });
      },
      py::arg("scalars"), py::arg("floor"));
}

}  // namespace bittersweet::python
