// What Python keeps of tracked tensors, as rows of addresses. Nothing is read through them.
#pragma once

#include "bittersweet/track.hpp"
#include "table.hpp"

namespace bittersweet::python {

// Python holds the scalars of a tensor as this many doubles.
inline constexpr std::size_t coherence_width = 7;
static_assert(sizeof(Coherence) == coherence_width * sizeof(double));

inline Coherence* scalars_at(std::uint64_t word) { return address<Coherence>(word, 1, "scalars"); }

// What is kept of a tensor: an address of `numel` elements and, in the word after it, their dtype code as in the table.
inline TensorView kept(const std::uint64_t* word, std::int64_t numel, const char* what) {
  const std::uint64_t code = word[1];
  if (code == static_cast<std::uint64_t>(DType::f32)) return {address<float>(*word, numel, what), DType::f32};
  if (code == static_cast<std::uint64_t>(DType::bf16)) return {address<std::uint16_t>(*word, numel, what), DType::bf16};
  throw DTypeError(std::string(what) + ": dtype code " + std::to_string(code) + "; float32 and bfloat16 are accepted");
}

inline TrackDraws draws_of(std::uint64_t seed, std::uint64_t stream) {
  return {seed, static_cast<std::uint32_t>(std::min<std::uint64_t>(stream, RoundingKey::streams))};
}

// f(row of the table, its `width` words) for each tensor.
template <class F>
auto states_of(const pybind11::buffer& memory, const Table& table, std::size_t width, F&& f) {
  const std::span<const std::uint64_t> words = words_of(memory, "memory");
  if (words.size() != table.tensors.size() * width)
    throw ArgumentError("memory: " + std::to_string(words.size()) + " words; " + std::to_string(width) +
                        " a tensor are needed");
  std::vector<std::invoke_result_t<F, const ScoreInputs&, const std::uint64_t*>> states;
  for (const ScoreInputs& row : table.tensors) states.push_back(f(row, words.data() + width * states.size()));
  return states;
}

// (previous, its code, average, its code, scalars, stream)
inline std::vector<CoherenceMemory> coherence_of(const pybind11::buffer& memory, const Table& table,
                                                 std::uint64_t seed) {
  return states_of(memory, table, 6, [&](const ScoreInputs& row, const std::uint64_t* word) {
    return CoherenceMemory{kept(word, row.numel, "previous"), kept(word + 2, row.numel, "average"), scalars_at(word[4]),
                           draws_of(seed, word[5])};
  });
}

// (previous, its code)
inline std::vector<CoherenceMemory> remembered_of(const pybind11::buffer& memory, const Table& table) {
  return states_of(memory, table, 2, [&](const ScoreInputs& row, const std::uint64_t* word) {
    return CoherenceMemory{.previous = kept(word, row.numel, "previous")};
  });
}

// (positions, their number, previous, scalars)
inline std::vector<SketchMemory> sketches_of(const pybind11::buffer& memory, const Table& table) {
  return states_of(memory, table, 4, [&](const ScoreInputs& row, const std::uint64_t* word) {
    const auto count = static_cast<std::int64_t>(word[1]);
    if (count > row.numel) throw ShapeError("positions: more than there are elements");
    return SketchMemory{address<const std::int64_t>(word[0], count, "positions"), count,
                        address<float>(word[2], count, "previous"), scalars_at(word[3])};
  });
}

// (snapshot, its code, scalars)
inline std::vector<SnapshotMemory> snapshots_of(const pybind11::buffer& memory, const Table& table) {
  return states_of(memory, table, 3, [&](const ScoreInputs& row, const std::uint64_t* word) {
    return SnapshotMemory{kept(word, row.numel, "snapshot"), scalars_at(word[2])};
  });
}

// (sums, their code, updates, stream), and a rate for each
inline std::vector<MovementMemory> movements_of(const pybind11::buffer& memory, const Table& table,
                                                const std::vector<float>& rates, std::uint64_t seed) {
  if (rates.size() != table.tensors.size()) throw ShapeError("rates: one is needed for each tensor");
  std::size_t next = 0;
  return states_of(memory, table, 4, [&](const ScoreInputs& row, const std::uint64_t* word) {
    return MovementMemory{kept(word, row.numel, "sums"), address<std::int64_t>(word[2], 1, "updates"), rates[next++],
                          draws_of(seed, word[3])};
  });
}

}  // namespace bittersweet::python
