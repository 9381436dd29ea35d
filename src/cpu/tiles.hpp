// From tensors to tiles: pointers into the caller's memory where a scorer's inputs are all f32 or all bf16, else f32
// copies of one tile. The only place that knows mixtures of dtypes.
#pragma once

#include <cstring>

#include "bittersweet/rows.hpp"
#include "bittersweet/score/score_view.hpp"
#include "cpu/kernels.hpp"
#include "cpu/prefetch.hpp"

namespace bittersweet::cpu {

struct Stream {  // one array that the scorer reads
  const void* TileInput::* slot;
  TensorView array;
};

// The tiles of one tensor for one scorer. One per thread: it owns the copies.
class Tiles {
 public:
  Tiles(const Kernels& kernels, const ScoreView& view, std::size_t t)
      : kernels_(kernels), view_(view), t_(t), tensor_(view.tensors[t]), reads_(info_of(view.scorer).reads) {
    add(reads::weight, &TileInput::w, tensor_.weight);
    add(reads::exp_avg, &TileInput::m, tensor_.exp_avg);
    add(reads::exp_avg_sq, &TileInput::v, tensor_.exp_avg_sq);
    add(reads::grad, &TileInput::g, tensor_.grad);
    add(reads::scores, &TileInput::score, tensor_.scores);
    const bool made = reads_ & (reads::input_norm | reads::position);
    bool narrow = streams_ > 0 && !made;
    for (std::size_t s = 0; s < streams_; ++s) narrow &= stream_[s].array.dtype == DType::bf16;
    stored_ = narrow ? as_bf16 : as_f32;
    if (const auto* random = std::get_if<Random>(&view.scorer)) seed_ = random->seed;
    features_.input_stride = rows_in_memory(tensor_.geometry, tensor_.order).feature_stride;
    in_.bias_correction1 = tensor_.bias_correction1;
    in_.modifier = tensor_.modifier;
  }

  Stored stored() const noexcept { return stored_; }

  // Does at() point into the caller's memory? Then any number of elements can be asked for at once.
  bool in_place() const noexcept {
    bool direct = !(reads_ & (reads::input_norm | reads::position));
    for (std::size_t s = 0; s < streams_; ++s) direct &= stored_ == as_bf16 || stream_[s].array.dtype == DType::f32;
    return direct;
  }

  // Elements first .. first + count; count <= tile_size unless in_place(). Valid until the next call.
  const TileInput& at(std::int64_t first, std::int64_t count) {
    for (std::size_t s = 0; s < streams_; ++s) {
      const TensorView& array = stream_[s].array;
      if (array.dtype == DType::f32) {
        in_.*stream_[s].slot = static_cast<const float*>(array.data) + first;
        continue;
      }
      const auto* const narrow = static_cast<const std::uint16_t*>(array.data) + first;
      if (stored_ == as_bf16) {
        in_.*stream_[s].slot = narrow;
        continue;
      }
      (array.dtype == DType::bf16 ? kernels_.from_bf16 : kernels_.from_f16)(narrow, count, copy_[s]);
      in_.*stream_[s].slot = copy_[s];
      // A tile is about a page, which no hardware prefetcher sees beyond: the next comes while this is worked on.
      cpu::prefetch(narrow + count, static_cast<std::size_t>(count) * sizeof *narrow);
    }
    make(first, count);
    return in_;
  }

  // `width` neighbours from each of `firsts`, gathered; zeros stand for places beyond the tensor's end.
  const TileInput& at(const std::int64_t* firsts, std::int64_t runs, std::int64_t width) {
    for (std::size_t s = 0; s < streams_; ++s) {
      const TensorView& array = stream_[s].array;
      const std::size_t size = size_of(array.dtype);
      const bool direct = array.dtype == DType::f32 || stored_ == as_bf16;
      char* copy = reinterpret_cast<char*>(copy_[s]);
      if (width == 1 && array.dtype == DType::f32) {  // single elements are loads, not copies
        for (std::int64_t r = 0; r < runs; ++r) copy_[s][r] = static_cast<const float*>(array.data)[firsts[r]];
        in_.*stream_[s].slot = copy_[s];
        continue;
      }
      for (std::int64_t r = 0; r < runs; ++r, copy += static_cast<std::size_t>(width) * size_of(element())) {
        const std::int64_t n = std::min(width, tensor_.numel - firsts[r]);
        if (n < width) std::memset(copy, 0, static_cast<std::size_t>(width) * size_of(element()));
        const char* const from = static_cast<const char*>(array.data) + static_cast<std::size_t>(firsts[r]) * size;
        if (direct)
          std::memcpy(copy, from, static_cast<std::size_t>(n) * size);
        else
          (array.dtype == DType::bf16 ? kernels_.from_bf16 : kernels_.from_f16)(
              reinterpret_cast<const std::uint16_t*>(from), n, reinterpret_cast<float*>(copy));
      }
      in_.*stream_[s].slot = copy_[s];
    }
    if (reads_ & (reads::input_norm | reads::position)) {
      float* const copy = copy_[max_streams - 1];
      for (std::int64_t r = 0; r < runs; ++r)
        for (std::int64_t c = 0; c < width; ++c)
          copy[r * width + c] = firsts[r] + c < tensor_.numel ? made(tensor_.order.logical_of(firsts[r] + c)) : 0.0f;
      in_.*(made_slot()) = copy;
    }
    return in_;
  }

  // Asks the memory for `width` elements that a later call will read, as far as the second cache.
  void prefetch(std::int64_t first, std::int64_t width) const {
    for (std::size_t s = 0; s < streams_; ++s) {
      const std::size_t size = size_of(stream_[s].array.dtype);
      const char* const at = static_cast<const char*>(stream_[s].array.data) + static_cast<std::size_t>(first) * size;
      cpu::prefetch(at, static_cast<std::size_t>(width) * size);
    }
  }

  // The same, for those who ask themselves.
  ReadNext next(std::int64_t first, std::int64_t count) const {
    ReadNext next{.arrays = streams_, .left = count / ReadNext::elements};
    for (std::size_t s = 0; s < streams_; ++s) {
      const std::size_t size = size_of(stream_[s].array.dtype);
      next.at[s] = static_cast<const char*>(stream_[s].array.data) + static_cast<std::size_t>(first) * size;
      next.bytes[s] = static_cast<std::size_t>(ReadNext::elements) * size;
    }
    return next;
  }

  void score(const TileInput& in, std::int64_t count, float* out) const {
    kernels_.score[view_.scorer.index()][stored_](view_.scorer, in, count, out);
  }

 private:
  static constexpr std::size_t max_streams = ReadNext::most;

  DType element() const noexcept { return stored_ == as_bf16 ? DType::bf16 : DType::f32; }

  void add(std::uint32_t role, const void* TileInput::* slot, const TensorView& array) {
    if (reads_ & role) stream_[streams_++] = {slot, array};
  }

  const void* TileInput::* made_slot() const {
    return reads_ & reads::input_norm ? &TileInput::norm : &TileInput::uniform;
  }

  // What is made for an element, by its logical index.
  float made(std::int64_t index) const {
    if (reads_ & reads::input_norm)
      return static_cast<const float*>(tensor_.input_norm.data)[tensor_.geometry.feature_of(index)];
    return uniform_at(seed_, Purpose::random_score, static_cast<std::uint64_t>(origin_of(view_, t_) + index));
  }

  void make(std::int64_t first, std::int64_t count) {
    if (!(reads_ & (reads::input_norm | reads::position))) return;
    float* const copy = copy_[max_streams - 1];
    const bool position = reads_ & reads::position;
    if (!tensor_.order.row_major() && (position || features_.input_stride == 0)) {
      LogicalWalk walk(tensor_.order, first);
      for (std::int64_t i = 0; i < count; ++i) copy[i] = made(walk.next());
    } else if (position) {
      kernels_.uniform(seed_, static_cast<std::uint64_t>(origin_of(view_, t_) + first), count, copy);
    } else {
      const Geometry& g = features_;
      const auto* const norm = static_cast<const float*>(tensor_.input_norm.data);
      std::int64_t input = g.feature_of(first), left = g.input_stride - first % g.input_stride;
      std::int64_t end = input - input % g.inputs + g.inputs;  // of the block's features
      if (g.input_stride == 1 && input + count <= end) {
        in_.norm = norm + input;
        return;
      }
      if (count <= left) {
        std::fill_n(copy, count, norm[input]);
        in_.norm = copy;
        return;
      }
      for (std::int64_t i = 0, n = 0; i < count && g.input_stride == 1; i += n) {
        n = std::min(count - i, end - input);
        std::copy_n(norm + input, n, copy + i);
        if (g.blocks > 1) end = g.feature_of(first + i + n) + g.inputs;
        input = end - g.inputs;
      }
      for (std::int64_t i = 0; i < count && g.input_stride > 1; left = g.input_stride) {
        const float value = norm[input];
        for (const std::int64_t run = std::min(count, i + left); i < run; ++i) copy[i] = value;
        if (++input < end) continue;
        if (g.blocks > 1) end = g.feature_of(first + i) + g.inputs;
        input = end - g.inputs;
      }
    }
    in_.*(made_slot()) = copy;
  }

  const Kernels& kernels_;
  const ScoreView& view_;
  std::size_t t_;
  const ScoreInputs& tensor_;
  std::uint32_t reads_;
  Geometry features_ = tensor_.geometry;  // for its input_stride in memory alone
  Stream stream_[max_streams];
  std::size_t streams_ = 0;
  Stored stored_ = as_f32;
  std::uint64_t seed_ = 0;
  TileInput in_;
  alignas(64) float copy_[max_streams][tile_size];
};

}  // namespace bittersweet::cpu
