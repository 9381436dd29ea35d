// kthvalue: the plain way. Writes every live score, then selects in place: n floats of memory. The oracle and the
// baseline.
#pragma once

#include <algorithm>
#include <cmath>

#include "bittersweet/engine/engine.hpp"
#include "bittersweet/select/nth.hpp"
#include "bittersweet/select/threshold.hpp"

namespace bittersweet {

struct KthValue {
  static constexpr std::string_view name = "kthvalue";
  static constexpr bool approximate = false;
};

template <Engine E>
Selection select_kth(const KthValue&, E& engine, const ScoreView& view, std::span<const Chunk> chunks,
                     std::int64_t rank, const SelectContext& context, Workspace& workspace) {
  const std::int64_t n = view.size();
  float* const scores = workspace.get<float>(Workspace::scores, static_cast<std::size_t>(n));
  std::vector<float*> outputs;
  for (std::size_t t = 0; t < view.tensors.size(); ++t) outputs.push_back(scores + (view.offset[t] - view.offset[0]));
  engine.write_scores(view, chunks, outputs);
  context.pass_done();

  Selection result{.passes = 1, .extra_bytes = n * std::int64_t{sizeof(float)}};
  float* end = scores;
  for (std::size_t t = 0; t < view.tensors.size(); ++t)
    for (std::int64_t i = 0; i < view.tensors[t].numel; ++i) {
      if (!is_live(view.tensors[t], i)) continue;
      if (std::isnan(outputs[t][i]))
        ++result.nan;
      else
        *end++ = outputs[t][i];
    }
  result.rank = std::min<std::int64_t>(rank, end - scores);
  if (result.rank <= 0) return result;
  put_nth({scores, end}, static_cast<std::size_t>(result.rank - 1));
  const float value = scores[result.rank - 1];
  result.value = value == 0.0f ? 0.0f : value;  // the two zeros are one value: +0
  context.pass_done();
  for (const float* s = scores; s != end; ++s) {
    result.below += *s < result.value;
    result.equal += *s == result.value;
  }
  return result;
}

}  // namespace bittersweet
