// The reference engine: every verb as the plainest loop that is right. It needs no library to link, is the oracle of
// the tests, and is the place to read first.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "bittersweet/engine/engine.hpp"
#include "bittersweet/engine/host_memory.hpp"
#include "bittersweet/mask/rows.hpp"
#include "bittersweet/radix_key.hpp"

namespace bittersweet {

class ReferenceEngine : public HostMemory {
 public:
  void write_scores(const ScoreView& view, std::span<const Chunk>, std::span<float* const> outputs) {
    visit(view, [&](std::size_t t, auto score) {
      for (std::int64_t i = 0; i < view.tensors[t].numel; ++i) outputs[t][i] = score(i);
    });
  }

  void sample(const ScoreView& view, const LineSample& plan, float* out) {
    for (std::int64_t line = 0; line < plan.lines; ++line) {
      const auto [t, first] = line_at(view, plan, line);
      for (std::int64_t c = 0; c < LineSample::width; ++c) *out++ = live_score(view, t, first + c);
    }
  }

  void gather(const ScoreView& view, std::span<const std::int64_t> positions, float* out) {
    for (const std::int64_t position : positions) {
      const std::size_t t = tensor_at(view, position);
      *out++ = live_score(view, t, view.tensors[t].order.memory_of(position - view.offset[t]));
    }
  }

  BracketResult bracket(const ScoreView& view, std::span<const Chunk> chunks, const Bracket& bracket, MaskTable masks,
                        std::int64_t capacity, Workspace& workspace) {
    BracketResult result;
    result.chunk.resize(chunks.size());
    result.candidates.resize(chunks.size());
    auto* scores = workspace.get<float>(Workspace::first_arena, static_cast<std::size_t>(capacity));
    auto* offsets = workspace.get<std::uint16_t>(Workspace::first_arena + 1, static_cast<std::size_t>(capacity));
    std::int64_t stored = 0;
    for (std::size_t c = 0; c < chunks.size(); ++c) {
      const Chunk& chunk = chunks[c];
      BracketCounts& counts = result.chunk[c];
      Candidates& candidates = result.candidates[c];
      candidates = {scores + stored, offsets + stored, 0};
      std::uint64_t* const mask = masks.empty() ? nullptr : masks[chunk.tensor];
      if (mask) clear_words(mask, chunk);
      for (std::int64_t i = 0; i < chunk.count; ++i) {
        const std::int64_t index = chunk.first + i;
        if (!is_live(view.tensors[chunk.tensor], index)) continue;
        const float s = score_at(view, chunk.tensor, index);
        if (std::isnan(s)) {
          ++counts.nan;
        } else if (s < bracket.low) {
          ++counts.below;
        } else if (s == bracket.low) {
          ++counts.equal_low;
        } else if (s < bracket.high) {
          ++counts.inside;
          if (stored < capacity) {
            scores[stored] = s;
            offsets[stored++] = static_cast<std::uint16_t>(i);
            ++candidates.count;
          } else {
            result.overflow = true;
          }
        } else if (s == bracket.high) {
          ++counts.equal_high;
        } else {
          ++counts.above;
        }
        if (mask && !(s <= bracket.low)) bits::set(mask, index);
      }
      result.total += counts;
    }
    result.collected = {{scores, static_cast<std::size_t>(stored)}};
    result.bytes = stored * std::int64_t{sizeof(float) + sizeof(std::uint16_t)};
    return result;
  }

  void histogram(const ScoreView& view, std::span<const Chunk>, const Digit& digit, std::span<std::int64_t> bins,
                 Workspace&) {
    std::fill(bins.begin(), bins.end(), 0);
    visit(view, [&](std::size_t t, auto score) {
      for (std::int64_t i = 0; i < view.tensors[t].numel; ++i) {
        if (!is_live(view.tensors[t], i)) continue;
        const std::uint32_t key = key_of(score(i));
        if (digit.matches(key)) ++bins[digit.bin(key)];
      }
    });
  }

  void tally(std::span<const Chunk> chunks, std::span<const Candidates> candidates, std::span<const std::int64_t> units,
             const KeyRange& range, std::span<std::int64_t> bins) {
    std::fill(bins.begin(), bins.end(), 0);
    for (std::size_t c = 0; c < chunks.size(); ++c) {
      const std::int64_t unit = units[chunks[c].tensor];
      for (std::uint32_t i = 0; unit >= 0 && i < candidates[c].count; ++i)
        if (const std::uint32_t key = key_of(candidates[c].scores[i]); range.holds(key))
          ++bins[static_cast<std::size_t>(range.bin(key, unit))];
    }
  }

  void count_runs(const ScoreView& view, std::size_t t, float value, const RunRange& range,
                  std::span<std::int64_t> bins) {
    std::fill(bins.begin(), bins.end(), 0);
    const ScoreInputs& tensor = view.tensors[t];
    for (std::int64_t i = 0; i < tensor.numel; ++i) {
      if (!is_live(tensor, i) || score_at(view, t, i) != value) continue;
      const std::int64_t run = range.map.run_of(tensor.order.logical_of(i)) - range.first;
      if (run >= 0 && run < range.runs) ++bins[static_cast<std::size_t>(run / range.width)];
    }
  }

  Moments moments(const ScoreView& view, std::span<const Chunk> chunks) {
    std::vector<Moments> blocks;
    for (const Chunk& chunk : chunks)
      for (std::int64_t first = 0; first < chunk.count; first += Moments::block) {
        Moments block;
        std::array<double, Moments::lanes> sum{}, squares{};
        for (std::int64_t i = first; i < std::min<std::int64_t>(first + Moments::block, chunk.count); ++i) {
          if (!is_live(view.tensors[chunk.tensor], chunk.first + i)) continue;
          const double s = score_at(view, chunk.tensor, chunk.first + i);
          ++block.total;
          block.nan += std::isnan(s);
          if (!std::isfinite(s)) continue;
          ++block.finite;
          sum[static_cast<std::size_t>(i % Moments::lanes)] += s;
          squares[static_cast<std::size_t>(i % Moments::lanes)] += s * s;
        }
        block.sum = fold_lanes(sum);
        block.sum_of_squares = fold_lanes(squares);
        blocks.push_back(block);
      }
    return fold_blocks(blocks);
  }

  void count(const ScoreView& view, std::span<const Chunk>, std::span<const float> thresholds,
             std::span<CountsAt> counts) {
    std::fill(counts.begin(), counts.end(), CountsAt{});
    visit(view, [&](std::size_t t, auto score) {
      for (std::int64_t i = 0; i < view.tensors[t].numel; ++i) {
        if (!is_live(view.tensors[t], i)) continue;
        const float s = score(i);
        for (std::size_t j = 0; j < thresholds.size(); ++j) {
          counts[j].below += s < thresholds[j];
          counts[j].equal += s == thresholds[j];
        }
      }
    });
  }

  std::int64_t write_mask(const ScoreView& view, std::span<const Chunk> chunks, std::span<const ChunkQuota> quotas,
                          float threshold, MaskTable masks) {
    std::int64_t nan = 0;
    for (const ChunkQuota& quota : quotas) {
      const Chunk& chunk = chunks[quota.chunk];
      std::uint64_t* const mask = masks[chunk.tensor];
      clear_words(mask, chunk);
      std::int64_t ties = quota.ties;
      for (std::int64_t index = chunk.first; index < chunk.first + chunk.count; ++index) {
        if (!is_live(view.tensors[chunk.tensor], index)) continue;
        const float s = score_at(view, chunk.tensor, index);
        nan += std::isnan(s);
        if (s < threshold || (s == threshold && ties-- > 0)) continue;
        bits::set(mask, index);
      }
    }
    return nan;
  }

  void settle(std::span<const Chunk> chunks, std::span<const Candidates> candidates, float threshold,
              std::span<const std::int64_t> ties, MaskTable masks) {
    for (std::size_t c = 0; c < chunks.size(); ++c) {
      std::int64_t left = ties[c];
      for (std::uint32_t i = 0; i < candidates[c].count; ++i)
        if (const float s = candidates[c].scores[i]; s < threshold || (s == threshold && left-- > 0))
          bits::clear(masks[chunks[c].tensor], chunks[c].first + candidates[c].offsets[i]);
    }
  }

  std::int64_t group_mask(const ScoreView& view, std::size_t t, const GroupRule& rule, MaskTable masks) {
    const ScoreInputs& tensor = view.tensors[t];
    const Geometry& g = tensor.geometry;
    std::fill_n(masks[t], bits::words(tensor.numel), 0);
    const std::int64_t size = rule.group > 0 ? rule.group : std::max<std::int64_t>(g.inputs, 1);
    std::int64_t nan = 0;
    std::vector<std::pair<std::uint32_t, std::int64_t>> group;  // (key, index), in logical order
    for (std::int64_t row = 0; row < g.rows; ++row)
      for (std::int64_t begin = 0; begin < g.inputs; begin += size)
        for (std::int64_t lane = 0; lane < (rule.group > 0 ? g.inner : 1); ++lane) {
          group.clear();
          const std::int64_t end = std::min(begin + size, g.inputs);
          const bool whole = end - begin == size;  // an incomplete last group is kept dense, unscored
          std::int64_t dead = 0, numbers = 0;
          for (std::int64_t input = begin; input < end; ++input)
            for (std::int64_t inner = rule.group > 0 ? lane : 0; inner < (rule.group > 0 ? lane + 1 : g.inner);
                 ++inner) {
              const std::int64_t index = tensor.order.memory_of(g.first_of(row) + input * g.input_stride + inner);
              if (!is_live(tensor, index)) {
                ++dead;
                continue;
              }
              const std::uint32_t key = whole ? key_of(score_at(view, t, index)) : key_of_zero;
              numbers += key != key_of_nan;
              nan += key == key_of_nan;
              group.emplace_back(key, index);
            }
          std::stable_sort(group.begin(), group.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
          const std::int64_t share = whole ? rule.base + (row < rule.extra) : 0;
          const std::int64_t k = std::clamp<std::int64_t>(share - dead, 0, numbers);
          for (std::size_t j = static_cast<std::size_t>(k); j < group.size(); ++j) bits::set(masks[t], group[j].second);
        }
    return nan;
  }

  void apply_mask(std::span<const ScoreInputs> tensors, std::span<const Chunk>,
                  std::span<const std::uint64_t* const> mask, std::uint32_t which) {
    for_dead(tensors, mask, which, [](std::size_t, void* data, DType type, std::int64_t i) {
      if (type == DType::f32)
        static_cast<float*>(data)[i] = 0.0f;
      else
        static_cast<std::uint16_t*>(data)[i] = 0;
    });
  }

  void verify_mask(std::span<const ScoreInputs> tensors, std::span<const Chunk>,
                   std::span<const std::uint64_t* const> mask, std::uint32_t which,
                   std::span<std::int64_t> per_tensor) {
    std::fill(per_tensor.begin(), per_tensor.end(), 0);
    for_dead(tensors, mask, which, [&](std::size_t t, const void* data, DType type, std::int64_t i) {
      per_tensor[t] += load_as_float(data, type, i) != 0.0f;
    });
  }

  void popcount(std::span<const ScoreInputs> tensors, std::span<const std::uint64_t* const> mask,
                std::span<std::int64_t> per_tensor) {
    for (std::size_t t = 0; t < tensors.size(); ++t) {
      per_tensor[t] = 0;
      for (std::int64_t word = 0; word < bits::words(tensors[t].numel); ++word)
        per_tensor[t] += bits::count(bits::live(mask[t], tensors[t].numel, word));
    }
  }

  std::int64_t survey(std::span<const ScoreInputs> tensors, std::span<const Chunk>,
                      std::span<const std::uint64_t* const> masks, std::span<std::int64_t> per_tensor) {
    popcount(tensors, masks, per_tensor);
    std::int64_t emptied = 0;
    for (std::size_t t = 0; t < tensors.size(); ++t) emptied += emptied_rows(tensors[t], masks[t]);
    return emptied;
  }

  std::int64_t settle_and_survey(std::span<const ScoreInputs> tensors, std::span<const Chunk> chunks,
                                 const Unsettled& unsettled, MaskTable masks, std::span<std::int64_t> per_tensor) {
    if (!unsettled.candidates.empty()) settle(chunks, unsettled.candidates, unsettled.threshold, unsettled.ties, masks);
    const std::vector<const std::uint64_t*> settled(masks.begin(), masks.end());
    return survey(tensors, chunks, settled, per_tensor);
  }

 private:
  static float score_at(const ScoreView& view, std::size_t t, std::int64_t index) {
    return std::visit([&](const auto& s) { return score_element(s, view, t, index); }, view.scorer);
  }

  static float live_score(const ScoreView& view, std::size_t t, std::int64_t index) {
    const bool there = index < view.tensors[t].numel && is_live(view.tensors[t], index);
    return there ? score_at(view, t, index) : std::numeric_limits<float>::quiet_NaN();
  }

  // f(t, score) for every tensor, where score(i) is the score of its element i.
  template <class F>
  static void visit(const ScoreView& view, F&& f) {
    std::visit(
        [&](const auto& scorer) {
          for (std::size_t t = 0; t < view.tensors.size(); ++t)
            f(t, [&, t](std::int64_t i) { return score_element(scorer, view, t, i); });
        },
        view.scorer);
  }

  static void clear_words(std::uint64_t* mask, const Chunk& chunk) {
    std::fill_n(mask + chunk.first / bits::per_word, bits::words(chunk.count), 0);
  }

  template <class F>
  static void for_dead(std::span<const ScoreInputs> tensors, std::span<const std::uint64_t* const> mask,
                       std::uint32_t which, F&& f) {
    for (std::size_t t = 0; t < tensors.size(); ++t)
      for (const std::uint32_t role : roles::all) {
        const TensorView& array = roles::of(tensors[t], role);
        if (!(which & role) || array.data == nullptr || mask[t] == nullptr) continue;
        for (std::int64_t i = 0; i < tensors[t].numel; ++i)
          if (!bits::get(mask[t], i)) f(t, array.data, array.dtype, i);
      }
  }
};

static_assert(Engine<ReferenceEngine>);

}  // namespace bittersweet
