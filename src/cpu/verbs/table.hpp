// All kernels of this unit, as the table that isa.cpp chooses from.
#pragma once

#include "cpu/kernels.hpp"
#include "cpu/verbs/adam.hpp"
#include "cpu/verbs/apply_mask.hpp"
#include "cpu/verbs/bracket.hpp"
#include "cpu/verbs/convert.hpp"
#include "cpu/verbs/count.hpp"
#include "cpu/verbs/group.hpp"
#include "cpu/verbs/histogram.hpp"
#include "cpu/verbs/lane_few.hpp"
#include "cpu/verbs/lane_halves.hpp"
#include "cpu/verbs/lane_ranks.hpp"
#include "cpu/verbs/moments.hpp"
#include "cpu/verbs/rounding.hpp"
#include "cpu/verbs/row_cut.hpp"
#include "cpu/verbs/row_listed.hpp"
#include "cpu/verbs/row_read.hpp"
#include "cpu/verbs/score.hpp"
#include "cpu/verbs/track.hpp"
#include "cpu/verbs/turn.hpp"
#include "cpu/verbs/write_mask.hpp"

namespace bittersweet {
namespace {

inline cpu::Kernels make_kernels(const char* name) {
  cpu::Kernels k{};
  k.name = name;
  k.lanes = lanes;
  k.contracts = &contracts;
  const auto fill = [&]<std::size_t I, std::size_t St>() {
    using S = std::variant_alternative_t<I, Scorer>;
    k.score[I][St] = &score_tile<S, St>;
    k.bracket[I][St] = &bracket_any<S, St>;
    k.histogram[I][St] = &histogram_tile<S, St>;
    k.moments[I][St] = &moments_of_blocks<S, St>;
    k.count_cuts[I][St] = &count_cuts<S, St>;
    k.read_rows[I][St] = &read_rows<S, St>;
    k.split_columns[I][St] = &split_columns<S, St>;
    k.drop_lowest_of_few[I][St] = &drop_lowest_of_few<S, St>;
    k.drop_lowest_of_four[I][St] = &drop_lowest_of_four<S, St>;
  };
  [&]<std::size_t... I>(std::index_sequence<I...>) {
    (fill.template operator()<I, cpu::as_f32>(), ...);
    (fill.template operator()<I, cpu::as_bf16>(), ...);
  }(std::make_index_sequence<cpu::scorer_count>{});
  k.from_f16 = &from_f16;
  k.from_bf16 = &from_bf16;
  k.uniform = &uniform_tile;
  k.sum_lanes = &sum_lanes;
  k.write_mask = &write_mask_tile;
  k.apply_mask = &apply_mask_tile;
  k.popcount = &popcount_words;
  k.rank_listed = &rank_listed;
  k.compare_listed = &compare_listed;
  k.prune_listed = &prune_listed;
  k.drop_lowest_of_row = &drop_lowest_of_row;
  k.bury = &bury;
  k.drop_lowest_of_groups = &drop_lowest_of_groups;
  k.turn_groups = &turn_groups;
  k.lower_halves = &lower_halves;
  k.turn_halves = &turn_halves;
  k.drop_lowest_of_turned = &drop_lowest_of_turned;
  k.drop_lowest_across = &drop_lowest_across;
  k.coherence = &coherence_block;
  k.retention = &against_update<false>;
  k.snapshot = &against_update<true>;
  k.movement = &movement_block;
  k.stochastic_round = &stochastic_round_chunk;
  const auto steps = [&]<class W, class S>(cpu::AdamArrays arrays, W, S) {
    auto& row = k.adam[static_cast<std::size_t>(arrays)];
    row[false] = &adam_chunk<false, W, S>;
    row[true] = &adam_chunk<true, W, S>;
  };
  steps(cpu::AdamArrays::f32, float{}, float{});
  steps(cpu::AdamArrays::bf16, std::uint16_t{}, std::uint16_t{});
  steps(cpu::AdamArrays::bf16_f32, std::uint16_t{}, float{});
  steps(cpu::AdamArrays::f16_f32, Half{}, float{});
  return k;
}

}  // namespace
}  // namespace bittersweet
