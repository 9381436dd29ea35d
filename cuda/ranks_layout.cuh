// Where a decision over ranks keeps what it has on the device.
#pragma once

#include "group_step.cuh"

namespace bittersweet::cuda {

// Of device memory: the step's own (bracket, groups), rows and pieces of the other verbs, what goes to and from the
// host, and a mask of a tensor whose memory is not row-major.
struct RanksLayout {
  static constexpr std::size_t staging_bytes = std::size_t{4} << 20;  // bins of the longest vector, four times
  std::size_t step, step_bytes, rows, pieces, staging, scratch, scratch_words, bytes;
};

inline RanksLayout ranks_layout(std::span<const ScoreInputs> tensors) {
  RanksLayout layout{};
  std::size_t at = 0;
  const auto place = [&](std::size_t bytes) {
    const std::size_t here = at;
    at += (bytes + alignment - 1) / alignment * alignment;
    return here;
  };
  layout.step_bytes = std::max(make_layout(tensors, true).bytes, make_group_layout(1).bytes);
  layout.step = place(layout.step_bytes);
  layout.rows = place(tensors.size() * sizeof(Row));
  layout.pieces = place(tensors.size() * sizeof(Piece));
  layout.staging = place(RanksLayout::staging_bytes);
  for (const ScoreInputs& tensor : tensors)
    if (!tensor.order.row_major())
      layout.scratch_words = std::max(layout.scratch_words, static_cast<std::size_t>(bits::words(tensor.numel)));
  layout.scratch = place(layout.scratch_words * sizeof(std::uint64_t));
  layout.bytes = at + alignment;  // the caller's address need not be a multiple
  return layout;
}

}  // namespace bittersweet::cuda
