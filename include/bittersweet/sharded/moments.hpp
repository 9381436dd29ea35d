// What a rank adds to the report beside its selections: shares of exp_avg_sq, and fingerprints of masks.
#pragma once

#include "bittersweet/flow.hpp"
#include "bittersweet/shard_map.hpp"

namespace bittersweet::flow {

struct SecondMoments {
  std::int64_t live = 0, under = 0, zero = 0;
};

// This rank's share in what report_second_moment() would count of the whole model: of the same elements, those that
// the rank counts for. `parts[t]`: where tensor t of the view lies; null: another rank counts for it.
template <RankEngine E>
SecondMoments count_second_moments(E& engine, const ScoreView& view, std::span<const ShardMap::Part* const> parts,
                                   const ShardMap& map, Workspace& workspace) {
  SecondMoments counts;
  if (!(info_of(view.scorer).reads & reads::exp_avg_sq) || view.size() == 0) return counts;
  const std::vector<ScoreInputs> states = second_moments_of(view.tensors);
  const ScoreView moments = make_view(states, Identity{});
  std::vector<std::vector<std::size_t>> local(map.tensors());
  for (std::size_t t = 0; t < parts.size(); ++t)
    if (parts[t] != nullptr) local[static_cast<std::size_t>(parts[t]->tensor)].push_back(t);
  constexpr std::int64_t most = second_moment_lines * LineSample::width;
  std::size_t count = 0;
  auto* const positions = workspace.nested().get<std::int64_t>(Workspace::first_arena, most);
  auto* const times = workspace.nested().get<std::uint8_t>(Workspace::first_arena + 1, most);
  const auto add = [&](std::int64_t position, std::int64_t again) {
    positions[count] = position;
    times[count++] = static_cast<std::uint8_t>(again);
  };
  if (map.total() <= most) {
    for (std::size_t t = 0; t < parts.size(); ++t)
      for (std::int64_t i = 0; parts[t] != nullptr && i < states[t].numel; ++i) add(moments.offset[t] + i, 1);
  } else {
    ScoreView whole{Identity{}, {}, {0}, false};  // of positions alone
    for (std::size_t t = 0; t < map.tensors(); ++t) whole.offset.push_back(map.position(t + 1));
    const LineSample plan{second_moment_lines, 0};
    std::pair<std::size_t, std::int64_t> line{}, next = line_at(whole, plan, 0);
    for (std::int64_t j = 0, again = 0; j < plan.lines; ++j) {
      line = next;
      ++again;
      if (j + 1 < plan.lines && (next = line_at(whole, plan, j + 1)) == line) continue;  // two may begin at one place
      const std::int64_t end = std::min(line.second + LineSample::width, map.numel(line.first));
      for (const std::size_t t : local[line.first])
        for (std::int64_t i = line.second; i < end; ++i)
          if (const std::int64_t at = map.local_index(*parts[t], i); at >= 0) add(moments.offset[t] + at, again);
      again = 0;
    }
    if (!std::is_sorted(positions, positions + count)) {  // a rank's own order of parts
      std::vector<std::pair<std::int64_t, std::uint8_t>> places;
      for (std::size_t i = 0; i < count; ++i) places.emplace_back(positions[i], times[i]);
      std::sort(places.begin(), places.end());
      count = 0;
      for (const auto& [position, again] : places) add(position, again);
    }
  }
  const float eps = eps_of(view.scorer);
  float* const values = workspace.get<float>(Workspace::sample, count);
  if (count > 0) engine.gather(moments, {positions, count}, values);
  for (std::size_t i = 0; i < count; ++i) {
    counts.live += std::isnan(values[i]) ? 0 : times[i];
    counts.under += values[i] < eps ? times[i] : 0;
    counts.zero += values[i] == 0.0f ? times[i] : 0;
  }
  return counts;
}

// Of a mask's bits in logical order, and of the part that they are of.
template <RankEngine E>
std::uint64_t fingerprint(E& engine, const ScoreInputs& tensor, std::uint64_t* mask_words, std::size_t part) {
  std::vector<std::uint64_t> copy, logical;
  const std::uint64_t* mask = engine.words(mask_words, bits::words(tensor.numel), copy);
  if (!tensor.order.row_major()) {
    logical.resize(static_cast<std::size_t>(bits::words(tensor.numel)));
    bits::to_logical(mask, tensor.numel, tensor.order, logical.data());
    mask = logical.data();
  }
  std::uint64_t hash = 0x9e3779b97f4a7c15u * (part + 1);
  for (std::int64_t word = 0; word < bits::words(tensor.numel); ++word) {
    hash = (hash ^ mask[word]) * 0xd6e8feb86659fd93u;
    hash ^= hash >> 32;
  }
  return hash;
}

}  // namespace bittersweet::flow
